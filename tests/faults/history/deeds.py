"""A deed is what one client wanted once: one operation, or all attempts with one Idempotency-Key.

A deed happens at most once, so all its answers must be the same (what was asked for with the same key, is
another message and was never answered, did not happen), and it lies between the first attempt that
may have done it and the first answer. An attempt that was not applied and has no answer did nothing: it is
left out, and if it left a trace after all, nothing else in the history can explain that trace.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
import orjson
from tests.faults.history.operation import Json, Operation, Outcome
from tests.faults.history.verdict import Impossible

#: No end: it may still come, or never.
NEVER_NS = 1 << 62


class Deed(msgspec.Struct, frozen=True, gc=False):
    kind: str
    input: Json
    if_match: int | None
    none_match: bool
    invoked_ns: int
    completed_ns: int
    known: bool  #: the answer is known; else it happened once or never
    answer: Json
    version: int | None
    attempts: tuple[Operation, ...]


def deeds_of(operations: Iterable[Operation]) -> list[Deed]:
    """The deeds of one entity. Raises Impossible where the attempts of one contradict each other."""
    deeds = []
    keyed: dict[str, list[Operation]] = {}
    for operation in operations:
        if not operation.ran:
            continue
        if operation.key is None:
            deeds.append(_single(operation))
        else:
            keyed.setdefault(operation.key, []).append(operation)
    for attempts in keyed.values():
        deeds.append(_single(attempts[0]) if len(attempts) == 1 else _joined(attempts))
    return deeds


def _single(operation: Operation) -> Deed:
    known = operation.outcome is not Outcome.UNKNOWN
    completed_ns = operation.completed_ns
    return Deed(
        operation.kind,
        operation.input,
        operation.if_match,
        operation.none_match,
        operation.invoked_ns,
        completed_ns if known and completed_ns is not None else NEVER_NS,
        known,
        operation.answer,
        operation.version,
        (operation,),
    )


def _joined(attempts: list[Operation]) -> Deed:
    answered = [attempt for attempt in attempts if attempt.outcome is not Outcome.UNKNOWN]
    first = (answered or attempts)[0]
    others = [attempt for attempt in attempts if _message(attempt) != _message(first)]
    for other in others:
        if other in answered or not answered:
            raise Impossible("one key was taken for two different messages", [first, other])
    if others:
        attempts = [attempt for attempt in attempts if attempt not in others]
    invoked_ns = min(attempt.invoked_ns for attempt in attempts)
    if not answered:
        return Deed(
            first.kind,
            first.input,
            first.if_match,
            first.none_match,
            invoked_ns,
            NEVER_NS,
            False,
            None,
            None,
            tuple(attempts),
        )
    told = answered[0]
    for other in answered:
        if (other.answer, other.version, other.outcome) != (told.answer, told.version, told.outcome):
            raise Impossible("two attempts with one key were answered differently", [told, other])
    return Deed(
        first.kind,
        first.input,
        first.if_match,
        first.none_match,
        invoked_ns,
        min(attempt.completed_ns or NEVER_NS for attempt in answered),
        True,
        told.answer,
        told.version,
        tuple(attempts),
    )


def _message(attempt: Operation) -> tuple[str, Json, int | None, bool]:
    return attempt.kind, attempt.input, attempt.if_match, attempt.none_match


def exchangeable_before(maybe: list[Deed]) -> list[int | None]:
    """For each unknown deed, in the order of their beginnings, the last earlier one that asked for the same.

    That one is used up first; nothing is lost by it, for it fits wherever the later one does.
    """
    last: dict[bytes, int] = {}
    before: list[int | None] = []
    for number, deed in enumerate(maybe):
        same = orjson.dumps([deed.kind, deed.input, deed.if_match, deed.none_match])
        before.append(last.get(same))
        last[same] = number
    return before
