"""Messages and nodes of their own processes: killed, several at once, drained. Nothing is lost or doubled."""

from __future__ import annotations

import signal
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from typing import Any

import orjson
import psycopg
import pytest
import trio
from psycopg.sql import SQL, Identifier

from fix_command import RunningCommand, StartCommand, for_serve

#: A lease of 10 s may have to run out, on a busy machine.
PATIENCE_S = 60.0
MESSAGES = 60

Serve = Callable[..., AbstractContextManager[RunningCommand]]


def sends(first: int, count: int, key: str = "y") -> dict[str, object]:
    """What makes an obedient function send so many numbered messages."""
    return {
        "do": [
            {"send": {"function": "b", "key": key, "handler": "call", "message": {"add": 1, "as": n}}}
            for n in range(first, first + count)
        ]
    }


@pytest.fixture
def serve(short_folder: Path, start_command: StartCommand, obedient_toml: str) -> Serve:
    """`serve(url)`: a node of its own process and folder."""

    def start(url: str) -> AbstractContextManager[RunningCommand]:
        folder = short_folder / uuid.uuid4().hex[:8]
        folder.mkdir()
        (folder / "inversion.toml").write_text(for_serve(obedient_toml) + "\n[http]\nread_state = true\n")
        return start_command("serve", "--config", folder, "--database-url", url)

    return start


