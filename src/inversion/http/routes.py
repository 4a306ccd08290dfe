"""The ingress: from a path to a call, and from its response to HTTP.

    POST /v1/call/{fn}[/{key}][/{handler}]    GET /v1/state/{fn}/{key}    GET /errors/{code}

and those of sending.py and programs.py. What later releases bring is refused by name: a caller who asks
for it must never be served without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Final, Protocol

from inversion import config, ids, json_text
from inversion.errors import Code, InversionError, Outcome, RequestRefused
from inversion.http import sending
from inversion.http.asked import (
    CONDITIONS,
    TRACE,
    MethodRefused,
    draining,
    function_name,
    handler_name,
    prefers_async,
    read_arguments,
    read_condition,
    read_key,
    read_once,
    read_timeout_s,
)
from inversion.http.framing import HttpRequest
from inversion.http.problem import problem, title
from inversion.http.programs import Programs
from inversion.http.sending import Sends
from inversion.http.service import HttpResponse
from inversion.messages import Condition, Idempotency, Response, State, Step
from inversion.names import DEFAULT_HANDLER

PATHS: Final = (
    "POST /v1/call/{function}[/{key}][/{handler}], GET /v1/state/{function}/{key}, "
    "POST /v1/send/{function}[/{key}][/{handler}], GET /v1/output/{function}/{key or -}/{id}, "
    "ANY /v1/http/{function}/..."
)

_LATER_PATHS: Final = {
    b"events": "/v1/events",
}

_FIELDS: Final = b"Content-Type: %b\r\nInversion-Id: %b\r\nInversion-Outcome: applied\r\n"
_FIELDS_AND_VERSION: Final = _FIELDS + b'ETag: "%d"\r\n%b'
_TIMING_FORMAT: Final = b"Server-Timing: %btotal;dur=%%.3f\r\n" % b"".join(
    f"{step.value};dur=%.3f, ".encode("ascii") for step in Step
)
#: The answer is the recorded one of an earlier request with the same Idempotency-Key.
_REPLAYED: Final = b"Inversion-Replayed: true\r\n"
_TOTAL_FORMAT: Final = b"Server-Timing: total;dur=%.3f\r\n"


class Calls(Protocol):
    """What answers calls: calls.py, or a test's double."""

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
        """The request's id and its response. Raises InversionError when there is no id yet."""
        ...

    async def read_state(self, function: str, key: str) -> State:
        """The newest state of an entity."""
        ...

    @property
    def draining(self) -> bool:
        """Whether what comes now is refused."""
        ...

    def function(self, name: str) -> config.Function:
        """Raises RequestRefused (`no_function`), naming the nearest names."""
        ...


