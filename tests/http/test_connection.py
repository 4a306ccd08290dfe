from __future__ import annotations

import pytest
import trio
import trio.testing
from front_door import BODY_BYTES, CallsDouble, EndOfAnswers, Seen, get, open_door, post

from inversion.http.framing import MAX_FIELDS, MAX_HEAD_BYTES, MAX_TARGET_BYTES
from inversion.http.service import Deadlines
from inversion.messages import Response

CALL = b"/v1/call/cart/k"
HURRIED = Deadlines(head_s=0.05, body_s=0.05, idle_s=0.05, send_s=0.05, linger_s=0.05)


async def test_a_call_over_a_real_socket_is_answered() -> None:
    async with open_door() as door:
        (answer,) = await door.exchange(post(b"/v1/call/cart/c-17/add", b'{"sku": "a1"}'))
    assert answer.status == 200
    assert answer.body == b'{"sku": "a1"}'
    assert answer.fields["etag"] == '"7"'
    assert answer.fields["inversion-id"] == "id-1"
    assert answer.fields["inversion-outcome"] == "applied"
    assert answer.fields["content-type"] == "application/json"
    assert answer.fields["date"].endswith("GMT")
    assert door.calls.seen == [Seen("cart", "c-17", "add", b'{"sku": "a1"}', "", None, None)]


async def test_requests_follow_each_other_on_one_connection() -> None:
    async with open_door() as door:
        client = await door.connect()
        for number in range(3):
            await client.send(post(CALL, b"%d" % number))
            assert (await client.answer()).body == b"%d" % number
        await client.send(get(b"/v1/state/cart/k"))
        assert (await client.answer()).status == 404
    assert door.server.counters.connections_total == 1


async def test_pipelined_requests_that_are_refused_let_others_have_their_turn() -> None:
    async with open_door() as door:
        greedy = await door.connect()
        await greedy.send(get(b"/nowhere") * 500)
        assert await door.is_well()
        assert door.server.counters.requests_by_class[4] < 500  # it has not had all of its own before
        statuses = [(await greedy.answer()).status for _ in range(500)]
    assert statuses == [400] * 500


async def test_pipelined_requests_are_answered_in_order() -> None:
    async with open_door() as door:
        raw = b"".join(post(CALL, b"%d" % number) for number in range(50))
        answers = await door.exchange(raw)
    assert [answer.body for answer in answers] == [b"%d" % number for number in range(50)]


async def test_the_next_request_does_not_begin_while_one_runs() -> None:
    gate = trio.Event()

    async def wait(seen: Seen) -> Response:
        if seen.key == "k" and seen.body == b"1":
            await gate.wait()
        return Response(body=seen.body)

    async with open_door(CallsDouble(wait)) as door:
        client = await door.connect()
        await client.send(post(CALL, b"1") + post(CALL, b"2"))
        assert await door.is_well()
        await trio.testing.wait_all_tasks_blocked()
        assert [seen.body for seen in door.calls.seen] == [b"1"]
        gate.set()
        assert [(await client.answer()).body for _ in range(2)] == [b"1", b"2"]


async def test_a_request_may_arrive_byte_by_byte() -> None:
    raw = post(CALL, b"[1]") + b"POST %b HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" % CALL
    raw += b"2\r\n[2\r\n1\r\n]\r\n0\r\n\r\n" + post(CALL, b"[3]")
    async with open_door() as door:
        client = await door.connect()
        client.stream.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_NODELAY, 1)
        for position in range(len(raw)):
            await client.send(raw[position : position + 1])
            await trio.testing.wait_all_tasks_blocked(0.0001)
        assert [(await client.answer()).body for _ in range(3)] == [b"[1]", b"[2]", b"[3]"]


def with_head_of(size: int) -> bytes:
    raw = post(CALL, b"1", b"X: ")
    filler = size - (len(raw) - 1)
    return raw.replace(b"X: ", b"X: " + b"y" * filler)


