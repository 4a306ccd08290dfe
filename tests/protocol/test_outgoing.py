"""Outgoing requests as bytes: what goes out, when an answer is whole, what it means."""

from __future__ import annotations

import base64

import h11
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inversion.config import Limits
from inversion.effects import Http
from inversion.messages import Address
from inversion.protocol.effects import read_effects
from inversion.protocol.outgoing import (
    MAX_HEAD_BYTES,
    Ending,
    Exchange,
    Failed,
    Outbound,
    Reply,
    error_of,
    failure_of,
    message_of,
    read_outbound,
    response_of,
    retry_after_s,
)

NOW_S = 1_800_000_000.0  # Fri, 15 Jan 2027 08:00:00 GMT


def outbound(**http: object) -> Outbound:
    """As it comes out of a message, from the effect that a function wrote."""
    effect = read_effects(
        orjson.dumps([{"http": {"url": "https://api.example.com/a?b=c", **http}}]),
        Address("f", "k"),
        Limits(),
    )[0]
    assert isinstance(effect, Http)
    return read_outbound(message_of(effect), "effect-1")


def sent(request: Outbound) -> tuple[h11.Request, dict[str, str], bytes]:
    """What a server reads."""
    server = h11.Connection(h11.SERVER)
    server.receive_data(Exchange(request, 100).request())
    head = server.next_event()
    assert isinstance(head, h11.Request)
    body = b""
    while isinstance(event := server.next_event(), h11.Data):
        body += event.data
    assert isinstance(event, h11.EndOfMessage)
    return head, {name.decode(): value.decode() for name, value in head.headers}, body


def heard(raw: bytes, most: int = 10_000, method: str = "POST") -> Reply:
    """The answer in these bytes, and then the end of the stream."""
    exchange = Exchange(outbound(method=method), most)
    exchange.request()
    for begin in range(0, len(raw), 16_384):  # as much as is heard at once
        reply = exchange.receive(raw[begin : begin + 16_384])
        if reply is not None:
            return reply
    reply = exchange.receive(b"")
    assert reply is not None
    return reply


def test_a_request_has_the_fields_that_belong_to_it_and_the_effects_id_as_key() -> None:
    head, fields, body = sent(outbound(body={"a": 1}, headers={"Authorization": "Bearer x"}))
    assert (head.method, head.target, body) == (b"POST", b"/a?b=c", b'{"a":1}')
    assert fields["host"] == "api.example.com"
    assert fields["idempotency-key"] == "effect-1"
    assert fields["authorization"] == "Bearer x"
    assert fields["content-type"] == "application/json"
    assert fields["content-length"] == "7"
    assert fields["connection"] == "close"
    assert fields["accept-encoding"] == "identity"


def test_a_functions_own_fields_win_also_the_key() -> None:
    given_fields = {"idempotency-KEY": "mine", "Content-Type": "text/csv", "User-Agent": "me"}
    _, fields, body = sent(outbound(body="a,b", headers=given_fields))
    assert (fields["idempotency-key"], fields["content-type"], fields["user-agent"]) == (
        "mine",
        "text/csv",
        "me",
    )
    assert body == b"a,b"


@pytest.mark.parametrize(
    ("http", "length"),
    [
        ({"method": "GET"}, None),
        ({"method": "DELETE"}, None),
        ({}, "0"),
        ({"body": None}, "4"),  # null is JSON
        ({"body": ""}, "0"),
        ({"body": "ü"}, "2"),
    ],
)
def test_a_body_is_announced_where_one_is_expected(http: dict[str, object], length: str | None) -> None:
    _, fields, body = sent(outbound(**http))
    assert fields.get("content-length") == length
    assert len(body) == int(length or 0)


@pytest.mark.parametrize("target", ["", "?q=1", "/"])
def test_a_target_is_a_path(target: str) -> None:
    head, _, _ = sent(outbound(url=f"http://example.com:8080{target}"))
    assert head.target.decode() == (target if target.startswith("/") else f"/{target}")


@pytest.mark.parametrize(
    "message",
    [
        b"{}",
        b"[]",
        b'{"url":"ftp://h/secret"}',
        b'{"url":"http://h/secret","method":"CONNECT"}',
        b'{"url":"http://h/","headers":{"Host":"secret"}}',
        b'{"url":"http://h/","headers":{"A":"secret\\r\\nB: c"}}',
        b'{"url":"http://u:secret@h/"}',
        b'{"url":"http://h/","method":"GET","body":"secret"}',
        b'{"url":"http://h/","body":}',
    ],
)
def test_a_message_that_somebody_spoilt_is_no_request_and_its_values_are_not_repeated(message: bytes) -> None:
    with pytest.raises(Failed) as caught:
        read_outbound(message, "i")
    assert caught.value.ending is Ending.REFUSED
    assert "secret" not in str(caught.value)
    assert failure_of(caught.value).retry is False


CHUNKED = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: 1\r\n\r\n"
COUNTED = b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\nA: 1\r\nA: 2\r\nContent-Length: 5\r\n\r\nabcde"
TO_THE_END = b"HTTP/1.0 200 OK\r\nA: 1\r\n\r\nabcde"