class Ingress:
    """The application behind port 8080."""

    def __init__(
        self,
        calls: Calls,
        sends: Sends | None = None,
        *,
        read_state: bool,
        tally: Callable[[Code], None] = lambda code: None,
        programs: Programs | None = None,
    ) -> None:
        self._calls = calls
        self._programs = programs  #: None: there are none here
        self._sends = sends  #: None: there are none here
        self._read_state = read_state
        self._tally = tally  #: told the code of every refusal and failure that is ours

    async def answer(self, request: HttpRequest) -> HttpResponse:
        """One request, one answer; every failure is an InversionError."""
        segments = request.path.split(b"/")
        if len(segments) >= 3 and segments[1] == b"v1":
            if segments[2] == b"call":
                return await self._call(request, segments)
            if segments[2] == b"state":
                return await self._state(request, segments)
            if segments[2] in (b"send", b"output") and self._sends is not None:
                return await self._outside(self._sends, request, segments)
            if segments[2] == b"http" and self._programs is not None:
                return self._programs.answer(request, segments)
            if segments[2] in _LATER_PATHS:
                raise RequestRefused(Code.BAD_REQUEST, f"{_LATER_PATHS[segments[2]]} is not built yet")
        if len(segments) == 3 and segments[1] == b"errors":
            return _explain(request, segments[2])
        if request.path == b"/openapi.json":
            raise RequestRefused(Code.BAD_REQUEST, "/openapi.json is not built yet")
        raise RequestRefused(Code.BAD_REQUEST, f"no such path; there are: {PATHS}")

    def refuse(self, error: InversionError) -> HttpResponse:
        """An error that no call produced."""
        self._tally(error.code)
        return refuse(error)

    async def _call(self, request: HttpRequest, segments: Sequence[bytes]) -> HttpResponse:
        begun_s = perf_counter()
        if request.method != b"POST":
            raise MethodRefused("a call is a POST", b"POST")
        if self._calls.draining and not request.early:
            raise draining()
        fields = request.fields
        function, key, handler = self._target(segments)
        arguments: tuple[str, ...] = ()
        if request.query is not None:
            arguments = read_arguments(self._calls.function(function), request.query)
        prefer = fields.get(b"prefer")
        if prefer is not None and prefers_async(prefer):
            if self._sends is None or arguments:
                raise RequestRefused(
                    Code.BAD_REQUEST, "Prefer: respond-async: nothing is sent here, or with arguments"
                )
            target = self._calls.function(function), key, handler
            return await sending.send(self._sends, request, target, preferred=True)
        timeout = fields.get(b"inversion-timeout")
        once = fields.get(b"idempotency-key")
        trace = fields.get(b"traceparent")
        request_id, response = await self._calls.call(
            function,
            key,
            handler,
            request.body,
            content_type=fields.get(b"content-type", b"").decode("latin-1"),
            timeout_s=None if timeout is None else read_timeout_s(timeout),
            trace=None if trace is None or TRACE.fullmatch(trace) is None else trace.decode("ascii"),
            once=None if once is None else read_once(once, prefer),
            condition=None if CONDITIONS.isdisjoint(fields) else read_condition(fields),
            arguments=arguments,
        )
        if response.error is not None:
            self._tally(response.error.code)
        return _render(request_id, response, begun_s)

    def _target(self, segments: Sequence[bytes]) -> tuple[str, str | None, str]:
        """Function, key and handler that a path names."""
        count = len(segments)
        if count > 6 or count < 4:
            raise RequestRefused(Code.BAD_REQUEST, f"a call is {PATHS}")
        function = self._calls.function(function_name(segments[3]))
        if count == 4:
            return function.name, None, DEFAULT_HANDLER
        if function.state:
            handler = handler_name(segments[5]) if count == 6 else DEFAULT_HANDLER
            return function.name, read_key(segments[4]), handler
        if count == 6:
            raise RequestRefused(
                Code.BAD_REQUEST,
                f"{function.name} keeps no state: a call of it has no key, only a handler behind the name",
            )
        return function.name, None, handler_name(segments[4])

    async def _outside(self, sends: Sends, request: HttpRequest, segments: Sequence[bytes]) -> HttpResponse:
        """Messages from outside."""
        if self._calls.draining and not request.early:
            raise draining()
        if segments[2] == b"send" and request.method == b"POST":
            name, key, handler = self._target(segments)
            return await sending.send(sends, request, (self._calls.function(name), key, handler))
        function = self._calls.function(function_name(segments[3] if len(segments) > 3 else b""))
        kind = segments[2].decode("ascii")
        if kind == "output":
            receipt = sending.read_receipt(function, segments, kind)
            return await sending.output(sends, request, receipt, self._tally)
        if request.method != b"DELETE":
            raise MethodRefused("a send is a POST; DELETE withdraws one", b"POST, DELETE")
        return await sending.withdraw(sends, sending.read_receipt(function, segments, kind))

    async def _state(self, request: HttpRequest, segments: Sequence[bytes]) -> HttpResponse:
        if request.method not in (b"GET", b"HEAD"):
            raise MethodRefused("a state is read with GET", b"GET, HEAD")
        if self._calls.draining:
            raise draining()
        if not self._read_state:
            raise RequestRefused(
                Code.FORBIDDEN, "reading states is off here: see read_state under [http] in inversion.toml"
            )
        if request.query is not None:
            raise RequestRefused(
                Code.BAD_REQUEST, "a state takes no query: version, at and watch are not built yet"
            )
        if len(segments) != 5:
            raise RequestRefused(Code.BAD_REQUEST, "a state is at /v1/state/{function}/{key}")
        function = self._calls.function(function_name(segments[3]))
        if not function.state:
            raise RequestRefused(Code.BAD_REQUEST, f"{function.name} keeps no state")
        key = read_key(segments[4])
        state = await self._calls.read_state(function.name, key)
        etag = b'ETag: "%d"\r\n' % state.version
        if state.value is None:
            # A tombstone has a version too: whoever writes next with If-Match needs it.
            error = RequestRefused(
                Code.NO_STATE, f"{function.name} has no state under this key", outcome=Outcome.APPLIED
            )
            self._tally(error.code)
            return problem(error, more_fields=b"" if state.turn is None else etag)
        fields = _FIELDS % (b"application/json", ids.new_id().encode("ascii"))
        return HttpResponse(200, fields + etag, state.value)


