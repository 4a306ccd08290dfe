"""Turns walked against a real store: load a state, store the next, as `transition` does."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from time import perf_counter
from typing import TypeVar

import psycopg
import trio

from inversion.config import Limits
from inversion.gate import Walk
from inversion.messages import Address, Answer, Change, MessageOut, State, Stored, Turn
from inversion.state.store import PostgresStore
from inversion.watch import Watch
from plain import a_request, a_turn

T = TypeVar("T")


@asynccontextmanager
async def running(store: PostgresStore) -> AsyncIterator[PostgresStore]:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(store._watch.run)
        with trio.fail_after(10):
            await nursery.start(store.run)
        yield store
        nursery.cancel_scope.cancel()


def a_store(url: str, **limits: int) -> PostgresStore:
    return PostgresStore(url, Limits(**limits), Watch())  # type: ignore[arg-type]


async def walk(step: Callable[[], Awaitable[T]], timeout_s: float = 10.0) -> T:
    """Drive one awaitable from gate to gate, as a mailbox does."""
    outcome: list[T] = []
    errors: list[Exception | None] = []
    done = trio.Event()

    async def run() -> None:
        outcome.append(await step())

    def ended(error: Exception | None) -> None:
        errors.append(error)
        done.set()

    Walk[object, object](run(), ended).start()
    with trio.fail_after(timeout_s):
        await done.wait()
    if errors[0] is not None:
        raise errors[0]
    return outcome[0]


def turn_of(key: str | None, messages: int = 1) -> Turn:
    return a_turn(*(a_request(key, n=n) for n in range(messages)))


def putting(value: bytes, messages: int = 1) -> MessageOut:
    return MessageOut([Answer(b"1", changed=True)] * messages, Change.PUT, value)


DELETING = MessageOut([Answer(b"1", changed=True)], Change.DELETE)
KEEPING = MessageOut([Answer(b"1")], Change.KEEP)


async def load(store: PostgresStore, key: str | None) -> State:
    return await walk(lambda: store.load_state(turn_of(key)))


async def commit(store: PostgresStore, key: str, state: State, out: MessageOut) -> Stored:
    turn = turn_of(key, len(out.answers))
    return await walk(lambda: store.store_state(turn, state, out))


async def put(store: PostgresStore, key: str, value: bytes) -> Stored:
    """A whole turn: what was loaded, then the new value."""
    return await commit(store, key, await load(store, key), putting(value))


async def read(store: PostgresStore, key: str) -> State:
    return await walk(lambda: store.read_state(Address("counter", key), perf_counter() + 10))


def sql(url: str, text: str) -> list[tuple[object, ...]]:
    """What the database itself says."""
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(text)  # type: ignore[arg-type]
        return cursor.fetchall() if cursor.description else []
