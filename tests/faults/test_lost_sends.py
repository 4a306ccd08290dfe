"""M4: messages from outside whose reply is lost, from the database or to the client; a killed node.

A send that was answered 202 is delivered exactly once, and the same send again, by its Idempotency-Key, is
the same message. A forwarded call whose node is killed gets its final answer when it is asked for again.
"""

from __future__ import annotations

import signal
from collections.abc import Callable
from contextlib import AbstractContextManager, suppress
from functools import partial
from pathlib import Path
from typing import Any

import orjson
import psycopg
import pytest
import trio
from front_door import Answer, EndOfAnswers
from wire_proxy import BIND, EXECUTE, SYNC, Trick, wire_proxy

from fix_command import RunningCommand
from fix_matrix import Row
from fix_node import PYTHON, LiveNode, StartNode
from inversion.state import store as store_module
from inversion.state.dialing import Settings

#: What a killed node has leased waits for 10 s, and the machine may be slow.
PATIENCE_S = 90.0
OBEDIENT = Path(__file__).parent.parent / "functions" / "obedient.py"
TOML = "".join(
    f"""
[functions.{name}]
command = ["{PYTHON}", "{OBEDIENT}"]
processes = {{ min = 1, max = 2 }}
"""
    for name in ("a", "b")
)
SENDS = 20

Served = Callable[[str], AbstractContextManager[RunningCommand]]


