"""Row C7: many large requests and answers at once. What a node holds for its clients has a limit."""

from __future__ import annotations

import socket
from collections.abc import Callable

import pytest
import trio
from front_door import BODY_BYTES, CallsDouble, Client, Door, Seen, open_door, post
from http_cases import CALL

from fix_matrix import Row
from inversion.http.service import UNCOUNTED_BYTES, Held
from inversion.messages import Response

LARGE = 1 << 20
ROOM = 4 * LARGE


class Gate:
    """Keeps every call whose body is large until it is opened."""

    def __init__(self) -> None:
        self.opened = trio.Event()

    async def __call__(self, seen: Seen) -> Response:
        if len(seen.body) > BODY_BYTES:
            await self.opened.wait()
        return Response(body=b"1")


def large(*, chunked: bool) -> bytes:
    if not chunked:
        return post(CALL, b"x" * LARGE)
    chunk = b"8000\r\n" + b"x" * 0x8000 + b"\r\n"
    head = b"POST %b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" % CALL
    return head + chunk * (LARGE // 0x8000) + b"0\r\n\r\n"


async def bombard(door: Door, raw: bytes, statuses: list[int]) -> None:
    client = await door.connect()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(client.send, raw)
        answer = await client.answer()
    statuses.append(answer.status)
    if answer.status != 200:
        assert answer.fields["retry-after"] == "1"
        assert answer.fields["connection"] == "close"
        assert b"limits.in_flight" in answer.body


async def until(condition: Callable[[], bool]) -> None:
    while not condition():  # noqa: ASYNC110 (counters)
        await trio.sleep(0.005)


@pytest.mark.fault("C7", "40 bodies of 1 MiB at once where 4 MiB may be held")
@pytest.mark.parametrize("chunked", [False, True])
async def test_bodies_over_the_limit_are_refused_and_small_requests_go_on(row: Row, chunked: bool) -> None:
    gate, held, statuses = Gate(), Held(limit_bytes=ROOM), list[int]()
    async with open_door(CallsDouble(gate), held=held, body_bytes=LARGE, within_s=30) as door:
        most = 0
        async with trio.open_nursery() as nursery:
            for _ in range(40):
                nursery.start_soon(bombard, door, large(chunked=chunked), statuses)
            while len(statuses) < 36:
                most = max(most, held.request_bytes)
                await trio.lowlevel.checkpoint()
            assert set(statuses) == {429}
            row.fired(f"{held.requests_refused} of 40 refused at {most} bytes")
            assert await door.is_well()
            gate.opened.set()
        assert ROOM - LARGE < most <= ROOM
        assert sorted(statuses)[:1] == [200]
        await until(lambda: held.request_bytes == 0)
        row.recovered()
        await bombard(door, large(chunked=chunked), statuses)
        assert statuses[-1] == 200
        assert door.server.counters.framing_refused == 0


async def test_a_body_larger_than_all_the_room_passes_when_it_is_alone() -> None:
    gate, held, statuses = Gate(), Held(limit_bytes=LARGE // 4), list[int]()
    gate.opened.set()
    async with open_door(CallsDouble(gate), held=held, body_bytes=LARGE) as door:
        await bombard(door, large(chunked=False), statuses)
    assert statuses == [200]


async def test_what_is_pipelined_behind_a_request_counts_too() -> None:
    gate, held = Gate(), Held(limit_bytes=ROOM)
    async with open_door(CallsDouble(gate), held=held, body_bytes=LARGE) as door:
        client = await door.connect()
        await client.send(post(CALL, b"x" * 2_000) + post(CALL, b"1") * 1_000)
        await until(lambda: held.request_bytes > UNCOUNTED_BYTES)
        gate.opened.set()
        assert [(await client.answer()).status for _ in range(1_001)] == [200] * 1_001
        assert held.request_bytes == 0


@pytest.mark.fault("C7", "64 MiB of requests behind one that runs")
async def test_nothing_is_read_from_a_connection_while_its_call_runs(row: Row) -> None:
    gate, held = Gate(), Held(limit_bytes=ROOM)
    flood = post(CALL, b"2") * ((64 << 20) // len(post(CALL, b"2")))
    sent = 0
    async with open_door(CallsDouble(gate), held=held, body_bytes=LARGE, within_s=30) as door:
        client = await door.connect()
        await client.send(post(CALL, b"x" * 2_000))
        await until(lambda: len(door.calls.seen) == 1)
        while sent < len(flood):
            with trio.move_on_after(0.5) as patience:
                sent += await client.stream.socket.send(flood[sent : sent + (1 << 20)])
            if patience.cancelled_caught:
                break
        row.fired(f"the client is stuck after {sent >> 10} KiB")
        assert sent < len(flood) / 2  # the kernel has it, both ends of the connection together
        assert held.request_bytes <= 128 << 10
        assert len(door.calls.seen) == 1
        assert await door.is_well()
        gate.opened.set()
        assert (await client.answer()).status == 200
        row.recovered()
        await client.aclose()


async def test_a_client_that_goes_in_its_body_gives_its_room_back() -> None:
    held = Held(limit_bytes=ROOM)
    async with open_door(held=held, body_bytes=LARGE) as door:
        client = await door.connect()
        await client.send(large(chunked=False)[:-1])
        await until(lambda: held.request_bytes > LARGE // 2)
        await client.aclose()
        await until(lambda: held.request_bytes == 0)


async def answer_much(seen: Seen) -> Response:
    return Response(body=b"x" * (32 << 20) if seen.key == "k" else b"1")


@pytest.mark.fault("C7", "6 answers of 32 MiB that nobody takes, where 100 MiB may be held")
async def test_of_too_many_answers_that_nobody_takes_the_oldest_are_given_up(row: Row) -> None:
    held = Held(limit_bytes=100 << 20)
    async with open_door(CallsDouble(answer_much), held=held, within_s=30) as door:
        clients: list[Client] = []
        for number in range(6):
            client = await door.connect()
            clients.append(client)
            client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
            await client.send(post(CALL, b"1"))
            expected = number + 1
            await until(lambda expected=expected: door.calls.finished == expected)
            await trio.sleep(0.01)
            assert held.answer_bytes <= held.limit_bytes
        await until(lambda: held.answers_dropped >= 2)
        row.fired(f"{held.answers_dropped} dropped, {held.answer_bytes >> 20} MiB held")
        assert await door.is_well()
        with pytest.raises(trio.BrokenResourceError):
            await clients[0].answer()
        last = 0
        while last < 32 << 20:
            last += len(await clients[-1].stream.receive_some(1 << 20))
        row.recovered()
        for client in clients:
            await client.aclose()
        await until(lambda: held.answer_bytes == 0)
