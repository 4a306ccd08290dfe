"""Admission: makes a Request of a call, posts it, and waits for its one answer.

Everything that can be refused without running anything is refused here: unknown functions and handlers,
bodies that are no JSON, integers a runtime cannot hold, full queues, a draining node.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from functools import lru_cache
from hashlib import sha256
from time import gmtime, perf_counter, strftime, time_ns
from typing import Final, Protocol

from inversion import json_text
from inversion.config import Function, Mode
from inversion.errors import Code, InversionError, Outcome, RequestRefused
from inversion.gate import DirectGate, Walk
from inversion.ids import new_id, new_seed
from inversion.mailbox import Pool, PostOffice
from inversion.messages import Address, Condition, Hello, Idempotency, Receipt, Request, Response, State
from inversion.observe.metrics import Counters


class SpokenPool(Pool, Protocol):
    @property
    def hello(self) -> Hello | None:
        """What the function's runtime said of itself; None while nobody knows."""


class StateReader(Protocol):
    async def read_state(self, address: Address, deadline_s: float) -> State: ...


class Answers(Protocol):
    async def find(self, receipt: Receipt, deadline_s: float) -> Response | None:
        """The answer to a message from outside, waited for; None: not by then."""


class _Caller:
    """The walk that waits for one answer."""

    __slots__ = ("_walk", "response")

    def __init__(self) -> None:
        self._walk: Walk[_Caller, Response] | None = None
        self.response: Response | None = None

    def respond(self, response: Response) -> None:
        walk, self._walk = self._walk, None
        if walk is None:
            self.response = response
        else:
            walk.resume(response)

    def board(self, walk: Walk[_Caller, Response]) -> None:
        self._walk = walk


#: Members of an Enum are looked up slowly, and these are for each request.
_LINES, _CGI, _APPLIED = Mode.LINES, Mode.CGI, Outcome.APPLIED
_ANSWERS: Final[DirectGate[_Caller, Response]] = DirectGate()


class Calls:
    """What the front door and the admin door talk to."""

    def __init__(
        self,
        functions: Mapping[str, Function],
        office: PostOffice,
        pools: Mapping[str, SpokenPool],
        states: StateReader,
        answers: Answers,
        counters: Counters,
    ):
        self._functions = functions  # a reload changes it
        self._office = office
        self._pools = pools
        self._states = states
        self._answers = answers
        self._counters = counters
        self.draining = False

    def function(self, name: str) -> Function:
        """The function of that name. Raises RequestRefused (`no_function`) naming the nearest ones."""
        function = self._functions.get(name)
        if function is None:
            near = difflib.get_close_matches(name, self._functions, n=3)
            advice = f"did you mean {' or '.join(near)}?" if near else "see /v1/functions on the admin port"
            raise RequestRefused(Code.NO_FUNCTION, f"no function is named {name!r}: {advice}")
        return function

    async def call(
        self,
        function: str,
        key: str | None,
        handler: str,
        body: bytes,
        *,
        content_type: str,
        timeout_s: float | None,
        trace: str | None,
        once: Idempotency | None = None,
        condition: Condition | None = None,
        arguments: tuple[str, ...] = (),
    ) -> tuple[str, Response]:
        """Run one call through the six steps: (request id, response). Raises RequestRefused at the door."""
        received_s = perf_counter()
        now_ms = time_ns() // 1_000_000
        found = self.function(function)
        if found.mode is _LINES:
            body = self.admit(found, handler, body)
        elif found.mode is _CGI:
            raise not_called(found)
        elif found.input:
            body = _taken(found, content_type, body)
        allowed_s = found.timeout_s if timeout_s is None else min(found.timeout_s, timeout_s)
        caller = _Caller()
        # By place, which costs half of what names do: id, address, handler, body, content_type, received_s,
        # deadline_s, caller_timeout_s, now, deadline, seed, trace, respond.
        request = Request(
            new_id(),
            Address(function, key),
            handler,
            body,
            content_type,
            received_s,
            received_s + allowed_s,
            timeout_s,
            rfc3339(now_ms),
            rfc3339(now_ms + int(allowed_s * 1_000)),
            new_seed(),
            trace,
            caller.respond,
        )
        if condition is not None:
            if key is None:
                raise RequestRefused(Code.BAD_REQUEST, "a call without a key has no version to compare")
            request.condition = condition
        if arguments:
            request.arguments = arguments
        if once is not None:
            once.hash = request_hash(handler, condition, body, arguments)
            request.idempotency = once
        self._office.post(request)
        response = caller.response or await _ANSWERS.wait(caller)
        if response.elsewhere is not None:
            response = await self._follow(response, response.elsewhere, request.deadline_s)
        counted = self._counters.functions[function]
        counted.replayed += response.replayed
        outcome = _APPLIED
        if response.error is not None:
            outcome = response.error.outcome
        elif response.function_error is not None:
            counted.failed_answers += 1
            if response.elsewhere is None:
                outcome = Outcome.NOT_APPLIED
        counted.answered(outcome, perf_counter() - received_s)
        return request.id, response

    async def _follow(self, response: Response, receipt: Receipt, deadline_s: float) -> Response:
        """The answer of the entity to which it was forwarded. Whatever it is, the forwarding was applied."""
        answer = Response()
        try:
            found = await self._answers.find(receipt, deadline_s)
        except InversionError as failure:
            answer.error = failure
        else:
            if found is not None:
                answer = found
            else:
                answer.error = InversionError(
                    Code.DEADLINE, "it was forwarded, and there was no answer by the deadline: see Location"
                )
        if answer.error is not None:
            answer.error.outcome = Outcome.APPLIED
        answer.version, answer.marks = response.version, response.marks
        answer.replayed, answer.elsewhere = response.replayed, receipt
        return answer

    async def read_state(self, function: str, key: str) -> State:
        """The newest committed state of an entity. Raises InversionError when the database is away."""
        found = self.function(function)
        return await self._states.read_state(Address(function, key), perf_counter() + found.timeout_s)

    def admit(self, function: Function, handler: str, body: bytes) -> bytes:
        """A JSON body as the function may get it. Raises RequestRefused."""
        if function.mode is _CGI:
            raise not_called(function)
        hello = self._pools[function.name].hello
        checked = json_text.check(body) if body else b"null"
        if hello is not None:
            if hello.handlers is not None and handler not in hello.handlers:
                known = ", ".join(sorted(hello.handlers)) or "none"
                raise RequestRefused(
                    Code.NO_HANDLER, f"function {function.name} has no handler {handler!r}; it has: {known}"
                )
            if hello.integers == 53:
                json_text.check_integers_53(checked)
        return checked


