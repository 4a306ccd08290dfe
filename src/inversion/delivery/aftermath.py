"""What becomes of a message whose turn did not come about: it counts, or a pause."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from inversion import last_words
from inversion.errors import Code, Crowded, InversionError, RetryAsked, StoreUnavailable
from inversion.messages import Request, Step
from inversion.state.postgres import StatementFailed

#: Of the same pair an earlier one is elsewhere, or has just failed: soon seen.
OUTRUN_PAUSE_S: Final = 0.05
#: A full queue, a deadline in a queue: after this there may be room again, here or elsewhere.
BUSY_PAUSE_S: Final = 0.2
#: No process, no database: nothing that a moment would change.
AWAY_PAUSE_S: Final = 1.0
#: Failures of the function or of its processes, by our codes.
_FAILURES: Final = frozenset(
    (
        Code.FUNCTION_ERROR,
        Code.FUNCTION_CRASHED,
        Code.FUNCTION_TIMEOUT,
        Code.PROTOCOL_ERROR,
        Code.STATE_TOO_LARGE,
        Code.RESPONSE_TOO_LARGE,
        Code.EFFECTS_TOO_LARGE,
        Code.TOO_MANY_HOPS,
        Code.INTERNAL,
    )
)
_BEFORE_A_PROCESS: Final = (Step.RECEIVE_REQUEST, Step.LOAD_STATE, Step.SEND_MESSAGE_IN)
#: Refusals by the database that are about what was to be stored.
_OF_THE_DATA: Final = ("21", "22", "23", "54")


def fails(error: InversionError) -> bool:
    """Whether it counts: the function, its processes or what they answered is at fault."""
    if isinstance(error, StoreUnavailable):
        cause = error.__cause__
        return isinstance(cause, StatementFailed) and cause.sqlstate.startswith(_OF_THE_DATA)
    return error.code in _FAILURES


def pause_s(error: InversionError) -> float:
    if isinstance(error, Crowded):
        return error.pause_s
    match error.code:
        case Code.CONTENDED:
            return OUTRUN_PAUSE_S
        case Code.DRAINING:
            return 0.0
        case Code.QUEUE_FULL | Code.DEADLINE:
            return BUSY_PAUSE_S
        case _:
            return AWAY_PAUSE_S


def has_not_begun(request: Request) -> bool:
    """Whether no process has it yet: a turn that is answered now is never sent (transition.py)."""
    return request.turn is None or request.turn.step in _BEFORE_A_PROCESS


def words_of(error: InversionError, env: Mapping[str, str], given_up: str | None = None) -> bytes:
    """What is kept of it; `env` is of the function that failed."""
    if isinstance(error, RetryAsked) and error.said is not None:
        return last_words.of_answer(error.said, given_up)
    return last_words.of_failure(error, env, given_up)


def status_of(error: InversionError) -> int:
    """What an HTTP answer about it would have."""
    if isinstance(error, RetryAsked) and error.said is not None:
        return error.said.status
    return error.code.status


def retry_after_s(error: InversionError) -> float | None:
    """The pause that was asked for with it."""
    return error.said.retry_after_s if isinstance(error, RetryAsked) and error.said is not None else None