def sql(url: str, text: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        return connection.execute(text).fetchall()  # type: ignore[arg-type]


def a_send(path: str, message: object, key: str) -> bytes:
    body = orjson.dumps(message)
    return (
        f"POST /v1/send/{path} HTTP/1.1\r\nHost: x\r\nIdempotency-Key: {key}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    ).encode() + body


def seen(url: str, key: str) -> list[int]:
    """The numbers that an entity of `a` has seen, in its order, by the database."""
    found = sql(url, f"SELECT state FROM inversion.entity WHERE function = 'a' AND key = '{key}'")
    return orjson.loads(found[0][0]).get("seen", []) if found and found[0][0] else []


async def until(holds: Callable[[], bool]) -> None:
    """Wait until the database says so."""
    with trio.fail_after(PATIENCE_S):
        while not await trio.to_thread.run_sync(holds):  # noqa: ASYNC110 (a database sets no Event)
            await trio.sleep(0.05)


def nothing_waits(url: str) -> bool:
    return sql(url, "SELECT count(*) FROM inversion.message") == [(0,)]


@pytest.mark.parametrize(
    ("trick", "at"),
    [
        pytest.param(Trick.CUT, BIND, marks=pytest.mark.fault("M4", "a send cut on its way to the database")),
        pytest.param(
            Trick.CUT, SYNC, marks=pytest.mark.fault("M4", "a send cut between its Execute and its Sync")
        ),
        pytest.param(
            Trick.CUT_REPLY,
            SYNC,
            marks=pytest.mark.fault("M4", "a send stored, the database's reply cut off"),
        ),
        pytest.param(
            Trick.RESET_REPLY, SYNC, marks=pytest.mark.fault("M4", "a send stored, RST instead of the reply")
        ),
        pytest.param(
            Trick.SWALLOW, EXECUTE, marks=pytest.mark.fault("M4", "half-open before a send's Execute")
        ),
        pytest.param(
            Trick.SWALLOW_REPLY, SYNC, marks=pytest.mark.fault("M4", "half-open after a send was stored")
        ),
    ],
)
@pytest.mark.timeout(60 * 10)
async def test_a_send_whose_statement_was_cut_is_delivered_exactly_once(
    start_node: StartNode,
    database_url: str,
    row: Row,
    monkeypatch: pytest.MonkeyPatch,
    trick: Trick,
    at: bytes,
) -> None:
    monkeypatch.setattr(store_module, "Settings", partial(Settings, reply_timeout_s=1.0))
    async with wire_proxy(database_url) as proxy, start_node(TOML, database_url=proxy.url) as node:
        for number in range(row.times):
            key = f"k{number}"
            assert (await node.send(a_send(f"a/{key}", {"add": 1, "as": 0}, "first"))).status == 202
            await until(lambda key=key: seen(database_url, key) == [0])  # type: ignore[misc]
            # Messages are committed too: only what is of no turn is a send.
            spoil = proxy.spoil_next(trick, at=at, entity="the-send")
            answers: list[Answer] = []
            message = {"add": 1, "as": 1, "word": "the-send"}

            async def ask(
                answers: list[Answer] = answers, key: str = key, message: dict[str, object] = message
            ) -> None:
                answers.append(await node.send(a_send(f"a/{key}", message, "one")))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(ask)
                with trio.fail_after(20):
                    await spoil.happened.wait()
                row.fired(f"{trick.value} ({at.decode()})")
            row.recovered()
            await ask()  # the same again
            assert [answer.status for answer in answers] == [202, 202]
            assert answers[0].fields["location"] == answers[1].fields["location"]
            await until(lambda key=key: seen(database_url, key) == [0, 1] and nothing_waits(database_url))  # type: ignore[misc]


@pytest.mark.fault("M4", "the database falls silent while a send is stored, for longer than its deadline")
@pytest.mark.timeout(60 * 10)
async def test_a_send_whose_outcome_is_not_known_at_its_deadline_is_told_so(
    start_node: StartNode, database_url: str, row: Row, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_module, "Settings", partial(Settings, reply_timeout_s=0.5))
    few = TOML + "[limits]\nqueue = { entity = 3, function = 3, node = 100 }\n"
    async with wire_proxy(database_url) as proxy, start_node(few, database_url=proxy.url) as node:
        for number in range(row.times):
            key = f"k{number}"
            request = a_send(f"a/{key}", {"add": 1, "as": 0, "word": "the-send"}, "one")
            spoil = proxy.spoil_next(Trick.SWALLOW_REPLY, at=SYNC, entity="the-send", then_shut=True)
            hurried = request.replace(b"Host: x", b"Host: x\r\nInversion-Timeout: 2s", 1)
            answer = await node.send(hurried)
            assert spoil.happened.is_set()
            told = orjson.loads(answer.body)
            assert (answer.status, told["code"], told["outcome"]) == (504, "deadline", "unknown")
            row.fired("the send is stored, and its node does not hear of it")
            # Of these nothing has been sent when their deadline passes, and so many do not even wait.
            refused: list[tuple[int, str, str]] = []

            async def refuse(
                n: int, hurried: bytes = hurried, refused: list[tuple[int, str, str]] = refused
            ) -> None:
                answer = await node.send(hurried.replace(b"Key: one", b"Key: %d" % n, 1))
                told = orjson.loads(answer.body)
                refused.append((answer.status, told["code"], told["outcome"]))

            async with trio.open_nursery() as nursery:
                for n in range(5):
                    nursery.start_soon(refuse, n)
            waited, full = (503, "database_unavailable", "not_applied"), (429, "queue_full", "not_applied")
            assert sorted(refused) == [*[full] * 2, *[waited] * 3]
            proxy.wake()
            assert (await node.send(request)).status == 202
            row.recovered()
            await until(lambda: nothing_waits(database_url))
            assert seen(database_url, key) == [0]


@pytest.mark.fault("M4", "the client of a keyed send goes away before its reply, and sends again", times=5)
@pytest.mark.timeout(60 * 10)
async def test_a_send_whose_client_lost_the_reply_is_the_same_message_again(
    start_node: StartNode, database_url: str, row: Row
) -> None:
    async with start_node(TOML) as node:
        for number in range(row.times):
            key = f"k{number}"
            request = a_send(f"a/{key}", {"add": 1, "as": 0}, "one")
            await send_and_go(node, request)
            kept = (
                "SELECT convert_from(body, 'UTF8') FROM inversion.request"
                f" WHERE key = '{key}' AND id = 'k:one'"
            )
            await until(lambda kept=kept: len(sql(database_url, kept)) == 1)  # type: ignore[misc]
            row.fired(f"the send {sql(database_url, kept)[0][0]} is stored, its client is gone")
            again = [await node.send(request) for _ in range(2)]
            row.recovered()
            id_ = sql(database_url, kept)[0][0]
            assert [answer.status for answer in again] == [202, 202]
            assert {answer.fields["location"] for answer in again} == {f"/v1/output/a/{key}/{id_}"}
            await until(lambda: nothing_waits(database_url))
            assert seen(database_url, key) == [0]


async def send_and_go(node: LiveNode, request: bytes) -> None:
    host, _, port = node.started.url.removeprefix("http://").rpartition(":")
    async with await trio.open_tcp_stream(host, int(port)) as stream:
        await stream.send_all(request)


@pytest.mark.fault("M4", "kill -9 of the node right after the 202 of the last of twenty sends")
@pytest.mark.timeout(60 * 10)
async def test_what_was_answered_202_is_delivered_by_the_restarted_node(
    served: Served, database_url: str, row: Row
) -> None:
    for number in range(row.times):
        key = f"k{number}"
        requests = [a_send(f"a/{key}", {"add": 1, "as": n}, str(n)) for n in range(SENDS)]
        places = []
        with served(TOML) as node:
            slow = a_send(f"a/{key}", {"pause": 4}, "slow")
            assert (await node._exchange(node.url, slow)).status == 202  # the others stand behind it
            for request in requests:
                answer = await node._exchange(node.url, request)
                assert answer.status == 202
                places.append(answer.fields["location"])
            kill(node)
        left = sql(database_url, f"SELECT count(*) FROM inversion.message WHERE key = '{key}'")[0][0]
        assert left > 0
        row.fired(f"{left} messages left by the killed node")
        with served(TOML) as node:
            for request, place in zip(requests, places, strict=True):  # whoever lost a reply asks again
                assert (await node._exchange(node.url, request)).fields["location"] == place
            await until(lambda: nothing_waits(database_url))
            row.recovered()
            assert sorted(seen(database_url, key)) == list(range(SENDS))
            for place in places:
                answer = await node._exchange(node.url, f"GET {place} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                assert answer.status == 200


@pytest.mark.fault("M4", "kill -9 of the node that has forwarded a keyed call and waits for the answer")
@pytest.mark.timeout(60 * 10)
async def test_a_forwarded_call_is_answered_when_it_is_asked_again_after_a_kill(
    served: Served, database_url: str, row: Row
) -> None:
    for number in range(row.times):
        key = f"k{number}"
        then = {"pause": 2, "add": 5}
        asked = {"do": [{"forward": {"function": "b", "key": key, "handler": "call", "message": then}}]}

        async def ask(node: RunningCommand, key: str = key, asked: object = asked) -> Answer:
            return await node.call(f"a/{key}", asked, b"Idempotency-Key: one", b"Inversion-Timeout: 8s")

        with served(TOML) as node:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(quietly, ask, node)
                forwarded = f"SELECT version FROM inversion.entity WHERE function = 'a' AND key = '{key}'"
                await until(lambda forwarded=forwarded: sql(database_url, forwarded) == [(1,)])  # type: ignore[misc]
                kill(node)
        row.fired("the turn that forwards is committed, its node is gone")
        with served(TOML) as node:
            with trio.fail_after(PATIENCE_S):
                while (answer := await ask(node)).status != 200:
                    assert (answer.status, answer.fields["inversion-outcome"]) == (504, "applied")
            row.recovered()
            assert answer.body == b"5"
            assert answer.fields["inversion-replayed"] == "true"
            booked = (
                f"SELECT state::json->>'count' FROM inversion.entity WHERE function = 'b' AND key = '{key}'"
            )
            assert sql(database_url, booked) == [("5",)]


async def quietly(ask: Callable[[RunningCommand], Any], node: RunningCommand) -> None:
    with suppress(EndOfAnswers, OSError, trio.BrokenResourceError, trio.TooSlowError):
        await ask(node)


def kill(node: RunningCommand) -> None:
    node.process.send_signal(signal.SIGKILL)
    node.process.wait(10)
