"""Plays the host's cases against the core, without a process: the runtime is the script.

`Core` is the modules of the core, as they are or altered (altered.py). `play` raises `Unlike` with what the
case expected where the core did something else.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

import attrs
import msgspec

from inversion.config import Channel, Correlate, Function, HelloRule, Limits
from inversion.conformance.cases import Act, Case, Step
from inversion.conformance.matching import read, unlike
from inversion.errors import Code, InversionError, ProcessDied, RequestRefused, RetryAsked
from inversion.messages import Address, Delivery, MessageIn, Request, State, Turn

#: What a script may set, and how its value is read.
SETTINGS = {
    "strict": lambda value: {"strict": value},
    "hello": lambda value: {"hello": HelloRule(value)},
    "correlate": lambda value: {"correlate": Correlate(value)},
    "channel": lambda value: {"channel": Channel(value)},
}


class Unlike(AssertionError):
    """The core did something else than the case expects."""


@attrs.frozen
class Core:
    json_text: ModuleType
    effects: ModuleType
    frames: ModuleType
    conversation: ModuleType
    verdict: ModuleType


class _Ctx(msgspec.Struct):
    function: str
    key: str | None = None
    version: int = 0
    handler: str = ""
    attempt: int = 1
    now: str = ""
    deadline: str = ""
    seed: str = ""
    trace: str | None = None
    reply_to: str | None = None


class _Member(_Ctx):
    function: str = ""
    id: str = ""
    message: msgspec.Raw = msgspec.Raw(b"null")


class _Line(msgspec.Struct):
    id: str
    ctx: _Ctx
    message: msgspec.Raw = msgspec.Raw(b"")
    messages: list[_Member] = []
    state: msgspec.Raw = msgspec.Raw(b"")


class Script:
    """One play of one case. `piecemeal`: what the runtime writes comes a byte at a time."""

    def __init__(self, core: Core, case: Case, *, piecemeal: bool) -> None:
        self._core = core
        self._case = case
        self._piecemeal = piecemeal
        self._function: dict[str, Any] = {}
        self._limits: dict[str, int] = {}
        self._rerun = 1
        self._retries = self._deaths = 0
        self._in_time = True
        self._body: bytes | None = None
        self._delivered = False
        self._conversation: Any = None
        self._requests: dict[str, Request] = {}
        self._last = ""  #: what was concluded last
        self._happened: list[str] = []  #: what the core concluded, and nobody spoke of yet

    def play(self) -> None:
        for step in self._case.steps:
            if self._happened and step.act is not Act.CONCLUDE:
                raise Unlike(f"before line {step.line}: the host concludes {self._happened[0]}")
            self._take(step)
        if self._happened:
            raise Unlike(f"at the end: the host concludes {self._happened[0]}")

    def _take(self, step: Step) -> None:
        match step.act:
            case Act.CONFIGURE:
                self._configure(*step.text.split(" = ", 1), step.data.split(b" = ", 1)[1])
            case Act.SEND:
                self._send(step)
            case Act.LINE:
                self._receive(step.data + b"\n")
            case Act.TORN:
                self._receive(step.data)
            case Act.EOF:
                self._end()
            case Act.CONCLUDE:
                self._conclude(step)
            case _:
                raise ValueError(f"{self._case.name}:{step.line}: {step.act} is no line of a host's case")

    # -- the function and what comes from outside ----------------------------------------------------------

    def _configure(self, name: str, text: str, data: bytes) -> None:
        if name.startswith("limits."):
            self._limits[f"{name[7:]}_bytes"] = int(text)
        elif name == "body":
            self._body = data
        elif name in ("rerun", "retries", "deaths", "in_time", "delivered"):
            setattr(self, f"_{name}", json.loads(text))
        else:
            self._function |= SETTINGS[name](json.loads(text))

    def _begun(self) -> Any:
        if self._conversation is None:
            function = Function("f", ("x",), Path(), **self._function)
            self._conversation = self._core.conversation.Conversation(function, Limits(**self._limits))
        return self._conversation

    def _send(self, step: Step) -> None:
        line = msgspec.json.decode(step.data, type=_Line)
        own = line.messages or [
            _Member(**{name: getattr(line.ctx, name) for name in _Ctx.__struct_fields__ if name != "version"})
        ]
        if not line.messages:
            own[0].id, own[0].message = line.id, line.message
        address = Address(line.ctx.function, line.ctx.key)
        requests = [self._request(each, address) for each in own]
        turn = Turn(address, requests, 0.0)
        state = State(bytes(line.state) or None, line.ctx.version, None)
        sent = self._begun().send(MessageIn.of(turn, state))
        if sent != step.data + b"\n":
            raise Unlike(f"line {step.line}: the host sends {sent[:400]!r}, not {step.data[:400]!r}")

    def _request(self, own: _Member, address: Address) -> Request:
        request_id, _, attempt = own.id.rpartition(".")
        body = bytes(own.message)
        if self._body is not None:
            body, self._body = self._core.json_text.check(self._body), None
        delivery = None
        if own.reply_to is not None or self._delivered:
            delivery = Delivery(address, "f/other", 1, 1, request_id, own.handler, body, answers=own.reply_to)
        return Request(
            id=request_id,
            address=address,
            handler=own.handler,
            body=body,
            content_type="application/json",
            received_s=0.0,
            deadline_s=30.0,
            caller_timeout_s=None,
            now=own.now,
            deadline=own.deadline,
            seed=own.seed,
            trace=own.trace,
            respond=lambda response: None,
            attempt=int(attempt),
            retries=self._retries,
            deaths=self._deaths,
            delivery=delivery,
        )

    # -- what the runtime writes ---------------------------------------------------------------------------

    def _receive(self, data: bytes) -> None:
        begun = self._begun()
        before = dict(begun.in_flight)
        size = 1 if self._piecemeal and len(data) < 10_000 else max(len(data), 1)
        for start in range(0, len(data), size):
            for event in begun.receive(data[start : start + size]):
                self._note(event, before)

    def _note(self, event: Any, before: Mapping[str, MessageIn]) -> None:
        known = self._core.conversation
        match event:
            case known.Said(hello):
                said = attrs.asdict(
                    hello, recurse=False, filter=lambda field, _: field.name not in ("cron", "readers")
                )
                if hello.handlers is not None:
                    said["handlers"] = {
                        name: {"reads_only": each.reads_only} for name, each in hello.handlers.items()
                    }
                self._happened.append(f"hello {json.dumps(said)}")
            case known.Answered(id, InversionError() as error):
                self._happened.append(f"fails {id} {error.code.wire}: {error.detail}")
                self._judge(error, before[id])
            case known.Answered(id, out):
                self._answered(id, out, before[id])
            case known.Stray(lines):
                self._happened += [f"log {line.decode(errors='backslashreplace')}" for line in lines]
            case known.Broken(reason):
                self._happened.append(f"broken {reason}")

    def _answered(self, id: str, out: Any, message: MessageIn) -> None:
        asked = self._core.verdict.retry_asked(message.turn.requests, out)
        if asked:
            self._judge(RetryAsked(), message, always=True)
            return
        several = len(out.answers) > 1
        answers = [self._answer(each) for each in out.answers]
        whole: dict[str, object] = dict(answers[0])
        if several:
            ids = [self._core.frames.message_id(request) for request in message.turn.requests]
            members = zip(ids, out.answers, answers, strict=True)
            whole = {"answers": [{"id": name, "changed": of.changed} | rest for name, of, rest in members]}
        if out.state is not None:
            whole["state"] = _Splice(out.state)
        if out.change.value == "delete":
            whole["delete"] = True
        self._happened.append(f"answer {id} {_spliced(whole)}")

    def _answer(self, answer: Any) -> dict[str, object]:
        said: dict[str, object] = {}
        if answer.error is not None:
            error = answer.error
            said["error"] = {"code": error.code, "message": error.message, "status": error.status}
            if error.details is not None:
                said["error"]["details"] = _Splice(error.details)  # type: ignore[index]
        elif answer.response is not None:
            said["response"] = _Splice(answer.response)
        if answer.effects:
            said["effects"] = [
                {type(effect).__name__.lower(): _fields_of(effect)} for effect in answer.effects
            ]
        return said

    def _end(self) -> None:
        """Its output is over, and it has ended."""
        begun = self._begun()
        if torn_bytes := begun.end():
            self._happened.append(f"torn {torn_bytes}")
        for message in begun.in_flight.values():
            self._judge(ProcessDied(Code.FUNCTION_CRASHED, "it ended"), message, always=True)
        self._conversation = None

    def _judge(self, error: InversionError, message: MessageIn, *, always: bool = False) -> None:
        """What becomes of the requests of a turn that failed; of one alone only where it may run again."""
        turn = message.turn
        if not always and len(turn.requests) == 1:
            return
        for request in turn.requests:
            now_s = 1.0 if self._in_time else 31.0
            verdict = self._core.verdict.judge(error, turn, request, rerun=self._rerun, now_s=now_s)
            name = self._core.frames.message_id(request)
            if isinstance(verdict, self._core.verdict.RunAgain):
                self._happened.append(f"again {name} {verdict.how.value}")
            else:
                self._happened.append(f"gives up {name} {verdict.error.code.wire}")

    # -- what the case expects of it -----------------------------------------------------------------------

    def _conclude(self, step: Step) -> None:
        word, _, rest = step.text.partition(" ")
        if word == "depth":
            self._same(step, f"depth {self._begun().depth}")
        elif word == "waiting":
            self._same(step, " ".join(["waiting", *self._begun().in_flight]))
        elif word == "refused":
            self._same(step, f"refused {self._refusal()}")
        elif word == "holds":
            if rest not in self._last:
                raise Unlike(f"line {step.line}: {rest} does not stand in {self._last[:300]}")
        elif not self._happened:
            raise Unlike(f"line {step.line}: nothing happened, expected {step.text[:200]}")
        else:
            self._last = self._happened.pop(0)
            self._compare(step, word, rest, self._last)

    def _compare(self, step: Step, word: str, rest: str, happened: str) -> None:
        """Answers by value, a hello by the fields that are named, sentences by a part of them."""
        if not happened.startswith(f"{word} "):
            raise Unlike(f"line {step.line}: expected {step.text[:200]}, the host concludes {happened[:300]}")
        said = happened[len(word) + 1 :]
        if word in ("answer", "hello"):
            place, _, wanted = rest.partition(" ") if word == "answer" else ("", "", rest)
            if word == "answer":
                name, _, said = said.partition(" ")
                self._same(step, f"answer {name} {wanted}")
            found, hoped = read(said.encode("utf-8", "surrogatepass")), read(wanted.encode())
            if word == "hello":
                assert isinstance(found, dict)
                assert isinstance(hoped, dict)
                found = {name: value for name, value in found.items() if name in hoped}
            if (fault := unlike(hoped, found)) is not None:
                raise Unlike(f"line {step.line}: {place} {fault}; it was {said[:300]}")
        elif word in ("broken", "fails"):
            first, _, part = rest.partition(": ") if word == "fails" else ("", "", rest)
            if not said.startswith(first) or part not in said:
                raise Unlike(f"line {step.line}: expected {step.text[:200]}, it is {happened[:300]}")
        else:
            self._same(step, happened)

    def _refusal(self) -> str:
        """What the door says to the body that came, and what the function's runtime can hold."""
        assert self._body is not None
        body, self._body = self._body, None
        try:
            checked = self._core.json_text.check(body)
            hello = self._begun().hello
            if hello is not None and hello.integers == 53:
                self._core.json_text.check_integers_53(checked)
        except RequestRefused as refusal:
            return refusal.code.wire
        return "not"

    def _same(self, step: Step, happened: str) -> None:
        if step.text != happened:
            raise Unlike(f"line {step.line}: expected {step.text[:200]}, it is {happened[:300]}")


@attrs.frozen
class _Splice:
    """JSON as bytes, to stand in other JSON as it is."""

    text: bytes


def _spliced(value: object) -> str:
    match value:
        case _Splice(text):
            return text.decode()
        case dict():
            return f"{{{','.join(f'{json.dumps(name)}:{_spliced(each)}' for name, each in value.items())}}}"
        case list() | tuple():
            return f"[{','.join(map(_spliced, value))}]"
        case _:
            return json.dumps(value)


def _fields_of(effect: Any) -> dict[str, object]:
    said: dict[str, object] = {}
    for field in attrs.fields(type(effect)):
        value = getattr(effect, field.name)
        if field.name == "headers":
            value = dict(value) or None
        if isinstance(value, bytes):
            said[field.name] = _Splice(value)
        elif value is not None or field.name == "key":
            said[field.name] = value
    return said


def play(core: Core, case: Case, *, also_piecemeal: bool = True) -> None:
    """Play it with whole lines, then with a byte at a time. Raises Unlike."""
    Script(core, case, piecemeal=False).play()
    if also_piecemeal:
        Script(core, case, piecemeal=True).play()
