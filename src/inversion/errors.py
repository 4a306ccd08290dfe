"""Whose fault is it? One tree, one closed list of codes.

Every failure that reaches a caller is an `InversionError`: it knows its code (and through it the HTTP
status), the honest outcome for the request it answers, and a sentence that says what to do.
The five children say whose fault it is: the caller's, the function's, the runtime process's, another
turn's (conflict), or the store's. A function's own `error` answer is `FunctionError`: its code and
status are the function's, not ours.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import ClassVar

import attrs


class Outcome(Enum):
    """What became of the state change that *this* request asked for."""

    APPLIED = "applied"
    NOT_APPLIED = "not_applied"
    UNKNOWN = "unknown"


class Code(Enum):
    """The closed list of codes with `source: inversion`; the value is (wire name, HTTP status)."""

    BAD_JSON = ("bad_json", 400)
    BAD_REQUEST = ("bad_request", 400)
    BAD_KEY = ("bad_key", 400)
    BAD_NUMBER = ("bad_number", 400)
    TOO_DEEP = ("too_deep", 400)
    UNAUTHENTICATED = ("unauthenticated", 401)
    FORBIDDEN = ("forbidden", 403)
    BAD_HOST = ("bad_host", 403)
    BAD_ORIGIN = ("bad_origin", 403)
    NO_FUNCTION = ("no_function", 404)
    NO_HANDLER = ("no_handler", 404)
    NO_STATE = ("no_state", 404)
    NO_OUTPUT = ("no_output", 404)
    NO_MESSAGE = ("no_message", 404)
    METHOD = ("method", 405)
    SLOW_REQUEST = ("slow_request", 408)
    KEY_IN_FLIGHT = ("key_in_flight", 409)
    TOO_LATE = ("too_late", 409)
    VERSION_MISMATCH = ("version_mismatch", 412)
    BODY_TOO_LARGE = ("body_too_large", 413)
    TARGET_TOO_LONG = ("target_too_long", 414)
    CONTENT_ENCODING = ("content_encoding", 415)
    CONTENT_TYPE = ("content_type", 415)
    KEY_REUSED = ("key_reused", 422)
    SCHEMA = ("schema", 422)
    QUEUE_FULL = ("queue_full", 429)
    RATE_LIMITED = ("rate_limited", 429)
    HEAD_TOO_LARGE = ("head_too_large", 431)
    INTERNAL = ("internal", 500)
    FUNCTION_ERROR = ("function_error", 500)
    FUNCTION_CRASHED = ("function_crashed", 502)
    FUNCTION_TIMEOUT = ("function_timeout", 502)
    PROTOCOL_ERROR = ("protocol_error", 502)
    STATE_TOO_LARGE = ("state_too_large", 502)
    RESPONSE_TOO_LARGE = ("response_too_large", 502)
    EFFECTS_TOO_LARGE = ("effects_too_large", 502)
    TOO_MANY_HOPS = ("too_many_hops", 502)
    NO_RUNTIME = ("no_runtime", 503)
    BREAKER_OPEN = ("breaker_open", 503)
    DATABASE_UNAVAILABLE = ("database_unavailable", 503)
    CONTENDED = ("contended", 503)
    DRAINING = ("draining", 503)
    DEADLINE = ("deadline", 504)

    @property
    def wire(self) -> str:
        return self.value[0]

    @property
    def status(self) -> int:
        return self.value[1]


class InversionError(Exception):
    """A failure with a code, an outcome and advice. `extra` joins the problem body; never secrets."""

    fault: ClassVar[str] = "inversion"

    def __init__(
        self,
        code: Code,
        detail: str,
        *,
        outcome: Outcome = Outcome.NOT_APPLIED,
        retry_after_s: int | None = None,
        extra: Mapping[str, object] | None = None,
    ) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.outcome = outcome
        self.retry_after_s = retry_after_s
        self.extra: Mapping[str, object] = extra or {}

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self.code.wire}: {self.detail})"


class RequestRefused(InversionError):
    """The caller's fault, or a limit met at the door: nothing was run."""

    fault = "caller"


class RuntimeBroken(InversionError):
    """The process or its shim broke the protocol, crashed, or took too long."""

    fault = "runtime"


class ProcessDied(RuntimeBroken):
    """A process ended before it answered: the message may run once more (protocol.md, Rules)."""


class Overrun(RuntimeBroken):
    """An answer over a size limit. A turn of several messages is run again in halves."""


class EffectsRefused(RuntimeBroken):
    """An effect that is none. A turn of several is run again in halves: only the message at fault fails."""


class Conflict(InversionError):
    """Another turn became the newest first: reload and run again, until the deadline."""

    fault = "conflict"

    def __init__(self, detail: str = "another turn of this entity was committed first") -> None:
        super().__init__(Code.CONTENDED, detail, retry_after_s=1)


class Outrun(InversionError):
    """A message of the turn is not this node's any more, or one before it waits outside the turn."""

    fault = "conflict"

    def __init__(self) -> None:
        super().__init__(Code.CONTENDED, "a message of this turn was taken by another", retry_after_s=1)


class RetryAsked(InversionError):
    """The function answered `"retry": true`: the turn is discarded and run again."""

    fault = "function"

    def __init__(self, said: FunctionError | None = None) -> None:
        super().__init__(Code.FUNCTION_ERROR, "the function asked for a retry")
        self.said = said  #: its words, when the turn had one message


class Crowded(InversionError):
    """Too many wait for the same host: this one comes back in a while."""

    def __init__(self, host: str, pause_s: float) -> None:
        super().__init__(Code.QUEUE_FULL, f"too many requests to {host} wait on this node")
        self.pause_s = pause_s


class Abandoned(InversionError):
    """A member of the turn was answered (deadline) before its commit was sent: run without it."""

    def __init__(self) -> None:
        super().__init__(Code.DEADLINE, "a member of this turn passed its deadline")


class StoreUnavailable(InversionError):
    """PostgreSQL did not answer, or refused: ours to solve, never the caller's."""

    fault = "store"

    def __init__(self, detail: str, outcome: Outcome = Outcome.NOT_APPLIED) -> None:
        super().__init__(Code.DATABASE_UNAVAILABLE, detail, outcome=outcome, retry_after_s=1)


@attrs.frozen(slots=True)
class FunctionError:
    """The `error` of a message-out: an answer, not an exit. No state and no effects go with it."""

    code: str
    message: str
    status: int  #: 400-499 as the function says, else 500
    details: bytes | None  #: raw JSON
    retry: bool
    retry_after_s: float | None = None  #: no sooner than that
