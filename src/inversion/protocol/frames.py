"""bytes <-> lines <-> frames: what protocol.md calls message-in and message-out.

`LineBuffer` cuts a byte stream into lines under a limit. `encode_message_in` writes a turn as one line, its
values spliced in as the bytes they came in. `read_message_out` makes a checked `MessageOut` of a line that
was cut (json_text.cut_line), or raises what the turn fails with: `Overrun` for a size limit, `RuntimeBroken`
for a broken rule. Nothing here remembers a conversation.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import Final

import attrs

from inversion import json_text
from inversion.config import Limits
from inversion.effects import Forward
from inversion.errors import Code, EffectsRefused, FunctionError, Overrun, RequestRefused, RuntimeBroken
from inversion.messages import Answer, Change, Handler, Hello, MessageIn, MessageOut, Request
from inversion.protocol import cron
from inversion.protocol.effects import read_effects
from inversion.protocol.schedules import read_declared

#: How much of an over-long line is kept: an id stands there, or the line belongs to nobody.
HEAD_BYTES: Final = 256
#: What one turn may hold, whatever a hello claims: more gains nothing and delays everybody's commit.
MAX_BATCH: Final = 1_024
#: Frames in one process, whatever a hello claims.
MAX_PIPELINE: Final = 1_024
PROTOCOL_VERSION: Final = 1
#: Members of an Enum are looked up slowly, and these are for each answer.
_KEEP, _PUT, _DELETE = Change.KEEP, Change.PUT, Change.DELETE


@attrs.frozen(slots=True)
class OverLong:
    """A line over the limit: its first bytes; the rest is drained up to its newline."""

    head: bytes


class LineBuffer:
    """A byte stream cut at 0x0A only. Bytes are searched once; what is held is bounded by the limit."""

    __slots__ = ("_head_bytes", "_held", "_limit_bytes", "held_bytes", "is_draining")

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._head_bytes = min(HEAD_BYTES, limit_bytes)  # the same however the stream is chunked
        self._held: list[bytes] = []  # the unfinished line; no newline is in it
        self.held_bytes = 0  #: left at the end of the stream: a torn frame, never parsed
        self.is_draining = False  #: the rest of an over-long line is thrown away

    def feed(self, data: bytes) -> Sequence[bytes | OverLong]:
        """The lines that `data` finishes. An over-long one is reported as soon as it is over the limit."""
        pieces = data.split(b"\n")
        rest = pieces.pop()
        lines: Sequence[bytes | OverLong] = pieces
        if pieces:
            if self.is_draining:
                self.is_draining = False
                del pieces[0]
            elif self._held:
                pieces[0] = b"".join((*self._held, pieces[0]))
                self._drop()
            if len(data) > self._limit_bytes or (pieces and len(pieces[0]) > self._limit_bytes):
                lines = [self._bounded(line) for line in pieces]
        if rest and not self.is_draining:
            self._held.append(rest)
            self.held_bytes += len(rest)
            if self.held_bytes > self._limit_bytes:
                lines = [*lines, OverLong(b"".join(self._held)[: self._head_bytes])]
                self._drop()
                self.is_draining = True
        return lines

    def _drop(self) -> None:
        self._held.clear()
        self.held_bytes = 0

    def _bounded(self, line: bytes) -> bytes | OverLong:
        return line if len(line) <= self._limit_bytes else OverLong(line[: self._head_bytes])


def encode_message_in(message: MessageIn) -> bytes:
    """The line that carries a turn: `message` for one request, `messages` for several."""
    turn = message.turn
    requests = turn.requests
    first = requests[0]
    address = turn.address
    of_entity = ""
    state = None
    if address.key is not None:
        key = address.key
        if not (key.isascii() and key.isalnum()):
            of_entity = f'"key":{json_text.quote(key).decode()},"version":{message.state.version},'
        else:
            of_entity = f'"key":"{key}","version":{message.state.version},'
        state = message.state.value
    if len(requests) == 1:
        head = (
            f'{{"id":"{message.id}","ctx":{{"function":"{address.function}",{of_entity}'
            f'{_ctx(first)}}},"message":'
        )
        parts = [head.encode(), first.body]
    else:
        # A turn of several is always an entity's: only a hot key queues.
        ctx = f'{{"function":"{address.function}",{of_entity[:-1]}}}'
        parts = [f'{{"id":"{message.id}","ctx":{ctx},"messages":['.encode()]
        for request in requests:
            opening = f'{{"id":"{message_id(request)}",{_ctx(request)},"message":'
            parts += (opening.encode(), request.body, b"},")
        parts[-1] = b"}]"
    if state is not None:
        parts += (b',"state":', state)
    parts.append(b"}\n")
    return b"".join(parts)


def _ctx(request: Request) -> str:
    trace = "" if request.trace is None else f'"trace":{json_text.quote(request.trace).decode()},'
    meta = ""
    delivery = request.delivery
    if delivery is not None:
        if delivery.answers is not None:
            trace += f'"reply_to":{json_text.quote(delivery.answers).decode()},'
        elif delivery.sender.startswith(cron.SENDER):
            schedule, instant = cron.meta_of(delivery.sender, delivery.sender_version)
            meta = f'"cron":"{schedule}","scheduled":"{instant}"'
    return (
        f'"handler":"{request.handler}","attempt":{request.attempt},"now":"{request.now}",'
        f'"deadline":"{request.deadline}","seed":"{request.seed}",{trace}"meta":{{{meta}}}'
    )


def message_id(request: Request) -> str:
    """The id of one request's message: request id + "." + attempt."""
    return f"{request.id}.{request.attempt}"