@pytest.mark.parametrize(("excess", "status"), [(-1, 200), (0, 200), (1, 431)])
async def test_the_head_has_a_limit(excess: int, status: int) -> None:
    raw = with_head_of(MAX_HEAD_BYTES + excess)
    assert len(raw) == MAX_HEAD_BYTES + excess + 1
    async with open_door() as door:
        (answer,) = await door.exchange(raw)
    assert answer.status == status


@pytest.mark.parametrize(("count", "status"), [(99, 200), (100, 200), (101, 431)])
async def test_the_number_of_fields_has_a_limit(count: int, status: int) -> None:
    assert MAX_FIELDS == 100
    async with open_door() as door:
        (answer,) = await door.exchange(post(CALL, b"1", *[b"X: y"] * (count - 2)))
    assert answer.status == status


@pytest.mark.parametrize(
    ("excess", "code"), [(-1, "bad_request"), (0, "bad_request"), (1, "target_too_long")]
)
async def test_the_target_has_a_limit(excess: int, code: str) -> None:
    target = b"/" + b"x" * (MAX_TARGET_BYTES + excess - 1)
    async with open_door() as door:
        (answer,) = await door.exchange(get(target))
    assert f'"code":"{code}"'.encode() in answer.body


@pytest.mark.parametrize(("excess", "status"), [(-1, 200), (0, 200), (1, 413)])
@pytest.mark.parametrize("chunked", [False, True])
async def test_the_body_has_a_limit(excess: int, status: int, chunked: bool) -> None:
    body = b"1" * (BODY_BYTES + excess)
    raw = post(CALL, body)
    if chunked:
        raw = b"POST %b HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n" % CALL
        raw += b"".join(b"1\r\n1\r\n" for _ in body) + b"0\r\n\r\n"
    async with open_door() as door:
        (answer,) = await door.exchange(raw)
    assert answer.status == status


async def test_a_large_body_and_a_large_answer_pass_whole() -> None:
    body = bytes(range(256)) * 16_384
    async with open_door(body_bytes=len(body)) as door:
        client = await door.connect()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.send, post(CALL, body) + post(CALL, b"next"))
            assert (await client.answer()).body == body
            assert (await client.answer()).body == b"next"


async def test_a_client_that_waits_for_continue_is_told_to_go_on() -> None:
    async with open_door() as door:
        client = await door.connect()
        await client.send(post(CALL, b"", b"Expect: 100-continue").replace(b"Length: 0", b"Length: 3"))
        assert (await client.answer()).status == 100
        await client.send(b"[1]")
        assert (await client.answer()).body == b"[1]"


async def test_a_body_too_large_is_refused_before_it_is_sent() -> None:
    async with open_door() as door:
        client = await door.connect()
        await client.send(post(CALL, b"", b"Expect: 100-continue").replace(b"Length: 0", b"Length: 9999"))
        assert (await client.answer()).status == 413
        assert await client.at_end()


async def test_connection_close_is_answered_and_closed() -> None:
    async with open_door() as door:
        client = await door.connect()
        await client.send(post(CALL, b"1", b"Connection: close") + post(CALL, b"2"))
        answer = await client.answer()
        assert answer.fields["connection"] == "close"
        assert await client.at_end()
    assert [seen.body for seen in door.calls.seen] == [b"1"]


async def test_a_request_without_a_body_can_close_the_connection_too() -> None:
    async with open_door() as door:
        client = await door.connect()
        await client.send(get(b"/errors/bad_json", b"Connection: close") + post(CALL, b"2"))
        assert (await client.answer()).fields["connection"] == "close"
        assert await client.at_end()
    assert door.calls.seen == []


async def test_http_1_0_is_kept_open_when_asked() -> None:
    raw = b"POST %b HTTP/1.0\r\nContent-Length: 1\r\n%b\r\n1"
    async with open_door() as door:
        client = await door.connect()
        await client.send(raw % (CALL, b"Connection: keep-alive\r\n"))
        assert (await client.answer()).fields["connection"] == "keep-alive"
        await client.send(raw % (CALL, b""))
        assert (await client.answer()).fields["connection"] == "close"
        assert await client.at_end()