def not_called(function: Function) -> RequestRefused:
    """To whoever calls a CGI program, or sends it something."""
    return RequestRefused(
        Code.BAD_REQUEST,
        f'{function.name} is a CGI program (mode = "cgi"): it is at /v1/http/{function.name}/, '
        "and takes no calls and no messages",
    )


def _taken(function: Function, content_type: str, body: bytes) -> bytes:
    """A body of the type that a program takes. Raises RequestRefused."""
    if function.input == "json":
        return json_text.check(body)
    if content_type.partition(";")[0].strip().lower() != function.input.lower():
        raise RequestRefused(
            Code.CONTENT_TYPE,
            f"{function.name} takes a body of type {function.input}: say so in Content-Type",
        )
    return body


def request_hash(
    handler: str, condition: Condition | None, body: bytes, arguments: tuple[str, ...] = ()
) -> bytes:
    """What a repeat of a keyed request must equal: handler, condition, arguments, the bytes of its body."""
    if condition is None and not arguments:
        return sha256(b"%b\0\0%b" % (handler.encode(), body)).digest()
    asked = "" if condition is None else f"{condition.versions}{condition.exists}"
    if arguments:
        asked += ascii(arguments)
    return sha256(b"%b\0%b\0%b" % (handler.encode(), asked.encode(), body)).digest()


def rfc3339(unix_ms: int) -> str:
    """A time as `ctx.now` and `ctx.deadline` carry it: UTC, milliseconds, `Z`."""
    text = _times.get(unix_ms)
    if text is None:
        if len(_times) >= _MOST_TIMES:
            _times.clear()
        second, millisecond = divmod(unix_ms, 1_000)
        text = f"{_to_the_second(second)}.{millisecond:03d}Z"
        _times[unix_ms] = text
    return text


@lru_cache(maxsize=64)  # now, and now with the timeout of each function
def _to_the_second(unix_s: int) -> str:
    return strftime("%Y-%m-%dT%H:%M:%S", gmtime(unix_s))


#: Many requests share a millisecond, and putting it into words costs more than their ids.
_MOST_TIMES: Final = 256
_times: dict[int, str] = {}
