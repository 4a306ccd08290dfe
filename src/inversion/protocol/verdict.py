"""What becomes of the requests of a turn that failed: run again, or give up and say why.

Pure: an error, a request's own counts and the time left go in, a decision comes out. The rules are those
of protocol.md ("Rules that every side keeps", "Turns") and storage.md ("The commit statement", 5).
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Final

import attrs

from inversion.errors import (
    Abandoned,
    Code,
    Conflict,
    EffectsRefused,
    InversionError,
    Outcome,
    Outrun,
    Overrun,
    ProcessDied,
    RequestRefused,
    RetryAsked,
    RuntimeBroken,
)
from inversion.messages import MessageOut, Request, Step, Turn

#: `"retry": true` is run again this often; then it is the answer (protocol.md, message-out).
MAX_RETRIES: Final = 3

#: A process that began a request within this of its receipt is judged by the function's timeout, not by
#: the deadline, which is earlier by just that much: the caller learns what hung.
PROMPT_BEGIN_S: Final = 0.25


class How(Enum):
    """How a request runs again."""

    TOGETHER = "together"
    IN_HALVES = "in_halves"  #: the turn was too much at once
    ALONE = "alone"  #: nothing else in its process


@attrs.frozen(slots=True)
class RunAgain:
    how: How


@attrs.frozen(slots=True)
class GiveUp:
    error: InversionError


Verdict = RunAgain | GiveUp


def judge(error: Exception, turn: Turn, request: Request, *, rerun: int, now_s: float) -> Verdict:
    """Decide for one request of a failed turn. `rerun`: how often a death is forgiven."""
    in_time = now_s < request.deadline_s
    several = len(turn.requests) > 1
    match error:
        case Outrun() if request.delivery is None and in_time:
            return RunAgain(How.TOGETHER)
        case RetryAsked() if request.delivery is not None and not several:
            return GiveUp(error)  # when it is tried again is the retry policy's
        case Abandoned() | Conflict() | Outrun() | RetryAsked() if not in_time:
            return GiveUp(error if isinstance(error, Conflict | Outrun) else expired(turn))
        case Abandoned() | Conflict():
            return RunAgain(How.TOGETHER)
        case RetryAsked():
            return RunAgain(How.IN_HALVES if several else How.TOGETHER)
        case Overrun() | EffectsRefused() | Outrun() if several and in_time:
            return RunAgain(How.IN_HALVES)
        case ProcessDied() if in_time and request.deaths < rerun:
            return RunAgain(How.ALONE)
        case RuntimeBroken(code=Code.FUNCTION_TIMEOUT) if several and in_time:
            return RunAgain(How.ALONE)
        case InversionError():
            return GiveUp(error)
        case _:
            return GiveUp(_internal(turn))


def retry_asked(requests: Sequence[Request], out: MessageOut) -> list[Request]:
    """The requests whose answer asks for another run and that still have one."""
    if len(out.answers) == 1 and out.answers[0].error is None:
        return []  # nearly always
    return [
        request
        for request, answer in zip(requests, out.answers, strict=True)
        if answer.error is not None
        and answer.error.retry
        and (request.retries < MAX_RETRIES or request.delivery is not None)
    ]


def key_reused() -> InversionError:
    """What a caller is told whose key was used before for another request."""
    return RequestRefused(
        Code.KEY_REUSED,
        "this Idempotency-Key was used before for something else: send the same bytes again, or a new key",
    )


def version_mismatch(version: int) -> InversionError:
    """What a caller is told whose condition did not hold."""
    return RequestRefused(
        Code.VERSION_MISMATCH, f"the condition does not hold: the state's version is {version}"
    )


def expired_behind(turn: Turn | None) -> InversionError:
    """What a caller is told whose request still waited, behind the turn that its entity is in."""
    if turn is not None and turn.step in (Step.LOAD_STATE, Step.STORE_STATE):
        return _no_database()
    return InversionError(Code.DEADLINE, "the deadline passed while the request waited for its entity")


def expired(turn: Turn | None) -> InversionError:
    """What a caller is told whose deadline passed while its request was where `turn` says."""
    if turn is None:
        return expired_behind(None)
    if turn.commit_sent:
        return InversionError(
            Code.DEADLINE,
            "the deadline passed after the commit was sent: it may or may not have been applied",
            outcome=Outcome.UNKNOWN,
        )
    if turn.step in (Step.LOAD_STATE, Step.STORE_STATE):
        return _no_database()
    if turn.step is Step.SEND_MESSAGE_IN:
        return InversionError(Code.DEADLINE, "the deadline passed while waiting for a free process")
    return InversionError(Code.DEADLINE, "the deadline passed before the function answered")


def cut_short(turn: Turn | None) -> InversionError:
    """What a caller is told whose answer the end of the node does not wait for."""
    if turn is not None and turn.commit_sent:
        return InversionError(
            Code.DEADLINE,
            "the node ended after the commit was sent: it may or may not have been applied",
            outcome=Outcome.UNKNOWN,
        )
    return InversionError(Code.DRAINING, "the node ended before this was done; try another", retry_after_s=1)


def _no_database() -> InversionError:
    return InversionError(
        Code.DATABASE_UNAVAILABLE,
        "the deadline passed while waiting for the database; nothing was applied",
        retry_after_s=1,
    )


def leaves_it_to_the_function_timeout(request: Request, begun_s: float | None) -> bool:
    """The process began this request at once, and only the function's own timeout limits it."""
    return (
        begun_s is not None
        and request.caller_timeout_s is None
        and begun_s - request.received_s <= PROMPT_BEGIN_S
    )


def _internal(turn: Turn) -> InversionError:
    if turn.step is Step.SEND_RESPONSE:
        outcome = Outcome.APPLIED
    elif turn.commit_sent:
        outcome = Outcome.UNKNOWN
    else:
        outcome = Outcome.NOT_APPLIED
    step = turn.step.value
    return InversionError(
        Code.INTERNAL,
        f"the step {step} failed; the node's log has the cause",
        outcome=outcome,
        extra={"step": step},
    )
