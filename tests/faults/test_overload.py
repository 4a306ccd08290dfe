"""Overload: which queue refuses first, and in which words; the others do not feel it (docs/overload.md)."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from time import perf_counter

import attrs
import orjson
import pytest
import trio
from front_door import Answer, Client, EndOfAnswers, post

from fix_matrix import Row
from fix_node import PYTHON, RUNTIMES, LiveNode, StartNode

PATIENT = Path(__file__).parent.parent / "functions" / "patient.py"


def functions(limits: str) -> str:
    return f"""
[functions.patient]
command = ["{PYTHON}", "{PATIENT}"]
processes = {{ max = 1 }}

[functions.counter]
command = ["{PYTHON}", "{RUNTIMES}/python/counter.py"]

[limits]
{limits}
"""


async def connect(node: LiveNode) -> Client:
    host, _, port = node.started.url.removeprefix("http://").rpartition(":")
    return Client(await trio.open_tcp_stream(host, int(port)))


async def metric(node: LiveNode, name: str) -> float:
    answer = await node.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", admin=True)
    found = re.search(rf"(?m)^inversion_{re.escape(name)} (\S+)$", answer.body.decode())
    assert found is not None, name
    return float(found[1])


def refusal(answer: Answer) -> str:
    """What a 429 says, all of it in order."""
    body = orjson.loads(answer.body)
    assert (answer.status, body["code"], body["outcome"]) == (429, "queue_full", "not_applied")
    assert answer.fields["retry-after"] == "1"
    return str(body["detail"])


@attrs.define
class Held:
    """Calls of `patient` that wait until `let_go`."""

    node: LiveNode
    file: Path
    nursery: trio.Nursery
    answers: list[Answer] = attrs.field(factory=list)

    def call(self, key: str, weight: int = 0) -> None:
        self.nursery.start_soon(self._call, key, weight)

    async def _call(self, key: str, weight: int) -> None:
        self.answers.append(await self.node.call(f"patient/{key}", f"{self.file}:{'x' * weight}"))

    async def until_live(self, count: int) -> None:
        with trio.fail_after(20):
            while await metric(self.node, "live_requests") != count:  # noqa: ASYNC110 (asked by HTTP)
                await trio.sleep(0.01)

    def let_go(self) -> None:
        self.file.touch()


@asynccontextmanager
async def held_calls(node: LiveNode) -> AsyncIterator[Held]:
    file = node.folder / "go"
    file.unlink(missing_ok=True)
    async with trio.open_nursery() as nursery:
        held = Held(node, file, nursery)
        try:
            yield held
        finally:
            held.let_go()
    assert [answer.status for answer in held.answers] == [200] * len(held.answers)


#: The queue, the limits, the keys of the calls that fill it, the call it refuses, and the call it does not.
QUEUES = [
    # One waits in its turn and does not count, three in the queue.
    ("entity", "queue = { entity = 3 }", ["hot"] * 4, "patient/hot", ["counter/k/add", "counter/hot/add"]),
    ("function", "queue = { function = 4 }", ["a", "b", "c", "d"], "patient/e", ["counter/k/add"]),
    ("node", "queue = { node = 4 }", ["a", "b", "c", "c"], "counter/k/add", []),
]


@pytest.mark.fault("C7", "a queue filled to its limit")
@pytest.mark.parametrize(("queue", "limits", "keys", "refused", "well"), QUEUES)
async def test_a_full_queue_refuses_in_words_and_heals_by_itself(
    start_node: StartNode, row: Row, queue: str, limits: str, keys: list[str], refused: str, well: list[str]
) -> None:
    async with start_node(functions(limits)) as node:
        for _ in range(row.times):
            before = await metric(node, f'queue_refusals_total{{queue="{queue}"}}')
            async with held_calls(node) as held:
                for number, key in enumerate(keys):
                    held.call(key)
                    await held.until_live(number + 1)
                body = 1 if refused.startswith("counter") else ""
                said = refusal(await node.call(refused, body))
                assert f"limits.queue.{queue}" in said
                assert await metric(node, f'queue_refusals_total{{queue="{queue}"}}') == before + 1
                row.fired(said)
                for path in well:
                    assert (await node.call(path, 1)).status == 200
                held.let_go()
                await held.until_live(0)
                assert (await node.call(refused, body)).status == 200
                row.recovered()


@pytest.mark.fault("C3", "a connection more than limits.connections")
async def test_a_connection_too_many_is_told_so_and_the_next_is_served(
    start_node: StartNode, row: Row
) -> None:
    async with start_node(functions("connections = 3")) as node:
        clients = [await connect(node) for _ in range(3)]
        for client in clients:
            await client.send(post(b"/v1/call/counter/k/add", b"1"))
            assert (await client.answer()).status == 200
        one_more = await connect(node)
        said = refusal(await one_more.answer())
        row.fired(said)
        assert "limits.connections" in said
        with pytest.raises(EndOfAnswers):
            await one_more.answer()
        await one_more.aclose()
        assert await metric(node, 'queue_refusals_total{queue="connections"}') == 1
        await clients[0].aclose()
        with trio.fail_after(10):
            while await metric(node, "connections_open") > 3:  # noqa: ASYNC110 (its own admin one is among them)
                await trio.sleep(0.01)
        assert (await node.call("counter/k/add", 1)).status == 200
        row.recovered()
        for client in clients[1:]:
            await client.aclose()


@pytest.mark.fault("C7", "bodies that fill limits.in_flight")
async def test_a_node_full_of_bodies_takes_small_requests_and_refuses_large_ones(
    start_node: StartNode, row: Row
) -> None:
    async with start_node(functions('in_flight = "1MiB"')) as node, held_calls(node) as held:
        for number in range(4):
            held.call(f"k{number}", weight=250 << 10)
            await held.until_live(number + 1)
        assert await metric(node, "held_request_bytes") > 1_000_000
        said = refusal(await node.call("counter/k/add", b" " * (100 << 10) + b"1"))
        row.fired(said)
        assert "limits.in_flight" in said
        assert await metric(node, 'queue_refusals_total{queue="in_flight"}') == 1
        assert (await node.call("counter/k/add", 1)).status == 200
        held.let_go()
        await held.until_live(0)
        assert await metric(node, "held_request_bytes") == 0
        assert (await node.call("counter/k/add", b" " * (100 << 10) + b"1")).status == 200
        row.recovered()


@pytest.mark.fault("C7", "calls of 30 entities of 100 KiB each, where the states may hold 1 MiB")
async def test_calls_that_wait_for_a_process_hold_a_bounded_amount_of_state(
    start_node: StartNode, row: Row
) -> None:
    async with start_node(functions('in_flight = "1MiB"')) as node:
        for number in range(30):
            assert (await node.call(f"patient/k{number}/grow", 100 << 10)).status == 200
        async with held_calls(node) as held:
            held.call("first")
            await held.until_live(1)
            refused: list[str] = []
            accepted: list[Answer] = []

            async def call(number: int) -> None:
                answer = await node.call(f"patient/k{number}", str(held.file))
                if answer.status == 429:
                    refused.append(refusal(answer))
                else:
                    accepted.append(answer)

            async with trio.open_nursery() as nursery:
                for number in range(30):
                    nursery.start_soon(call, number)
                with trio.fail_after(20):
                    while len(refused) < 20:  # noqa: ASYNC110 (it grows)
                        await trio.sleep(0.01)
                await held.until_live(11)
                row.fired(f"{len(refused)} refused: {refused[0]}")
                assert "limits.in_flight" in refused[0]
                assert await metric(node, 'queue_refusals_total{queue="states"}') == 20
                assert (await node.call("counter/k/add", 1)).status == 200
                held.let_go()
            assert [answer.status for answer in accepted] == [200] * 10
            for number in range(30):
                assert (await node.call(f"patient/k{number}", str(held.file))).status == 200
            row.recovered()


OVERLOADED = f"""
[functions.sleeper]
command = ["{PYTHON}", "-c", '''
import json, sys, time
for line in sys.stdin:
    frame = json.loads(line)
    time.sleep(0.02)
    print(json.dumps({{"id": frame["id"], "response": 1}}), flush=True)
''']
hello = "none"
processes = {{ max = 1 }}