def read_hello(text: bytes) -> Hello:
    """What a runtime said of itself. Raises RuntimeBroken with what is wrong with it."""
    try:
        said = json_text.cut_hello(text)
    except json_text.NotCut as problem:
        raise _broken(f"its hello is malformed: {problem}") from None
    if said.protocol != PROTOCOL_VERSION:
        raise _broken(f"its hello asks for protocol {said.protocol}; this host speaks {PROTOCOL_VERSION}")
    if said.pipeline < 1 or said.batch < 1 or said.integers not in (53, 64):
        raise _broken("its hello needs pipeline >= 1, batch >= 1 and integers 53 or 64")
    handlers = None
    if isinstance(said.handlers, dict):
        handlers = {name: Handler(name, cut.reads_only) for name, cut in said.handlers.items()}
    return Hello(
        runtime=said.runtime,
        pipeline=min(said.pipeline, MAX_PIPELINE),
        batch=min(said.batch, MAX_BATCH),
        cancel=said.cancel,
        integers=said.integers,
        handlers=handlers,
        cron=read_declared(json_text.raw(said.cron) or b"null"),
    )


def read_message_out(cut: json_text.CutLine, message: MessageIn, hello: Hello, limits: Limits) -> MessageOut:
    """The checked answer to `message`. Raises Overrun or RuntimeBroken; then nothing of it may be stored."""
    requests = message.turn.requests
    state = None
    if cut.state:
        change, state = _PUT, _read_state(cut, limits)
    else:
        change = _DELETE if cut.delete else _KEEP
    if isinstance(cut.answers, list):
        answers = _read_answers(cut, requests, change, hello, limits)
    elif len(requests) > 1:
        raise _broken(f"it answered a turn of {len(requests)} messages without `answers`")
    else:
        answers = [_read_answer(cut, change is not _KEEP, limits)]
        if cut.effects:
            _add_effects(cut, answers[0], requests[0], hello, limits)
    if change is not _KEEP:
        if message.turn.address.key is None:
            raise _broken("it answered a stateless call with a state")
        if hello.readers:
            _refuse_writes_of_readers(requests, answers, hello.readers)
    return MessageOut(answers, change, state)