def sql(url: str, text: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(text).fetchall()  # type: ignore[arg-type]


def seen(url: str, key: str = "y") -> list[int]:
    """The numbers that `b` has seen, in its order, by the database."""
    found = sql(url, f"SELECT state FROM inversion.entity WHERE function = 'b' AND key = '{key}'")
    return orjson.loads(found[0][0]).get("seen", []) if found else []


async def until_seen(url: str, wanted: list[int], key: str = "y") -> None:
    found: list[int] = []
    with trio.move_on_after(PATIENCE_S):
        while found != wanted:
            await trio.sleep(0.05)
            found = await trio.to_thread.run_sync(seen, url, key)
    assert found == wanted
    assert sql(url, "SELECT count(*) FROM inversion.message") == [(0,)]


async def test_what_a_killed_node_held_is_delivered_once_and_in_order_by_another(
    serve: Serve, database_url: str
) -> None:
    """It is killed while it delivers: what it held leased is taken over when the leases are over."""
    with serve(database_url) as node:
        slow = {"do": [{"send": {"function": "b", "key": "y", "handler": "call", "message": {"pause": 3}}}]}
        assert (await node.call("a/x", slow)).status == 200
        for first in range(0, MESSAGES, 20):
            assert (await node.call("a/x", sends(first, 20))).status == 200
        node.process.send_signal(signal.SIGKILL)
        node.process.wait(10)
    assert sql(database_url, "SELECT count(*) FROM inversion.message")[0][0] > 0
    with serve(database_url):
        await until_seen(database_url, list(range(MESSAGES)))


async def test_two_nodes_that_want_the_same_entities_deliver_each_message_once_and_in_order(
    serve: Serve, database_url: str
) -> None:
    with ExitStack() as stack:
        nodes = [stack.enter_context(serve(database_url)) for _ in range(2)]

        async def drive(node: RunningCommand, sender: str) -> None:
            for n in range(0, MESSAGES, 2):
                answer = await node.call(f"a/{sender}", sends(n, 2, key=sender))
                assert answer.status == 200
                await node.call(f"b/{sender}", {})  # a caller wants the entity too
                both = [{"send": {"function": "b", "key": "both", "handler": "call", "message": {"add": 1}}}]
                await node.call(f"a/{sender}", {"do": both})

        async with trio.open_nursery() as nursery:
            for node in nodes:
                for sender in ("p", "q"):
                    if node is nodes[0] or sender == "q":
                        nursery.start_soon(drive, node, f"{sender}{nodes.index(node)}")
        for key in ("p0", "q0", "q1"):
            await until_seen(database_url, list(range(MESSAGES)), key)
        total = 3 * MESSAGES // 2
        with trio.fail_after(PATIENCE_S):
            found: list[tuple[Any, ...]] = []
            while found != [(str(total),)]:
                await trio.sleep(0.05)
                found = sql(
                    database_url,
                    "SELECT state::json->>'count' FROM inversion.entity WHERE key = 'both'",
                )


async def test_a_node_that_drains_gives_back_what_it_has_not_begun(serve: Serve, database_url: str) -> None:
    """Another node need not wait for leases."""
    with serve(database_url) as node:
        slow = {"do": [{"send": {"function": "b", "key": "y", "handler": "call", "message": {"pause": 2}}}]}
        assert (await node.call("a/x", slow)).status == 200
        assert (await node.call("a/x", sends(0, 20))).status == 200
        node.process.send_signal(signal.SIGTERM)
        node.process.wait(30)
        assert node.process.returncode == 0
    assert sql(database_url, "SELECT count(*) FROM inversion.message WHERE owner IS NOT NULL") == [(0,)]
    assert sql(database_url, "SELECT count(*) FROM inversion.message")[0][0] > 0
    with serve(database_url):
        await until_seen(database_url, list(range(20)))


async def test_a_node_that_drains_gives_back_what_waits_for_a_process(
    serve: Serve, database_url: str
) -> None:
    """More than it could do in the time it has."""
    with serve(database_url) as node:
        slow = [
            {
                "send": {
                    "function": "b",
                    "key": f"k{n}",
                    "handler": "call",
                    "message": {"pause": 0.5, "add": 1},
                }
            }
            for n in range(300)
        ]
        assert (await node.call("a/x", {"do": slow})).status == 200
        node.process.send_signal(signal.SIGTERM)
        await trio.to_thread.run_sync(node.process.wait, 60)
        assert node.process.returncode == 0  # all that it had accepted was done, or given back
    assert sql(database_url, "SELECT count(*) FROM inversion.message WHERE owner IS NOT NULL") == [(0,)]
    assert sql(database_url, "SELECT count(*) FROM inversion.message")[0][0] > 200


async def test_entities_that_send_to_each_other_on_two_nodes_never_deadlock(
    serve: Serve, database_url: str
) -> None:
    """Rows of both kinds, in both directions, locked by gathered statements of four connections.

    A statement's lock_timeout is shorter than the server's deadlock_timeout, which would hide a deadlock.
    (Where the tests may not change that there are still the sums.)
    """
    keys, rounds = tuple("klmnopqr"), 14
    with psycopg.connect(database_url, autocommit=True) as connection:
        name = connection.info.dbname
        with suppress(psycopg.errors.InsufficientPrivilege):
            connection.execute(SQL("ALTER DATABASE {} SET deadlock_timeout = '5ms'").format(Identifier(name)))
    with ExitStack() as stack:
        nodes = [stack.enter_context(serve(database_url)) for _ in range(2)]

        async def drive(node: RunningCommand, key: str) -> None:
            sends = [
                {"send": {"function": "a", "key": other, "handler": "call", "message": {"add": 1}}}
                for other in keys
                if other != key
            ]
            for n in range(rounds):
                timer = {
                    "function": "a",
                    "key": keys[n % len(keys)],
                    "handler": "call",
                    "message": {"add": 0},
                }
                bell = {"send": {**timer, "delay": "1ms", "name": f"bell{n % 2}"}}
                assert (await node.call(f"a/{key}", {"do": [*sends, bell]})).status == 200

        async with trio.open_nursery() as nursery:
            for node in nodes:
                for key in keys:
                    nursery.start_soon(drive, node, key)
        done = [(key, str(2 * (len(keys) - 1) * rounds)) for key in keys]
        counts: list[tuple[Any, ...]] = []
        with trio.move_on_after(PATIENCE_S):
            while counts != done:
                await trio.sleep(0.05)
                counts = sql(
                    database_url, "SELECT key, state::json->>'count' FROM inversion.entity ORDER BY key"
                )
        assert counts == done
        with trio.fail_after(PATIENCE_S):
            while sql(database_url, "SELECT count(*) FROM inversion.timer") != [(0,)]:  # noqa: ASYNC110
                await trio.sleep(0.05)
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    assert sql(database_url, deadlocks) == [(0,)]
