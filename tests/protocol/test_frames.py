"""Lines out of bytes, message-in out of a turn, message-out out of a line."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inversion import json_text
from inversion.config import Limits
from inversion.effects import Cancel, Forward
from inversion.errors import Code, EffectsRefused, Overrun, RuntimeBroken
from inversion.messages import SILENT, Change, Handler, Hello, MessageIn, State
from inversion.protocol.frames import (
    HEAD_BYTES,
    LineBuffer,
    OverLong,
    encode_message_in,
    read_hello,
    read_message_out,
)
from plain import a_request, a_turn

STATE = State(b'{"n": 1E5}', 3, b"t" * 16)
SMALL = Limits(body_bytes=50, state_bytes=50, response_bytes=50, effects_bytes=50)


def message(count: int = 1, key: str | None = "k", state: State = STATE) -> MessageIn:
    requests = [a_request(key, b"%d" % n, n=n) for n in range(1, count + 1)]
    return MessageIn.of(a_turn(*requests), state)


def read(line: bytes, of: MessageIn | None = None, hello: Hello = SILENT, limits: Limits = SMALL):
    return read_message_out(json_text.cut_line(line), of or message(), hello, limits)


def refused(line: bytes, of: MessageIn | None = None, hello: Hello = SILENT) -> RuntimeBroken:
    with pytest.raises(RuntimeBroken) as caught:
        read(line, of, hello)
    return caught.value


# -- LineBuffer ------------------------------------------------------------------------------------------


@given(
    st.lists(st.binary(max_size=12).map(lambda line: line.replace(b"\n", b"-")), max_size=12),
    st.data(),
)
def test_any_chunking_gives_the_same_lines(lines, data):
    stream = b"\n".join(lines)

    def fed(chunks):
        buffer = LineBuffer(8)
        return [line for chunk in chunks for line in buffer.feed(chunk)], buffer.held_bytes

    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    chunks = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]
    assert fed(chunks) == fed([stream])


def test_lines_end_at_a_newline_only():
    buffer = LineBuffer(100)
    assert buffer.feed("a\u2028b\r\nc\x0bd\n".encode()) == ["a\u2028b\r".encode(), b"c\x0bd"]


def test_what_has_no_newline_at_the_end_is_held_and_counted():
    buffer = LineBuffer(100)
    assert buffer.feed(b"whole\ntor") == [b"whole"]
    assert buffer.held_bytes == 3


def test_a_line_at_the_limit_passes_and_one_byte_more_is_over_long():
    buffer = LineBuffer(4)
    assert buffer.feed(b"1234\n12345\nok\n") == [b"1234", OverLong(b"1234"), b"ok"]


def test_an_over_long_line_is_reported_at_once_and_drained_to_its_newline():
    buffer = LineBuffer(1_000)
    assert buffer.feed(b"x" * 999) == []
    assert buffer.feed(b"xx") == [OverLong(b"x" * HEAD_BYTES)]
    assert buffer.feed(b"y" * 5_000) == []
    assert buffer.held_bytes == 0
    assert buffer.feed(b"y\nnext\n") == [b"next"]


# -- message-in ------------------------------------------------------------------------------------------


def test_one_message_is_spliced_as_it_came():
    line = encode_message_in(message())
    assert line.endswith(b'"message":1,"state":{"n": 1E5}}\n')
    request = message().turn.requests[0]
    assert json.loads(line) == {
        "id": "r1.1",
        "ctx": {
            "function": "counter",
            "key": "k",
            "version": 3,
            "handler": "add",
            "attempt": 1,
            "now": request.now,
            "deadline": request.deadline,
            "seed": request.seed,
            "meta": {},
        },
        "message": 1,
        "state": {"n": 100_000.0},
    }


def test_a_stateless_message_has_no_key_version_or_state():
    frame = json.loads(encode_message_in(message(key=None)))
    assert "state" not in frame
    assert not {"key", "version"} & frame["ctx"].keys()


def test_no_state_is_absent_and_null_is_a_state():
    assert b'"state"' not in encode_message_in(message(state=State(None, 0, None)))
    assert encode_message_in(message(state=State(b"null", 1, b"t" * 16))).endswith(b',"state":null}\n')


@pytest.mark.parametrize("key", ['"', "\\", "\u2028", "ключ", '","version":9,"x":"'])
def test_a_key_is_quoted(key):
    frame = json.loads(encode_message_in(message(key=key)))
    assert (frame["ctx"]["key"], frame["ctx"]["version"]) == (key, 3)


def test_the_trace_is_there_when_there_is_one():
    turned = message()
    turned.turn.requests[0].trace = '00-"'
    assert json.loads(encode_message_in(turned))["ctx"]["trace"] == '00-"'


def test_a_turn_of_several_carries_messages_and_one_state():
    frame = json.loads(encode_message_in(message(3)))
    assert frame["ctx"] == {"function": "counter", "key": "k", "version": 3}
    assert frame["state"] == {"n": 100_000.0}
    assert [member["id"] for member in frame["messages"]] == ["r1.1", "r2.1", "r3.1"]
    assert [member["message"] for member in frame["messages"]] == [1, 2, 3]
    assert frame["messages"][0].keys() >= {"handler", "attempt", "now", "deadline", "seed", "meta"}


# -- message-out -----------------------------------------------------------------------------------------


def test_a_bare_id_keeps_the_state_and_answers_null():
    out = read(b'{"id":"r1.1"}')
    assert (out.change, out.state, out.answers[0].response) == (Change.KEEP, None, None)
    assert not out.answers[0].changed


def test_response_and_state_keep_the_senders_bytes():
    out = read(b'{"id":"r1.1", "response" : {"a": 1E5}, "state": "\\u0000", "new": 1}')
    assert (out.answers[0].response, out.change, out.state) == (b'{"a": 1E5}', Change.PUT, b'"\\u0000"')
    assert out.answers[0].changed


def test_raw_carriage_returns_become_spaces():
    assert read(b'{"id":"r1.1","state":[1,\r2]}\r').state == b"[1, 2]"


def test_null_is_put_and_delete_deletes():
    assert read(b'{"id":"r1.1","state":null}').state == b"null"
    assert read(b'{"id":"r1.1","delete":true}').change is Change.DELETE
    assert read(b'{"id":"r1.1","delete":false}').change is Change.KEEP


@pytest.mark.parametrize(
    "part",
    [
        b"18446744073709551616",
        b"-9223372036854775809",
        b"1e400",
        b"NaN",
        b'"\\ud800"',
        b'"\xff"',
        b"[" * 65 + b"]" * 65,
        b"{'a':1}",
    ],
)
def test_values_are_checked_as_bodies_are(part):
    for field in (b"state", b"response"):
        try:
            cut = json_text.cut_line(b'{"id":"r1.1","%b":%b}' % (field, part))
        except json_text.NotCut:
            continue
        with pytest.raises(RuntimeBroken) as caught:
            read_message_out(cut, message(), SILENT, Limits())
        assert caught.value.code is Code.PROTOCOL_ERROR


def test_a_state_may_nest_as_deep_as_a_body():
    deep = b"[" * 64 + b"]" * 64
    out = read_message_out(
        json_text.cut_line(b'{"id":"r1.1","state":%b}' % deep), message(), SILENT, Limits()
    )
    assert out.state == deep


@pytest.mark.parametrize(
    ("field", "code"),
    [
        (b"state", Code.STATE_TOO_LARGE),
        (b"response", Code.RESPONSE_TOO_LARGE),
        (b"effects", Code.EFFECTS_TOO_LARGE),
    ],
)
def test_each_part_has_its_limit(field, code):
    with pytest.raises(Overrun, match="51 bytes") as caught:
        read(b'{"id":"r1.1","%b":"%b"}' % (field, b"x" * 49))
    assert caught.value.code is code


def test_an_error_is_an_answer():
    out = read(b'{"id":"r1.1","error":{"code":"out","message":"none left","status":409,"details":{"a": 1}}}')
    error = out.answers[0].error
    assert error is not None
    assert (error.code, error.message, error.status, error.details, error.retry) == (
        "out",
        "none left",
        409,
        b'{"a": 1}',
        False,
    )


@pytest.mark.parametrize(
    ("status", "told"), [(399, 500), (400, 400), (499, 499), (500, 500), (200, 500), (-1, 500)]
)
def test_an_errors_status_is_400_to_499_or_else_500(status, told):
    error = read(b'{"id":"r1.1","error":{"status":%d,"retry":true}}' % status).answers[0].error
    assert error is not None
    assert (error.status, error.code, error.retry) == (told, "function_error", True)


@pytest.mark.parametrize(
    "line",
    [
        b'{"id":"r1.1","state":1,"delete":true}',
        b'{"id":"r1.1","error":{},"state":1}',
        b'{"id":"r1.1","error":{},"delete":true}',
        b'{"id":"r1.1","error":{},"response":1}',
        b'{"id":"r1.1","error":{"details":1e999}}',
        b'{"id":"r1.1","answers":[{"id":"r1.1"}]}',
    ],
)
def test_parts_that_do_not_go_together_are_protocol_errors(line):
    assert refused(line).code is Code.PROTOCOL_ERROR


def test_an_answer_carries_its_effects():
    out = read(b'{"id":"r1.1","effects":[{"cancel":{"name":"a"}}]}')
    assert (out.change, out.answers[0].changed) == (Change.KEEP, False)
    assert out.answers[0].effects == (Cancel("a"),)
    for none in (b"[]", b" [ ] "):
        assert read(b'{"id":"r1.1","effects":%b}' % none).answers[0].effects == ()


@pytest.mark.parametrize(
    ("line", "said", "key"),
    [
        (b'{"id":"r1.1","effects":[{"cancel":{"name":"a"}}]}', "stateless", None),
        (b'{"id":"r1.1","error":{},"effects":[{"cancel":{"name":"a"}}]}', "`error`", "k"),
        (b'{"id":"r1.1","response":1,"effects":[{"forward":{}}]}', "`forward` has no response", "k"),
        (b'{"id":"r1.1","effects":null}', "expected `array`", "k"),
    ],
)
def test_an_answer_that_may_not_have_effects_is_refused_with_them(line, said, key):
    refusal = refused(line, message(key=key))
    assert said in refusal.detail
    assert isinstance(refusal, EffectsRefused)


def test_an_answer_that_is_forwarded_may_say_null():
    for response in (b"", b'"response":null,'):
        answer = read(b'{"id":"r1.1",%b"effects":[{"forward":{}}]}' % response).answers[0]
        assert answer.effects == (Forward("counter", "k", "call", b"null"),)


def test_a_stateless_call_may_not_answer_with_a_state():
    assert "stateless" in refused(b'{"id":"r1.1","state":1}', message(key=None)).detail
    assert "stateless" in refused(b'{"id":"r1.1","delete":true}', message(key=None)).detail


def test_a_reader_may_not_answer_with_a_state():
    hello = Hello(handlers={"add": Handler("add", reads_only=True)})
    assert "reads_only" in refused(b'{"id":"r1.1","state":1}', hello=hello).detail
    effects = b'"effects":[{"cancel":{"name":"a"}}]'
    assert "reads_only" in refused(b'{"id":"r1.1",%b}' % effects, hello=hello).detail
    assert (
        "reads_only"
        in refused(
            b'{"id":"r1.1","answers":[{"id":"r1.1","changed":false},{"id":"r2.1","changed":false,%b}]}'
            % effects,
            message(2),
            hello,
        ).detail
    )
    assert read(b'{"id":"r1.1","response":1}', hello=hello).answers[0].response == b"1"


# -- answers to a turn -----------------------------------------------------------------------------------


def test_a_turn_is_answered_in_order_with_one_state():
    out = read(
        b'{"id":"r1.1","answers":[{"id":"r1.1","response":1},{"id":"r2.1","error":{"status":409}},'
        b'{"id":"r3.1","response":3,"changed":false}],"state":2}',
        message(3),
    )
    assert [answer.changed for answer in out.answers] == [True, False, False]
    assert [answer.response for answer in out.answers] == [b"1", None, b"3"]
    assert (out.change, out.state) == (Change.PUT, b"2")


def test_each_answer_to_a_turn_has_effects_of_its_own():
    out = read(
        b'{"id":"r1.1","answers":[{"id":"r1.1","effects":[{"cancel":{"name":"a"}}],"changed":false},'
        b'{"id":"r2.1","changed":false},{"id":"r3.1","effects":[{"cancel":{"name":"b"}}]}],"state":2}',
        message(3),
        limits=Limits(effects_bytes=30),
    )
    assert [answer.effects for answer in out.answers] == [(Cancel("a"),), (), (Cancel("b"),)]
    assert [answer.changed for answer in out.answers] == [False, False, True]


@pytest.mark.parametrize(
    "line",
    [
        b'{"id":"r1.1","response":1}',
        b'{"id":"r1.1"}',
        b'{"id":"r1.1","answers":[{"id":"r1.1"}],"state":1}',
        b'{"id":"r1.1","answers":[{"id":"r2.1"},{"id":"r1.1"}],"state":1}',
        b'{"id":"r1.1","answers":[{"id":"r1.1"},{"id":"r2.1"},{"id":"r3.1"}],"state":1}',
        b'{"id":"r1.1","answers":[{"id":"r1.1"},{"id":"r2.1"}]}',
        b'{"id":"r1.1","answers":[{"id":"r1.1","changed":false},{"id":"r2.1","error":{}}],"state":1}',
        b'{"id":"r1.1","answers":[{"id":"r1.1"},{"id":"r2.1"}],"state":1,"response":1}',
        b'{"id":"r1.1","answers":[{"id":"r1.1"},{"id":"r2.1"}],"state":1,"error":{}}',
        b'{"id":"r1.1","answers":[{"id":"r1.1"},{"id":"r2.1","effects":[1]}],"state":1}',
    ],
)
def test_answers_that_do_not_fit_the_turn_are_protocol_errors(line):
    assert refused(line, message(2)).code is Code.PROTOCOL_ERROR


def test_one_too_large_response_is_an_overrun_of_the_turn():
    line = b'{"id":"r1.1","answers":[{"id":"r1.1"},{"id":"r2.1","response":"%b"}],"state":1}' % (b"x" * 50)
    assert isinstance(refused(line, message(2)), Overrun)


# -- hello -----------------------------------------------------------------------------------------------


def test_a_hello_says_how_to_speak_with_a_runtime():
    hello = read_hello(
        b'{"protocol":1,"runtime":"x/1","pipeline":64,"batch":8,"integers":53,"cancel":true,"other":[],'
        b'"handlers":{"get":{"reads_only":true,"input":{}},"add":{}}}'
    )
    assert hello == Hello(
        runtime="x/1",
        pipeline=64,
        batch=8,
        cancel=True,
        integers=53,
        handlers={"get": Handler("get", reads_only=True), "add": Handler("add")},
    )


@pytest.mark.parametrize(
    "said",
    [b'{"protocol":2}', b'{"pipeline":0}', b'{"integers":32}', b'{"batch":"1"}', b"1"],
)
def test_a_hello_that_cannot_be_kept_is_refused(said):
    with pytest.raises(RuntimeBroken, match="its hello"):
        read_hello(said)


def test_a_hello_cannot_ask_for_endless_batches():
    assert read_hello(b'{"batch":1000000}').batch == 1_024