def _read_state(cut: json_text.CutLine, limits: Limits) -> bytes:
    if cut.delete:
        raise _broken("it answered with both `state` and `delete`")
    state = bytes(cut.state)
    if len(state) > limits.state_bytes:
        raise Overrun(
            Code.STATE_TOO_LARGE,
            f"the new state has {len(state)} bytes, more than limits.state = {limits.state_bytes}",
        )
    return _checked(state, "state")


def _read_answer(cut: json_text.CutLine | json_text.CutAnswer, changed: bool, limits: Limits) -> Answer:
    response = bytes(cut.response)
    if cut.error is not json_text.UNSET:
        assert isinstance(cut.error, json_text.CutError)
        if changed or response not in (b"", b"null"):
            raise _broken("an answer with `error` carries no state and no response")
        return Answer(error=_read_error(cut.error))
    if not response:
        return Answer(None, None, changed)
    if len(response) > limits.response_bytes:
        raise Overrun(
            Code.RESPONSE_TOO_LARGE,
            f"the response has {len(response)} bytes, more than limits.response = {limits.response_bytes}",
        )
    return Answer(_checked(response, "response"), None, changed)


def _read_answers(
    cut: json_text.CutLine, requests: Sequence[Request], change: Change, hello: Hello, limits: Limits
) -> Sequence[Answer]:
    if len(requests) == 1:
        raise _broken("it answered one message with `answers`")
    if cut.response or cut.effects or isinstance(cut.error, json_text.CutError):
        raise _broken("beside `answers` only `state` or `delete` may stand")
    assert isinstance(cut.answers, list)
    wanted = [message_id(request) for request in requests]
    if [answer.id for answer in cut.answers] != wanted:
        raise _broken(f"its `answers` are not those of the {len(wanted)} messages in their order")
    answers = [
        _read_answer(part, part.changed and part.error is json_text.UNSET, limits) for part in cut.answers
    ]
    for part, answer, request in zip(cut.answers, answers, requests, strict=True):
        if part.effects:
            _add_effects(part, answer, request, hello, limits)
    if any(answer.changed for answer in answers) != (change is not _KEEP):
        raise _broken("`state` or `delete` is due exactly when an answer is not marked `changed: false`")
    return answers


def _read_error(cut: json_text.CutError) -> FunctionError:
    details = json_text.raw(cut.details)
    return FunctionError(
        code=cut.code,
        message=cut.message,
        status=cut.status if 400 <= cut.status <= 499 else 500,
        details=None if details is None else _checked(details, "error details"),
        retry=cut.retry,
    )


def _add_effects(
    cut: json_text.CutLine | json_text.CutAnswer,
    answer: Answer,
    request: Request,
    hello: Hello,
    limits: Limits,
) -> None:
    """Give the answer to `request` its effects, if it may have any."""
    effects = read_effects(bytes(cut.effects), request.address, limits)
    if not effects:
        return
    fault = None
    if request.address.key is None:
        fault = "it answered a stateless call with effects"
    elif request.handler in hello.readers:
        fault = f"handler {request.handler} is declared `reads_only` and answered with effects"
    elif answer.error is not None:
        fault = "an answer with `error` carries no effects"
    elif answer.response not in (None, b"null") and Forward in map(type, effects):
        fault = "an answer that holds `forward` has no response: the caller gets the other entity's"
    if fault is not None:
        raise EffectsRefused(Code.PROTOCOL_ERROR, fault)
    answer.effects = effects


def _refuse_writes_of_readers(
    requests: Sequence[Request], answers: Sequence[Answer], readers: Container[str]
) -> None:
    for request, answer in zip(requests, answers, strict=True):
        if answer.changed and request.handler in readers:
            raise _broken(f"handler {request.handler} is declared `reads_only` and answered with a state")


def _checked(part: bytes, what: str) -> bytes:
    if b"\r" in part:
        part = part.replace(b"\r", b" ")  # white space: a string cannot hold it raw
    try:
        json_text.check_part(part)
    except RequestRefused as refusal:
        raise _broken(f"its {what}: {refusal.detail}") from None
    return part


def _broken(detail: str) -> RuntimeBroken:
    return RuntimeBroken(Code.PROTOCOL_ERROR, detail)