[functions.counter]
command = ["{PYTHON}", "{RUNTIMES}/python/counter.py"]

[limits]
queue = {{ function = 20 }}
"""


@pytest.mark.fault("C7", "5 times more calls of one function than it can do")
async def test_another_function_answers_every_call_while_one_is_overloaded(
    start_node: StartNode, row: Row
) -> None:
    async with start_node(OVERLOADED) as node:
        statuses: list[int] = []

        async def call_again_and_again(number: int) -> None:
            client = await connect(node)
            async with client.stream:
                while True:
                    await client.send(post(b"/v1/call/sleeper/k%d" % number, b"1"))
                    answer = await client.answer()
                    if answer.status != 200:
                        refusal(answer)
                    statuses.append(answer.status)
                    await trio.sleep(0.1 if answer.status == 429 else 0)

        before_s = await p99_of_a_well_function_s(node)
        async with trio.open_nursery() as nursery:
            for number in range(45):  # 20 are served at 50 a second in all; 25 come back ten times a second
                nursery.start_soon(call_again_and_again, number)
            with trio.fail_after(20):
                while statuses.count(429) < 25:  # noqa: ASYNC110 (it grows)
                    await trio.sleep(0.01)
            refused = statuses.count(429)
            during_s = await p99_of_a_well_function_s(node)
            assert statuses.count(429) > refused  # it was overloaded all the while
            row.fired(
                f"{statuses.count(429)} of {len(statuses)} refused; the other's p99 {during_s * 1e3:.1f} ms,"
                f" before {before_s * 1e3:.1f} ms"
            )
            nursery.cancel_scope.cancel()
        with trio.fail_after(20):
            while await metric(node, "live_requests"):  # noqa: ASYNC110 (asked by HTTP)
                await trio.sleep(0.01)
        assert (await node.call("sleeper/k", 1)).status == 200
        row.recovered()


async def p99_of_a_well_function_s(node: LiveNode, count: int = 200) -> float:
    """Every call of it is answered, in this time."""
    client = await connect(node)
    took_s = []
    async with client.stream:
        for number in range(count):
            begun_s = perf_counter()
            await client.send(post(b"/v1/call/counter/k%d/add" % (number % 7), b"1"))
            assert (await client.answer()).status == 200
            took_s.append(perf_counter() - begun_s)
    return sorted(took_s)[int(count * 0.99) - 1]
