"""Which fault it is when the answer came, with its id, and is another one than expected. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from decimal import Decimal
from typing import Final

from inversion.conformance.faults import Fault
from inversion.conformance.matching import unlike

_REMEDIES: Final = {
    "response": "the response is what the handler returns: numbers, texts and null as they are",
    "state": (
        "absent, null and deleted are three things: no `state` keeps it, `state` puts it (null is a state), "
        "`delete` ends it; what is changed in place is put, what is as before is not"
    ),
    "delete": 'a state that is deleted is `"delete":true` in the answer, not a state of null',
    "error": (
        "an answer with `error` has its code, message, status, details and retry as the function said them, "
        "and neither response, state nor effects; what a program throws has its text in the log only"
    ),
    "effects": (
        "effects go out as they were asked for, in their order, with the answer that asked for them; "
        "they are dropped when it fails"
    ),
    "answers": (
        "in a turn each message runs on the state that the one before it left, one that fails leaves it as "
        "it was; the answers are in order, each with its id, its response or error, its effects, and "
        '"changed":false where it neither put nor deleted; then the last state once'
    ),
}


def fault_of(wanted: object, got: Mapping[str, object], difference: str) -> tuple[Fault, str]:
    """Its name, and what to do about it."""
    fault, remedy = _named(wanted, got, difference)
    return fault, _REMEDIES[remedy]


def _named(wanted: object, got: Mapping[str, object], difference: str) -> tuple[Fault, str]:
    """Which fault it is where the id is right, and the key of its remedy."""
    if "which is for the log" in difference:
        return Fault.SECRETS, "error"
    if not isinstance(wanted, Mapping):
        return Fault.RESPONSE, "response"
    if "answers" in wanted:
        return _of_a_turn(wanted, got), "answers"
    if "error" in wanted:
        if "error" not in got:
            return Fault.NO_ERROR, "error"
        beside = {"response", "state", "delete", "effects"} & got.keys()
        return Fault.BESIDE_AN_ERROR if beside else Fault.ERROR_FIELDS, "error"
    if "error" in got:
        beside = {"response", "state", "delete", "effects"} & got.keys()
        return Fault.BESIDE_AN_ERROR if beside else Fault.ERROR_UNASKED, "error"
    if (fault := _of_a_state(wanted, got)) is not None:
        return fault, "state"
    if (fault := _of_effects(wanted, got)) is not None:
        return fault, "effects"
    return _of_a_response(wanted.get("response"), got.get("response")), "response"


def _of_a_state(wanted: Mapping[str, object], got: Mapping[str, object]) -> Fault | None:
    if "delete" in wanted and "delete" not in got:
        return Fault.NULL_FOR_DELETE if "state" in got and got["state"] is None else Fault.DELETE_LOST
    if "state" in wanted and "state" not in got:
        return Fault.STATE_LOST
    if "state" not in wanted and ("state" in got or "delete" in got.keys() - wanted.keys()):
        return Fault.STATE_UNASKED
    if "state" in wanted and unlike(wanted["state"], got["state"]) is not None:
        kind = _of_a_response(wanted["state"], got["state"])
        return Fault.STATE_CHANGED if kind is Fault.RESPONSE else kind
    return None


def _of_effects(wanted: Mapping[str, object], got: Mapping[str, object]) -> Fault | None:
    if "effects" in wanted and "effects" not in got:
        return Fault.EFFECTS_LOST
    if "effects" in got and "effects" not in wanted:
        return Fault.EFFECTS_UNASKED
    if "effects" in wanted and unlike(wanted["effects"], got["effects"]) is not None:
        one, other = wanted["effects"], got["effects"]
        longer = isinstance(one, list) and isinstance(other, list) and len(other) > len(one)
        return Fault.EFFECTS_UNASKED if longer else Fault.EFFECTS_CHANGED
    return None


def _of_a_turn(wanted: Mapping[str, object], got: Mapping[str, object]) -> Fault:
    due, came = wanted["answers"], got.get("answers")
    if not isinstance(due, list) or not isinstance(came, list):
        return Fault.NO_ANSWERS
    ids = [_field(each, "id") for each in due]
    found = [_field(each, "id") for each in came]
    if len(found) < len(ids):
        return Fault.TURN_SHORT
    if ids != found:
        return Fault.TURN_ORDER
    for one, other in zip(due, came, strict=True):
        if ("error" in one) != ("error" in other):
            return Fault.ERROR_UNASKED if "error" in other else Fault.NO_ERROR
        if _field(one, "changed") is not _field(other, "changed"):
            return Fault.TURN_FLAG
        if isinstance(one, Mapping) and (fault := _of_effects(one, other)) is not None:
            return fault
    return Fault.TURN_STATE


def _of_a_response(wanted: object, got: object) -> Fault:
    """What became of a value."""
    if wanted == {} and isinstance(got, Mapping) and got.get("state", 0) is None:
        return Fault.ABSENT_IS_NULL
    if isinstance(wanted, Mapping) and wanted.get("state", 0) is None and got == {}:
        return Fault.NULL_IS_ABSENT
    for one, other in _leaves(wanted, got):
        if isinstance(one, Decimal | float) and isinstance(other, Decimal | float | str):
            near = isinstance(other, str) or abs(Decimal(one) - Decimal(other)) <= abs(Decimal(one)) / 1_000
            return Fault.NUMBER if near else Fault.RESPONSE
        if isinstance(one, str) and isinstance(other, str):
            return Fault.TEXT
    return Fault.RESPONSE


def _leaves(wanted: object, got: object) -> Iterator[tuple[object, object]]:
    """Pairs of values that differ, at the same places."""
    if isinstance(wanted, Mapping) and isinstance(got, Mapping):
        for name in wanted.keys() & got.keys():
            yield from _leaves(wanted[name], got[name])
    elif isinstance(wanted, list) and isinstance(got, list):
        for one, other in zip(wanted, got, strict=False):
            yield from _leaves(one, other)
    elif unlike(wanted, got) is not None:
        yield wanted, got


def _field(value: object, name: str) -> object:
    return value.get(name) if isinstance(value, Mapping) else None