@given(raw=st.sampled_from([CHUNKED, COUNTED, TO_THE_END]), cuts=st.sets(st.integers(1, 100), max_size=20))
def test_an_answer_is_the_same_however_it_is_cut(raw: bytes, cuts: set[int]) -> None:
    exchange = Exchange(outbound(), 100)
    exchange.request()
    ends = [*sorted(cut for cut in cuts if cut < len(raw)), len(raw)]
    reply = None
    for begin, end in zip([0, *ends], ends, strict=False):
        assert reply is None
        reply = exchange.receive(raw[begin:end])
    reply = reply or exchange.receive(b"")
    assert reply is not None
    assert (reply.status, reply.body) == (200, b"abcde")


@given(raw=st.sampled_from([CHUNKED, COUNTED]), length=st.integers(0, 200))
def test_an_answer_that_ends_too_soon_is_torn(raw: bytes, length: int) -> None:
    if length >= len(raw):
        return
    exchange = Exchange(outbound(), 100)
    exchange.request()
    if length:
        assert exchange.receive(raw[:length]) is None
    with pytest.raises(Failed) as caught:
        exchange.receive(b"")
    assert caught.value.ending is Ending.TORN
    assert failure_of(caught.value).retry


@given(st.binary(max_size=300))
def test_whatever_comes_is_an_answer_or_a_failure(raw: bytes) -> None:
    for start in (b"", b"HTTP/1.1 200 OK\r\n", b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"):
        exchange = Exchange(outbound(), 100)
        exchange.request()
        try:
            reply = exchange.receive(start + raw) or exchange.receive(b"")
        except Failed:
            continue
        assert reply is not None
        orjson.loads(response_of(reply))


def test_fields_that_come_twice_are_one() -> None:
    assert heard(COUNTED).fields == {"a": "1, 2", "content-length": "5"}


def test_an_answer_to_head_has_no_body_whatever_it_announces() -> None:
    assert heard(b"HTTP/1.1 200 OK\r\nContent-Length: 500\r\n\r\n", method="HEAD").body == b""


@pytest.mark.parametrize(
    ("raw", "ending"),
    [
        (b"HTTP/1.1 200 OK\r\nContent-Length: 101\r\n\r\n" + b"a" * 101, Ending.TOO_LARGE),
        (b"HTTP/1.1 200 OK\r\nA: " + b"a" * 2 * MAX_HEAD_BYTES + b"\r\n\r\n", Ending.TORN),
        (b"HTTP/1.1 100 Go\r\n\r\n" * 10_002, Ending.TORN),
        (b"SSH-2.0-OpenSSH_9.2\r\n", Ending.TORN),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\na", Ending.TORN),
    ],
)
def test_an_answer_without_end_or_sense_is_none(raw: bytes, ending: Ending) -> None:
    with pytest.raises(Failed) as caught:
        heard(raw, most=100)
    assert caught.value.ending is ending


def test_an_answer_in_crumbs_costs_us_no_more_than_its_sender() -> None:
    crumbs = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1\r\na\r\n" * 11_000
    with pytest.raises(Failed, match="too many small pieces"):
        heard(crumbs, most=1 << 20)


@pytest.mark.parametrize(
    ("status", "ending"),
    [
        (200, Ending.ANSWERED_2XX),
        (204, Ending.ANSWERED_2XX),
        (302, Ending.ANSWERED_3XX),
        (404, Ending.ANSWERED_4XX),
        (408, Ending.ASKED_TO_RETRY),
        (425, Ending.ASKED_TO_RETRY),
        (429, Ending.ASKED_TO_RETRY),
        (500, Ending.ASKED_TO_RETRY),
        (503, Ending.ASKED_TO_RETRY),
        (599, Ending.ASKED_TO_RETRY),
    ],
)
def test_a_status_says_whether_it_may_be_otherwise_next_time(status: int, ending: Ending) -> None:
    reply = Reply(status, {}, b"")
    assert reply.ending is ending
    assert reply.ending.is_retried is (ending is Ending.ASKED_TO_RETRY)


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120.0),
        ("0", 0.0),
        ("Fri, 15 Jan 2027 08:01:40 GMT", 100.0),
        ("Fri, 15 Jan 2027 08:01:40 -0000", 100.0),
        ("Fri, 15 Jan 2027 07:00:00 GMT", 0.0),
        ("soon", None),
        ("-5", None),
        ("1.5", None),
        ("99999999999999999999", None),
        ("Fri, 99 Jan 2027 08:01:40 GMT", None),
        ("", None),
    ],
)
def test_retry_after_is_seconds_or_a_date(value: str, seconds: float | None) -> None:
    assert retry_after_s(value, NOW_S) == seconds


@given(st.text(max_size=60))
def test_whatever_stands_in_retry_after_is_read(value: str) -> None:
    found = retry_after_s(value, NOW_S)
    assert found is None or found >= 0


def test_the_error_of_a_status_says_when_to_come_back_and_no_secret() -> None:
    request = outbound(headers={"Authorization": "Bearer x"})
    error = error_of(request, Reply(503, {"retry-after": "7"}, b"body"), NOW_S)
    assert error.retry
    assert (error.code, error.retry_after_s) == ("http_status", 7.0)
    assert error.message == "POST https://api.example.com answered 503"


def test_a_body_that_is_text_comes_as_text_and_any_other_in_base64() -> None:
    assert orjson.loads(response_of(Reply(200, {"a": "b"}, '{"ü":1}'.encode()))) == {
        "status": 200,
        "headers": {"a": "b"},
        "body": '{"ü":1}',
    }
    raw = orjson.loads(response_of(Reply(200, {}, b"\xff\x00")))
    assert raw["base64"] is True
    assert base64.b64decode(raw["body"]) == b"\xff\x00"
