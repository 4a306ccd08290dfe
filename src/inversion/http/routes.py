"""The ingress: from a path to a call, and from its response to HTTP.

    POST /v1/call/{fn}[/{key}][/{handler}]    GET /v1/state/{fn}/{key}    GET /errors/{code}

The path is split before it is percent-decoded, once. What later releases bring (keys, conditions, sends)
is refused by name: a caller who asks for exactly-once must never be served without it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Final, Protocol
from urllib.parse import unquote_to_bytes

from inversion import config, ids, json_text
from inversion.errors import Code, InversionError, Outcome, RequestRefused
from inversion.http.framing import HttpRequest
from inversion.http.problem import problem, title
from inversion.http.service import HttpResponse
from inversion.messages import Condition, Once, Response, State, Step
from inversion.names import CONTROL, DEFAULT_HANDLER, MAX_KEY_BYTES, NO_KEY

PATHS: Final = "POST /v1/call/{function}[/{key}][/{handler}], GET /v1/state/{function}/{key}"

_NAME = re.compile(rb"[a-z][a-z0-9_-]{0,62}")
#: What most keys are: nothing to decode, nothing to look up.
_PLAIN_KEY = re.compile(rb"[A-Za-z0-9._~:@-]{1,200}")
_BAD_PERCENT = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_TIMEOUT = re.compile(rb"([0-9]{1,9})(ms|s)")
#: W3C Trace Context, section 3.2: version 00, or a later one with more behind it; no id all zeros.
_TRACE_IDS: Final = rb"-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
_TRACE = re.compile(rb"00" + _TRACE_IDS + rb"|(?!00|ff)[0-9a-f]{2}" + _TRACE_IDS + rb"(?:-[!-~]*)?")

_PREFERS_LATER = re.compile(rb"(?i)(?:^|[,;\s])(?:respond-async\b|wait\s*=\s*(?!0+\s*(?:[,;]|$)))")
_WAITS_NOT = re.compile(rb"(?i)(?:^|[,;\s])wait\s*=\s*0+\s*(?:[,;]|$)")
#: The draft's quotes (draft-ietf-httpapi-idempotency-key-header) are part of the key: whoever sends them
#: sends them again.
_IDEMPOTENCY_KEY = re.compile(rb"[!-~]{1,200}")

#: Fields that ask for what is not built yet.
_LATER: Final = {
    b"prefer": "Prefer: respond-async and waiting for a time are not built yet",
}
_CONDITIONS: Final = frozenset((b"if-match", b"if-none-match"))
_VERSIONS = re.compile(rb'\s*"[0-9]{1,18}"(?:\s*,\s*"[0-9]{1,18}")*\s*')
_DIGITS = re.compile(rb"[0-9]+")
_LATER_NAMES: Final = frozenset(_LATER)
_LATER_PATHS: Final = {
    b"send": "/v1/send",
    b"output": "/v1/output",
    b"http": "/v1/http",
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
        once: Once | None = None,
        condition: Condition | None = None,
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
        self, calls: Calls, *, read_state: bool, tally: Callable[[Code], None] = lambda code: None
    ) -> None:
        self._calls = calls
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
            raise _draining()
        fields = request.fields
        if not _LATER_NAMES.isdisjoint(fields):
            _refuse_later(fields)
        if request.query is not None:
            raise RequestRefused(Code.BAD_REQUEST, "a call takes no query: its input is the body")
        function, key, handler = self._target(segments)
        timeout = fields.get(b"inversion-timeout")
        once = fields.get(b"idempotency-key")
        trace = fields.get(b"traceparent")
        request_id, response = await self._calls.call(
            function,
            key,
            handler,
            request.body,
            content_type=fields.get(b"content-type", b"").decode("latin-1"),
            timeout_s=None if timeout is None else _timeout_s(timeout),
            trace=None if trace is None or _TRACE.fullmatch(trace) is None else trace.decode("ascii"),
            once=None if once is None else _once(once, fields),
            condition=None if _CONDITIONS.isdisjoint(fields) else _condition(fields),
        )
        if response.error is not None:
            self._tally(response.error.code)
        return _render(request_id, response, begun_s)

    def _target(self, segments: Sequence[bytes]) -> tuple[str, str | None, str]:
        """Function, key and handler that a path names."""
        count = len(segments)
        if count > 6 or count < 4:
            raise RequestRefused(Code.BAD_REQUEST, f"a call is {PATHS}")
        function = self._calls.function(_function_name(segments[3]))
        if count == 4:
            return function.name, None, DEFAULT_HANDLER
        if function.state:
            handler = _handler(segments[5]) if count == 6 else DEFAULT_HANDLER
            return function.name, read_key(segments[4]), handler
        if count == 6:
            raise RequestRefused(
                Code.BAD_REQUEST,
                f"{function.name} keeps no state: a call of it has no key, only a handler behind the name",
            )
        return function.name, None, _handler(segments[4])

    async def _state(self, request: HttpRequest, segments: Sequence[bytes]) -> HttpResponse:
        if request.method not in (b"GET", b"HEAD"):
            raise MethodRefused("a state is read with GET", b"GET, HEAD")
        if self._calls.draining:
            raise _draining()
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
        function = self._calls.function(_function_name(segments[3]))
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


def _draining() -> RequestRefused:
    return RequestRefused(Code.DRAINING, "this node is shutting down; try another", retry_after_s=1)


class MethodRefused(RequestRefused):
    """405, which must name the methods that are allowed."""

    def __init__(self, detail: str, allowed: bytes) -> None:
        super().__init__(Code.METHOD, detail)
        self.allowed = allowed


def refuse(error: InversionError) -> HttpResponse:
    """An error as an answer; 405 gets its Allow."""
    if isinstance(error, MethodRefused):
        return problem(error, more_fields=b"Allow: %b\r\n" % error.allowed)
    return problem(error)


def read_key(segment: bytes) -> str:
    """A path segment as a key: decoded once, checked. Raises `bad_key`."""
    if _PLAIN_KEY.fullmatch(segment) is not None and segment != b"-":
        return segment.decode("ascii")
    if _BAD_PERCENT.search(segment) is not None:
        raise RequestRefused(Code.BAD_KEY, "the key holds a % that is not followed by two hexadecimal digits")
    decoded = unquote_to_bytes(segment)
    if not 1 <= len(decoded) <= MAX_KEY_BYTES:
        raise RequestRefused(
            Code.BAD_KEY, f"a key has 1 to {MAX_KEY_BYTES} bytes, not {len(decoded)}: check the path for //"
        )
    try:
        key = decoded.decode("utf-8")
    except UnicodeDecodeError:
        raise RequestRefused(Code.BAD_KEY, "the key is not UTF-8") from None
    if CONTROL.search(key) is not None:
        raise RequestRefused(Code.BAD_KEY, "the key holds a control character")
    if key == NO_KEY:
        raise RequestRefused(Code.BAD_KEY, "- stands for no key and cannot be one")
    return key


def _function_name(segment: bytes) -> str:
    return segment.decode("ascii", "backslashreplace")


def _handler(segment: bytes) -> str:
    if _NAME.fullmatch(segment) is None:
        raise RequestRefused(Code.BAD_REQUEST, f"a handler's name matches {_NAME.pattern.decode()}")
    return segment.decode("ascii")


def _timeout_s(value: bytes) -> float:
    match = _TIMEOUT.fullmatch(value)
    if match is None or int(match[1]) == 0:
        raise RequestRefused(Code.BAD_REQUEST, "Inversion-Timeout is a whole number and s or ms, as in 5s")
    return int(match[1]) / (1_000 if match[2] == b"ms" else 1)


def _once(key: bytes, fields: Mapping[bytes, bytes]) -> Once:
    if _IDEMPOTENCY_KEY.fullmatch(key) is None:
        raise RequestRefused(Code.BAD_REQUEST, "an Idempotency-Key is 1 to 200 visible ASCII characters")
    return Once(key.decode("ascii"), _WAITS_NOT.search(fields.get(b"prefer", b"")) is None)


def _condition(fields: Mapping[bytes, bytes]) -> Condition:
    """If-Match and If-None-Match of a call (RFC 9110, section 13.1): its version is the entity tag."""
    match, none_match = fields.get(b"if-match"), fields.get(b"if-none-match")
    if none_match is not None and (none_match.strip() != b"*" or match is not None):
        raise RequestRefused(Code.BAD_REQUEST, "If-None-Match is *, alone: there must be no state yet")
    if match is None:
        return Condition(exists=False)
    if match.strip() == b"*":
        return Condition(exists=True)
    if _VERSIONS.fullmatch(match) is None:
        raise RequestRefused(Code.BAD_REQUEST, 'If-Match is * or versions in quotes, as in "7"')
    return Condition(versions=tuple(int(version) for version in _DIGITS.findall(match)))


def _refuse_later(fields: Mapping[bytes, bytes]) -> None:
    for name in fields:
        if name in _LATER:
            # Prefer also carries wishes that may be ignored by its definition (RFC 7240, section 2).
            if name == b"prefer" and _PREFERS_LATER.search(fields[name]) is None:
                continue
            raise RequestRefused(Code.BAD_REQUEST, _LATER[name])


def _render(request_id: str, response: Response, begun_s: float) -> HttpResponse:
    """Step 6 in HTTP."""
    timing = _server_timing(begun_s, response.marks)
    if response.replayed:
        timing = _REPLAYED + timing
    failure = response.error or response.function_error
    if failure is not None:
        if response.version is not None:
            timing = b'ETag: "%d"\r\n%b' % (response.version, timing)
        return problem(failure, request_id, timing)
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
