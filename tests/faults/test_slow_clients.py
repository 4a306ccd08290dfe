"""Row C2: slow heads, bodies and readers are given up, however cleverly they keep a deadline from passing."""

from __future__ import annotations

import os
import socket
import struct
from time import perf_counter

import pytest
import trio
from front_door import CallsDouble, Client, Door, Seen, get, open_door, post
from http_cases import CALL

from fix_matrix import Row
from inversion.http.service import Deadlines, Held
from inversion.messages import Response

#: Long enough that no test waits for them: what ends a client must be the deadline that its test sets.
PATIENT = {
    "head_s": 600.0,
    "body_s": 600.0,
    "body_begin_s": 600.0,
    "idle_s": 600.0,
    "send_s": 600.0,
    "linger_s": 0.1,
}
LARGE = 32 << 20  #: more than the kernel keeps for a client


def patient(**changes: float) -> Deadlines:
    return Deadlines(**{**PATIENT, **changes})  # type: ignore[arg-type]


def open_files() -> int:
    return len(os.listdir("/proc/self/fd"))


async def until_nobody_is_left(door: Door) -> None:
    while door.server.counters.connections_open:  # noqa: ASYNC110 (a counter)
        await trio.sleep(0.01)


async def drip(client: Client, data: bytes, pieces: int, every_s: float) -> None:
    """Send it in pieces until the server has had enough."""
    size = -(-len(data) // pieces)
    for begin in range(0, len(data), size):
        try:
            await client.stream.send_all(data[begin : begin + size])
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return
        await trio.sleep(every_s)


@pytest.mark.fault("C2", "a head that comes a byte at a time")
async def test_a_head_is_due_however_often_a_byte_of_it_comes(row: Row) -> None:
    async with open_door(deadlines=patient(head_s=0.3)) as door, trio.open_nursery() as nursery:
        client = await door.connect()
        nursery.start_soon(drip, client, post(CALL, b"1", b"X: " + b"y" * 9_000), 9_000, 0.01)
        answer = await client.answer()
        row.fired(f"{answer.status} while bytes still came")
        assert (answer.status, answer.fields["connection"]) == (408, "close")
        assert b"the head of the request" in answer.body
        await until_nobody_is_left(door)
        row.recovered()
        assert door.server.counters.timeouts == 1
        nursery.cancel_scope.cancel()


@pytest.mark.fault("C2", "a body below the least rate")
@pytest.mark.parametrize("chunked", [False, True])
async def test_a_body_below_the_least_rate_is_given_up_long_before_its_end(row: Row, chunked: bool) -> None:
    head = b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: 900\r\n\r\n" % CALL
    body = b"x" * 900
    if chunked:
        head = b"POST %b HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n" % CALL
        body = b"1\r\nx\r\n" * 150
    async with (
        open_door(deadlines=patient(body_begin_s=0.3, body_bytes_per_s=2_000)) as door,
        trio.open_nursery() as nursery,
    ):
        client = await door.connect()
        await client.send(head)
        nursery.start_soon(drip, client, body, len(body), 0.01)  # at most 100 bytes a second
        answer = await client.answer()
        row.fired(f"{answer.status} while bytes still came")
        assert answer.status == 408
        assert b"the body of the request" in answer.body
        await until_nobody_is_left(door)
        row.recovered()
        assert door.calls.seen == []
        nursery.cancel_scope.cancel()


async def test_a_body_above_the_least_rate_has_time() -> None:
    async with open_door(deadlines=patient(body_begin_s=0.1, body_bytes_per_s=100)) as door:
        client = await door.connect()
        await client.send(b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: 900\r\n\r\n" % CALL)
        begun_s = perf_counter()
        await drip(client, b"x" * 900, 30, 0.02)
        assert (await client.answer()).status == 200
        assert perf_counter() - begun_s > 0.3  # three times what one that does not come at all would have had


@pytest.mark.fault("C2", "a body at a good rate that never ends")
async def test_a_body_has_a_time_in_which_all_of_it_is_due(row: Row) -> None:
    async with (
        open_door(deadlines=patient(body_s=0.3, body_bytes_per_s=1), body_bytes=1 << 20) as door,
        trio.open_nursery() as nursery,
    ):
        client = await door.connect()
        await client.send(b"POST %b HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n" % CALL)
        nursery.start_soon(drip, client, b"x" * 900_000, 900, 0.01)
        answer = await client.answer()
        row.fired(f"{answer.status} while bytes still came")
        assert answer.status == 408
        await until_nobody_is_left(door)
        row.recovered()
        nursery.cancel_scope.cancel()


async def much(seen: Seen) -> Response:
    size = {"k": LARGE, "some": 8 << 20}.get(seen.key or "", 1)
    return Response(body=b"x" * size)


async def read_slowly(client: Client, got: list[int], every_s: float) -> None:
    """A little at a time, so that the server's window opens again and again."""
    while True:
        try:
            data = await client.stream.receive_some(64 << 10)
        except trio.BrokenResourceError:
            got.append(-1)
            return
        if not data:
            return
        got.append(len(data))
        await trio.sleep(every_s)


@pytest.mark.fault("C2", "a reader that takes a little now and then")
async def test_an_answer_has_a_time_in_which_all_of_it_must_be_taken(row: Row) -> None:
    # The server may send more every 0.2 s or so, and would do it for 5 s at this pace.
    deadlines = patient(send_s=2.0, send_bytes_per_s=LARGE * 10)
    got: list[int] = []
    async with open_door(CallsDouble(much), deadlines=deadlines, within_s=30) as door:
        client = await door.connect()
        client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        await client.send(post(CALL, b"1"))
        with trio.fail_after(20):
            await read_slowly(client, got, 0.01)
        row.fired(f"reset after {len(got) - 1} reads")
        assert got[-1] == -1
        assert len(got) > 5
        assert sum(got) < LARGE
        await until_nobody_is_left(door)
        row.recovered()
        assert door.server.counters.timeouts == 1
        assert await door.is_well()


async def test_a_reader_that_keeps_up_gets_all_of_a_large_answer() -> None:
    async with open_door(CallsDouble(much), deadlines=patient(send_s=5.0)) as door:
        client = await door.connect()
        client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 << 10)
        await client.send(post(b"/v1/call/cart/some", b"1"))
        assert len((await client.answer()).body) == 8 << 20


SLOW = 500


@pytest.mark.fault("C2", f"{SLOW} slow sockets: heads, bodies, readers")
async def test_others_hardly_notice_many_slow_clients_and_all_their_files_come_back(row: Row) -> None:
    async def answering(seen: Seen) -> Response:
        return Response(body=b"x" * (1 << 20) if seen.key == "k" else b"1")

    deadlines = patient(head_s=4.0, body_begin_s=4.0, send_s=4.0, send_bytes_per_s=1 << 30)
    held = Held(limit_bytes=1 << 30)
    async with open_door(
        CallsDouble(answering), deadlines=deadlines, held=held, connections=1_000, within_s=50
    ) as door:
        files_before = open_files()
        busy = await door.connect()
        before_s = await p99_s(busy, 300)
        slow = [await door.connect() for _ in range(SLOW)]
        for number, client in enumerate(slow):
            match number % 3:
                case 0:
                    await client.send(b"POST /")
                case 1:
                    await client.send(post(CALL, b"12")[:-1])
                case _:
                    client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 10)
                    await client.send(post(CALL, b"1") * 6)
        while door.server.counters.connections_open <= SLOW:  # noqa: ASYNC110 (a counter)
            await trio.sleep(0.01)
        during_s = [await p99_s(busy, 300)]
        row.fired(
            f"{door.server.counters.connections_open - 1} open, {held.answer_bytes >> 20} MiB not taken"
        )
        while during_s[-1] > 1.5 * before_s + 0.002 and len(during_s) < 3:
            during_s.append(await p99_s(busy, 300))  # something else on this machine
        assert during_s[-1] <= 1.5 * before_s + 0.002, (before_s, during_s)
        with trio.fail_after(40):
            while door.server.counters.connections_open > 1:  # noqa: ASYNC110 (a counter)
                await trio.sleep(0.05)
        row.recovered()
        assert door.server.counters.timeouts == SLOW
        assert (held.request_bytes, held.answer_bytes) == (0, 0)
        for client in slow:
            await client.aclose()
        busy.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await busy.aclose()
        await until_nobody_is_left(door)
        assert open_files() <= files_before


async def p99_s(client: Client, count: int) -> float:
    took_s = []
    for _ in range(count):
        begun_s = perf_counter()
        await client.send(get(b"/errors/bad_json"))
        await client.answer()
        took_s.append(perf_counter() - begun_s)
    took_s.sort()
    return took_s[int(count * 0.99) - 1]
