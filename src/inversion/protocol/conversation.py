"""The life of one runtime, sans-IO: bytes in -> events, messages -> bytes out.

What happens is one of six `Happening`s, and the table `LIFE` says where each leads. What the table does not
list breaks the conversation: its process has to go, and what it had not answered fails.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from enum import Enum
from typing import Final

import attrs

from inversion import json_text
from inversion.config import Channel, Correlate, Function, HelloRule, Limits
from inversion.errors import Code, Overrun, RuntimeBroken
from inversion.messages import SILENT, Hello, MessageIn, MessageOut
from inversion.protocol.frames import LineBuffer, OverLong, encode_message_in, read_hello, read_message_out


class Life(Enum):
    STARTING = "starting"  #: no frame yet; under `hello = "auto"` it gets one message, alone
    SERVING = "serving"
    LEAVING = "leaving"  #: no more messages go in, the answers that are due still come
    GONE = "gone"  #: nothing is read any more


class Happening(Enum):
    HELLO = "hello"
    ANSWER = "answer"
    STRAY = "stray"  #: a line that is no frame
    FAREWELL = "farewell"  #: it is told to leave
    BROKEN = "broken"
    END = "end"  #: of its output


_LISTED: Final = """
              | hello    answer   stray     farewell  broken  end
    starting  | serving  serving  starting  leaving   gone    gone
    serving   | -        serving  serving   leaving   gone    gone
    leaving   | leaving  leaving  leaving   leaving   gone    gone
    gone      | gone     gone     gone      gone      gone    gone