def refuse(error: InversionError) -> HttpResponse:
    """An error as an answer; 405 gets its Allow."""
    if isinstance(error, MethodRefused):
        return problem(error, more_fields=b"Allow: %b\r\n" % error.allowed)
    return problem(error)


def _render(request_id: str, response: Response, begun_s: float) -> HttpResponse:
    """Step 6 in HTTP."""
    timing = _server_timing(begun_s, response.marks)
    if response.replayed:
        timing = _REPLAYED + timing
    failure = response.error or response.function_error
    if failure is not None:
        if response.version is not None:
            timing = b'ETag: "%d"\r\n%b' % (response.version, timing)
        if response.elsewhere is None:
            return problem(failure, request_id, timing)
        timing += b"Location: %b\r\n" % sending.place_of(response.elsewhere)
        return problem(failure, request_id, timing, function_outcome=Outcome.APPLIED)
    content_type = response.content_type.encode("latin-1")
    if response.version is None:
        fields = _FIELDS % (content_type, request_id.encode("ascii")) + timing
    else:
        fields = _FIELDS_AND_VERSION % (
            content_type,
            request_id.encode("ascii"),
            response.version,
            timing,
        )
    return HttpResponse(200, fields, response.body)


def _server_timing(begun_s: float, marks: Sequence[float]) -> bytes:
    """How long each step took, in milliseconds; `send_response` up to here. A wait is part of its step:
    for the entity of receive_request, for a process of send_message_in."""
    now_s = perf_counter()
    if len(marks) != 5:
        return _TOTAL_FORMAT % ((now_s - begun_s) * 1e3)
    received, loaded, sent, answered, stored = marks
    return _TIMING_FORMAT % (
        (received - begun_s) * 1e3,
        (loaded - received) * 1e3,
        (sent - loaded) * 1e3,
        (answered - sent) * 1e3,
        (stored - answered) * 1e3,
        (now_s - stored) * 1e3,
        (now_s - begun_s) * 1e3,
    )


def _explain(request: HttpRequest, segment: bytes) -> HttpResponse:
    """Where the `type` of a problem leads."""
    if request.method not in (b"GET", b"HEAD"):
        raise MethodRefused("an error is explained by GET", b"GET, HEAD")
    for code in Code:
        if code.wire.encode("ascii") == segment:
            body = json_text.encode({"code": code.wire, "status": code.status, "title": title(code)})
            return HttpResponse(200, _FIELDS % (b"application/json", ids.new_id().encode("ascii")), body)
    raise RequestRefused(Code.BAD_REQUEST, "no such code: see the closed list in the documentation")
