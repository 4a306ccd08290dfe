"""The life of one runtime, without a process."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inversion.config import Channel, Correlate, Function, HelloRule, Limits
from inversion.errors import Code, Overrun, RuntimeBroken
from inversion.messages import SILENT, MessageIn, MessageOut, State
from inversion.protocol.conversation import (
    LIFE,
    Answered,
    Broken,
    Conversation,
    Happening,
    Life,
    Said,
    Stray,
)
from plain import a_request, a_turn

LIMITS = Limits()
TINY = Limits(body_bytes=0, state_bytes=0, response_bytes=0, effects_bytes=0)  # lines of 64 KiB
HELLO = b'{"hello":{"protocol":1,"pipeline":8,"batch":4}}\n'


def conversation(*ids: str, limits: Limits = LIMITS, **settings: object) -> Conversation:
    """With these messages in flight."""
    begun = Conversation(Function("fn", ("x",), Path(), **settings), limits)  # type: ignore[arg-type]
    for number in ids:
        begun.send(message(number))
    return begun


def message(number: str) -> MessageIn:
    return MessageIn.of(a_turn(a_request(n=int(number))), State(None, 0, None))


def answer(event: object) -> MessageOut:
    assert isinstance(event, Answered)
    assert isinstance(event.result, MessageOut)
    return event.result


def failure(event: object) -> RuntimeBroken:
    assert isinstance(event, Answered)
    assert isinstance(event.result, RuntimeBroken)
    return event.result


def only(events):
    (event,) = events
    return event


# -- the table -------------------------------------------------------------------------------------------


def test_every_happening_leads_somewhere_but_a_second_hello():
    missing = [(life, what) for life in Life for what in Happening if (life, what) not in LIFE]
    assert missing == [(Life.SERVING, Happening.HELLO)]


def test_nothing_comes_back_from_gone():
    assert {LIFE[Life.GONE, what] for what in Happening} == {Life.GONE}


# -- hello -----------------------------------------------------------------------------------------------


def test_before_its_first_word_a_runtime_gets_one_message():
    assert conversation().depth == 1
    assert conversation(hello=HelloRule.REQUIRED).depth == 0
    assert conversation(hello=HelloRule.NONE).life is Life.SERVING


def test_a_hello_opens_the_pipeline():
    begun = conversation()
    event = only(begun.receive(HELLO))
    assert isinstance(event, Said)
    assert (begun.life, begun.depth, event.hello.batch) == (Life.SERVING, 8, 4)


def test_a_first_answer_without_hello_makes_it_a_silent_one():
    begun = conversation("1")
    answer(only(begun.receive(b'{"id":"r1.1"}\n')))
    assert (begun.hello, begun.life, begun.depth) == (SILENT, Life.SERVING, 1)


def test_log_lines_before_the_hello_decide_nothing():
    begun = conversation("1")
    events = begun.receive(b"loading the model\n" + HELLO + b'{"id":"r1.1"}\n')
    assert [type(event) for event in events] == [Stray, Said, Answered]


@pytest.mark.parametrize("first", [HELLO, b'{"id":"r1.1"}\n'])
def test_a_late_hello_breaks_the_conversation(first):
    begun = conversation("1")
    begun.receive(first)
    assert isinstance(only(begun.receive(HELLO)), Broken)
    assert begun.life is Life.GONE


def test_a_malformed_hello_breaks_the_conversation():
    event = only(conversation().receive(b'{"hello":{"protocol":9}}\n'))
    assert isinstance(event, Broken)
    assert "protocol 9" in event.reason


def test_under_hello_none_a_line_with_hello_is_a_log_line():
    assert isinstance(only(conversation(hello=HelloRule.NONE).receive(b'{"hello":"world"}\n')), Stray)


# -- what is a frame -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "line",
    [
        b"plain text",
        b"",
        b"42",
        b"[1]",
        b'"r1.1"',
        b'{"level":"info"}',
        b'{"id":"other"}',
        b'{"id":7}',
        b'{"state":1}',
        b"\xff\xfe",
        b'{"id":"r1.1"',
        b"r1.1 is being handled",
        b"{'id': 'r1.1', 'response': 1}",
    ],
)
def test_what_is_no_frame_is_a_log_line(line):
    begun = conversation("2")
    assert only(begun.receive(line + b"\n")) == Stray([line])
    assert isinstance(only(conversation("2", strict=True).receive(line + b"\n")), Broken)


def test_log_lines_in_a_row_are_one_event():
    events = conversation("1").receive(b'a\nb\n{"level":1}\n{"id":"r1.1"}\nc\n')
    assert events[0] == Stray([b"a", b"b", b'{"level":1}'])
    answer(events[1])
    assert events[2] == Stray([b"c"])


@pytest.mark.parametrize(
    "line",
    [
        b'{"id":"r9.1","response":1}',
        b'{"id":"r9.1","error":{}}',
        b'{"id":"r9.1","state":1}',
        b'{"id":"r9.1","delete":true}',
        b'{"id":"r9.1","effects":[]}',
        b'{"id":"r9.1","answers":[]}',
        b'{"id":9,"response":1}',
        b'{"id":null,"state":1}',
        b'{"id":"r9.1","answers":7}',
    ],
)
def test_an_unknown_id_breaks_the_conversation(line):
    begun = conversation("1")
    event = only(begun.receive(line + b"\n" + b'{"id":"r1.1"}\n'))
    assert isinstance(event, Broken)
    assert list(begun.in_flight) == ["r1.1"]
    assert begun.receive(b'{"id":"r1.1"}\n') == []


def test_a_second_answer_breaks_the_conversation():
    begun = conversation("1", "2")
    first, second = begun.receive(b'{"id":"r1.1"}\n{"id":"r1.1","response":2}\n')
    answer(first)
    assert isinstance(second, Broken)


def test_answers_may_come_in_any_order():
    begun = conversation("1", "2", "3")
    events = begun.receive(b'{"id":"r3.1","response":3}\nnoise\n{"id":"r1.1"}\n')
    assert [getattr(event, "id", None) for event in events] == ["r3.1", None, "r1.1"]
    assert list(begun.in_flight) == ["r2.1"]


@pytest.mark.parametrize(
    "line",
    [
        b'{"id":"r1.1","answers":7}',
        b'{"id":"r1.1","delete":1}',
        b'{"id":"r1.1","error":"boom"}',
        b'{"id":"r1.1","error":{"status":"409"}}',
        b'{"id":"r1.1","state":1e999}',
        b'{"id":"r1.1","state":nonsense}',
        b'{"id":"r1.1","state":"\xff"}',
        b' { "id" : "r1.1", "state":[}',
        b'{"id":"r1.1","state":' + b"[" * 5_000 + b"]" * 5_000 + b"}",
    ],
)
def test_a_malformed_answer_fails_its_message_only(line):
    begun = conversation("1", "2")
    first, second = begun.receive(line + b'\n{"id":"r2.1"}\n')
    assert failure(first).code is Code.PROTOCOL_ERROR
    answer(second)


def test_the_last_of_two_equal_fields_counts_everywhere():
    begun = conversation("1", "2")
    event = only(begun.receive(b'{"id":"r1.1","id":"r2.1","response":1,"response":2}\n'))
    assert isinstance(event, Answered)
    assert (event.id, answer(event).answers[0].response) == ("r2.1", b"2")


# -- over-long lines and the end -------------------------------------------------------------------------


def test_an_over_long_answer_fails_its_message_only():
    begun = conversation("1", "2", limits=TINY)
    long = b'{"id":"r1.1","response":"' + b"x" * 70_000
    events = [*begun.receive(long), *begun.receive(b"x" * 70_000 + b'"}\n{"id":"r2.1"}\n')]
    assert isinstance(failure(events[0]), Overrun)
    answer(events[1])
    assert len(events) == 2


@pytest.mark.parametrize(
    "start", [b"x", b'{"id":"r9.1","response":"', b'{"response":"' + b"y" * 300 + b'","id":"r1.1']
)
def test_an_over_long_line_of_nobody_breaks_the_conversation(start):
    begun = conversation("1", limits=TINY)
    assert isinstance(only(begun.receive(start + b"x" * 70_000)), Broken)


def test_a_torn_last_line_is_never_parsed():
    begun = conversation("1")
    assert begun.receive(b'{"id":"r1.1"}') == []
    assert begun.end() == len(b'{"id":"r1.1"}')
    assert (begun.life, list(begun.in_flight)) == (Life.GONE, ["r1.1"])


def test_one_that_leaves_still_answers():
    begun = conversation("1")
    begun.leave()
    answer(only(begun.receive(b'{"id":"r1.1"}\n')))
    assert begun.life is Life.LEAVING


# -- correlate = "order" ---------------------------------------------------------------------------------


def in_order(*ids: str, **settings: object) -> Conversation:
    return conversation(*ids, correlate=Correlate.ORDER, hello=HelloRule.NONE, **settings)


def test_in_order_every_line_answers_the_oldest():
    begun = in_order("1", "2", channel=Channel.FD3)
    events = begun.receive(b'{"response":1}\n{"state":2}\n')
    assert [event.id for event in events if isinstance(event, Answered)] == ["r1.1", "r2.1"]


def test_in_order_on_stdout_only_one_is_in_flight():
    settings = {"correlate": Correlate.ORDER}
    assert conversation(**settings).depth == 1
    for channel, depth in ((Channel.STDIO, 1), (Channel.FD3, 8)):
        begun = conversation(channel=channel, **settings)
        begun.receive(HELLO)
        assert begun.depth == depth


@pytest.mark.parametrize(
    "line", [b"text", b"", b"42", b'{"state":', b'{"id":"r2.1"}', b'{"id":5}', b'{"error":1}']
)
def test_in_order_a_line_that_is_no_answer_breaks_the_conversation(line):
    assert isinstance(only(in_order("1").receive(line + b"\n")), Broken)


def test_in_order_a_line_too_many_breaks_the_conversation():
    begun = in_order("1")
    events = begun.receive(b'{"response":1}\n{"response":2}\n')
    assert [type(event) for event in events] == [Answered, Broken]


# -- whatever comes --------------------------------------------------------------------------------------

PIECES = st.sampled_from(
    [
        HELLO,
        b'{"id":"r1.1","response":1}\n',
        b'{"id":"r2.1","state":{"a":[1,2]}}\n',
        b'{"id":"r3.1","error":{"status":409}}\n',
        b'{"id":"r9.1","response":1}\n',
        b'{"id":"r1.1","state":nope}\n',
        b"noise\n",
        b"\n",
        b'{"id":',
        b"\xff\x00",
        b'{"id":"r2.1","response":"' + b"x" * 66_000 + b'"}\n',
        b"y" * 66_000,
    ]
)


def described(events):
    told = []
    for event in events:
        if isinstance(event, Stray):
            told.extend(event.lines)
        elif isinstance(event, Answered):
            result = event.result
            told.append((event.id, repr(result) if isinstance(result, Exception) else result.state))
        else:
            told.append(event)
    return told


@given(st.lists(PIECES | st.binary(max_size=20), max_size=8), st.data())
def test_any_chunking_gives_the_same_events(pieces, data):
    stream = b"".join(pieces)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=10)))
    chunks = [stream[a:b] for a, b in zip([0, *cuts], [*cuts, len(stream)], strict=True)]

    def heard(parts):
        begun = conversation("1", "2", "3", limits=Limits(100, 100, 100, 100))
        events = [event for part in parts for event in begun.receive(part)]
        return described(events), begun.end(), list(begun.in_flight), begun.life

    assert heard(chunks) == heard([stream])