"""

#: state x happening -> state; what is missing is a broken rule.
LIFE: Final = {
    (Life(row.split("|")[0].strip()), happening): Life(cell)
    for row in _LISTED.strip().splitlines()[1:]
    for happening, cell in zip(Happening, row.split("|")[1].split(), strict=True)
    if cell != "-"
}

_HEAD_ID = re.compile(rb'\s*\{.*?"id"\s*:\s*"([^"\\]+)"', re.DOTALL)
#: A line that begins with anything else is no frame: the lines of a flood are not parsed one by one.
_MAY_OPEN_A_FRAME: Final = frozenset((b"{", b" ", b"\t", b"\r"))
#: `{"hello":{}}`. An answer holds an id of ours, which is longer.
_SHORTEST_FRAME_BYTES: Final = 12
_ANSWER_FIELDS: Final = ("response", "error", "state", "delete", "effects", "answers")


@attrs.frozen(slots=True)
class Said:
    """The first frame: from now on it is known how to speak with this runtime."""

    hello: Hello


@attrs.define(slots=True, eq=False)
class Answered:
    """The answer to the message `id`, or why its answer cannot be taken."""

    id: str
    result: MessageOut | RuntimeBroken


@attrs.define(slots=True)
class Stray:
    """Log lines of the function on the channel that frames come on, one after the other."""

    lines: list[bytes]


@attrs.frozen(slots=True)
class Broken:
    """The process must go. `reason` is a sentence about the function."""

    reason: str


Event = Said | Answered | Stray | Broken


class Conversation:
    """What was said between the host and one process. `in_flight` is in the order of sending."""

    __slots__ = ("_buffer", "_function", "_limits", "_tolerant", "hello", "in_flight", "life")

    def __init__(self, function: Function, limits: Limits) -> None:
        self._function = function
        self._limits = limits
        self._buffer = LineBuffer(limits.frame_bytes)
        self._tolerant = not function.strict and function.correlate is Correlate.ID
        self.in_flight: dict[str, MessageIn] = {}
        self.life = Life.STARTING
        self.hello: Hello | None = None
        if function.hello is HelloRule.NONE:
            self.hello = SILENT
            self.life = Life.SERVING

    @property
    def depth(self) -> int:
        """Frames it may hold at a time, as far as is known."""
        if self.hello is None:
            return 0 if self._function.hello is HelloRule.REQUIRED else 1
        if self._function.correlate is Correlate.ORDER and self._function.channel is Channel.STDIO:
            return 1  # anything it prints is taken for the answer of the only one
        return self.hello.pipeline

    def send(self, message: MessageIn) -> bytes:
        """The line for `message`, which is in flight from now on."""
        self.in_flight[message.id] = message
        return encode_message_in(message)

    def receive(self, data: bytes) -> Sequence[Event]:
        """What these bytes of its output mean, in order. After `Broken` nothing more is read."""
        events: list[Event] = []
        if self.life is Life.GONE:
            return events
        strays: list[bytes] | None = None  # those of the last event
        for line in self._buffer.feed(data):
            if isinstance(line, OverLong):
                event = self._over_long(line)
            elif self._tolerant and (line[:1] not in _MAY_OPEN_A_FRAME or len(line) < _SHORTEST_FRAME_BYTES):
                event = None
            else:
                event = self._read(line)
            if event is not None:
                strays = None
                events.append(event)
                if isinstance(event, Broken):
                    self.life = LIFE[self.life, Happening.BROKEN]
                    break
            elif strays is None:
                assert isinstance(line, bytes)
                strays = [line]
                events.append(Stray(strays))
            else:
                assert isinstance(line, bytes)
                strays.append(line)
        return events

    @property
    def is_wasted(self) -> bool:
        """What comes now is thrown away: the rest of an over-long line, or of a broken conversation."""
        return self.life is Life.GONE or self._buffer.is_draining

    def leave(self) -> None:
        """No more messages go in; the answers that are due still come."""
        self.life = LIFE[self.life, Happening.FAREWELL]

    def end(self) -> int:
        """Its output is over: how many bytes of a torn last line were thrown away."""
        torn_bytes = 0 if self.life is Life.GONE else self._buffer.held_bytes
        self.life = LIFE[self.life, Happening.END]
        return torn_bytes

    def _read(self, line: bytes) -> Event | None:
        try:
            cut = json_text.cut_line(line)
        except json_text.NotCut as problem:
            return self._malformed(line, str(problem))
        if cut.hello and self._function.hello is not HelloRule.NONE:
            return self._greet(cut)
        if self._function.correlate is Correlate.ORDER:
            due = next(iter(self.in_flight), None)
            if due is None or cut.id not in (due, json_text.UNSET):
                return Broken(f'it printed a line that answers nothing (correlate = "order"): {_shown(line)}')
            return self._answer(due, cut)
        if isinstance(cut.id, str):
            if cut.id in self.in_flight:
                return self._answer(cut.id, cut)
            if _answers_something(cut):
                return Broken(f"it answered the id {cut.id[:80]!r}, which is unknown or already answered")
        return self._stray(line)

    def _greet(self, cut: json_text.CutLine) -> Event:
        after = LIFE.get((self.life, Happening.HELLO))
        if after is None:
            return Broken("it said hello a second time, or after its first answer")
        try:
            self.hello = read_hello(bytes(cut.hello))
        except RuntimeBroken as broken:
            return Broken(broken.detail)
        self.life = after
        return Said(self.hello)

    def _answer(self, answered_id: str, cut: json_text.CutLine) -> Event:
        message = self.in_flight.pop(answered_id)
        hello = self.hello or self._silent()
        try:
            return Answered(answered_id, read_message_out(cut, message, hello, self._limits))
        except RuntimeBroken as broken:
            broken.__context__ = None  # with a traceback of its own
            return Answered(answered_id, broken.with_traceback(None))  # its frames hold the whole line

    def _silent(self) -> Hello:
        """Its first frame was an answer. (Once there is a hello, an answer leads nowhere new.)"""
        self.life = LIFE[self.life, Happening.ANSWER]
        self.hello = SILENT
        return SILENT

    def _stray(self, line: bytes) -> Event | None:
        """None: a log line. It leads nowhere in the table."""
        if self._function.strict:
            return Broken(f"it printed a line that is no frame (strict = true): {_shown(line)}")
        return None

    def _malformed(self, line: bytes, problem: str) -> Event | None:
        """Not JSON, or a field of the wrong type: whose answer would it have been?"""
        if self._function.correlate is Correlate.ORDER:
            return Broken(f"it printed a line that is no answer ({problem}): {_shown(line)}")
        fields = json_text.plain_object(line)
        answered_id = _id_in_head(line) if fields is None else fields.get("id")
        if isinstance(answered_id, str) and answered_id in self.in_flight:
            return self._failed(
                answered_id, RuntimeBroken(Code.PROTOCOL_ERROR, f"its answer is malformed: {problem}")
            )
        if fields is not None and "id" in fields and any(name in fields for name in _ANSWER_FIELDS):
            return Broken(f"it answered an id that is unknown, already answered or no string: {_shown(line)}")
        return self._stray(line)

    def _over_long(self, line: OverLong) -> Event:
        detail = f"it wrote a line of more than {self._limits.frame_bytes} bytes"
        answered_id = _id_in_head(line.head)
        if self._function.correlate is Correlate.ORDER and answered_id is None:
            answered_id = next(iter(self.in_flight), None)
        if answered_id is None or answered_id not in self.in_flight:
            return Broken(f"{detail} with no id in flight in its first bytes: {_shown(line.head)}")
        return self._failed(answered_id, Overrun(Code.RESPONSE_TOO_LARGE, detail))

    def _failed(self, answered_id: str, error: RuntimeBroken) -> Event:
        del self.in_flight[answered_id]
        if self.hello is None:
            self._silent()
        return Answered(answered_id, error)


def _answers_something(cut: json_text.CutLine) -> bool:
    return bool(
        cut.response
        or cut.state
        or cut.effects
        or cut.delete
        or cut.error is not json_text.UNSET
        or cut.answers is not json_text.UNSET
    )


def _id_in_head(line: bytes) -> str | None:
    found = _HEAD_ID.match(line[:256])
    return None if found is None else found.group(1).decode(errors="replace")


def _shown(line: bytes) -> str:
    text = line.decode(errors="replace")
    return text if len(text) <= 80 else f"{text[:77]}..."