async def test_head_has_the_fields_and_no_body() -> None:
    async with open_door() as door:
        client = await door.connect()
        await client.send(get(b"/errors/bad_json").replace(b"GET", b"HEAD"))
        answer = await client.answer("HEAD")
        assert (answer.status, answer.body) == (200, b"")
        assert int(answer.fields["content-length"]) > 0
        await client.send(get(b"/errors/bad_json"))
        assert (await client.answer()).fields["content-length"] == answer.fields["content-length"]


@pytest.mark.parametrize("raw", [b"POST /x HT", post(CALL, b"123")[:-1]])
async def test_a_connection_that_ends_within_a_request_is_told_so(raw: bytes) -> None:
    async with open_door() as door:
        (answer,) = await door.exchange(raw)
    assert answer.status == 400
    assert door.calls.seen == []


@pytest.mark.parametrize(
    ("raw", "part"),
    [
        (b"POST /x HT", b"head"),
        (post(CALL, b"123")[:-1], b"body"),
        (b"POST /x HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n", b"body"),
    ],
)
async def test_a_slow_request_is_given_up(raw: bytes, part: bytes) -> None:
    async with open_door(deadlines=HURRIED) as door:
        client = await door.connect()
        await client.send(raw)
        answer = await client.answer()
        assert await client.at_end()
        assert await door.is_well()
    assert (answer.status, answer.fields["connection"]) == (408, "close")
    assert b"the %b of the request" % part in answer.body
    assert door.server.counters.timeouts == 1


async def test_an_idle_connection_is_closed_without_a_word() -> None:
    async with open_door(deadlines=HURRIED) as door:
        client = await door.connect()
        await client.send(post(CALL, b"1"))
        await client.answer()
        with pytest.raises(EndOfAnswers):
            await client.answer()
    assert door.server.counters.timeouts == 0


async def test_a_client_that_takes_nothing_is_reset() -> None:
    async def much(_seen: Seen) -> Response:
        return Response(body=b"x" * (32 << 20))

    async with open_door(CallsDouble(much), deadlines=HURRIED) as door:
        client = await door.connect()
        await client.send(post(CALL, b"1"))
        while not door.server.counters.timeouts:
            await trio.testing.wait_all_tasks_blocked(0.01)
        with pytest.raises(trio.BrokenResourceError):
            await client.answer()


async def test_a_call_is_not_hurried_by_the_deadlines_of_clients() -> None:
    # The sweeper has looked many times when the slow reader of this very server was given up.
    gate = trio.Event()

    async def wait(seen: Seen) -> Response:
        if seen.key == "k":
            await gate.wait()
        return Response(body=b"1")

    async with open_door(CallsDouble(wait), deadlines=HURRIED) as door:
        client, slow = await door.connect(), await door.connect()
        await client.send(post(CALL, b"1"))
        await slow.send(b"POST")
        assert (await slow.answer()).status == 408
        gate.set()
        assert (await client.answer()).status == 200


@pytest.mark.parametrize("rudely", [False, True])
async def test_a_call_goes_on_when_its_client_goes_away(rudely: bool) -> None:
    begun, gate = trio.Event(), trio.Event()

    async def wait(_seen: Seen) -> Response:
        begun.set()
        await gate.wait()
        return Response(body=b"1")

    calls = CallsDouble(wait)
    async with open_door(calls) as door:
        client = await door.connect()
        await client.send(post(CALL, b"1") + (b"unread" if rudely else b""))
        await begun.wait()
        await client.aclose()
        gate.set()
        assert await door.is_well()
    assert calls.finished == 2


async def test_a_bug_is_answered_with_500_and_the_connection_lives_on() -> None:
    async def bug(seen: Seen) -> Response:
        if seen.body == b"1":
            raise ZeroDivisionError("a secret")
        return Response(body=b"fine")

    async with open_door(CallsDouble(bug)) as door:
        client = await door.connect()
        await client.send(post(CALL, b"1") + post(CALL, b"2"))
        answer = await client.answer()
        assert (answer.status, answer.fields["inversion-outcome"]) == (500, "unknown")
        assert b"secret" not in answer.body
        assert (await client.answer()).body == b"fine"
