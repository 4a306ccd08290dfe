"""The JSON Schemas say of every frame in the cases what the cases say of it."""

from __future__ import annotations

import json
from collections.abc import Iterator

import jsonschema_rs
import pytest

from frame_schemas import FILE, faults, kind_of
from inversion.conformance.cases import Act, Audience, Case, load
from inversion.json_text import OPERATIONS

CASES = load()
RUNTIME = [case for case in CASES if case.audience is not Audience.HOST]
HOST = [case for case in CASES if case.audience is Audience.HOST]
#: What the host refuses, and a schema cannot: sizes, what depends on the message, what is no JSON value.
BEYOND_SCHEMAS = {
    "answers/reader-state",
    "answers/response-surrogate",
    "answers/state-1e400",
    "answers/state-deep",
    "answers/state-surrogate",
    "answers/state-two-to-64",
    "answers/stateless-delete",
    "answers/stateless-state",
    "effects/bad-at-no-date",
    "effects/bad-delay-long",
    "effects/bad-http-header-twice",
    "effects/bad-http-host",
    "effects/bad-message-number",
    "effects/bad-message-surrogate",
    "effects/bad-two-forwards",
    "effects/forward-and-response",
    "effects/reader",
    "effects/stateless",
    "errors/details-checked",
    "turns/one-missing",
    "turns/one-too-many",
    "turns/other-order",
    "turns/reader-changed",
    "turns/single-answer",
}


def _frame(data: bytes) -> dict[str, object] | None:
    try:
        frame = json.loads(data)
    except ValueError:
        return None
    return frame if isinstance(frame, dict) else None


def test_it_is_a_schema() -> None:
    jsonschema_rs.meta.validate(json.loads(FILE.read_text()))


def test_effects_have_the_fields_that_the_host_knows() -> None:
    properties = json.loads(FILE.read_text())["$defs"]["effect"]["properties"]
    assert {name: set(each["properties"]) for name, each in properties.items()} == {
        name: set(fields) for name, fields in OPERATIONS.items()
    }


@pytest.mark.parametrize("case", RUNTIME, ids=lambda case: case.name)
def test_what_a_case_sends_and_expects_is_a_frame(case: Case) -> None:
    for step in case.steps:
        frame = _frame(step.data) if step.act in (Act.SEND, Act.LINE) else None
        if frame is None:
            continue
        if step.act is Act.SEND:
            kind = "turn-in" if "messages" in frame else "message-in"
        else:
            kind = kind_of(frame)
            if case.name == "effects/unknown-field":
                continue  # passed on for the host to refuse
        assert faults(kind, frame) == [], f"line {step.line}"


def _concluded() -> Iterator[tuple[str, str, dict[str, object]]]:
    """Each line of a runtime with what the host concludes of it first."""
    for case in HOST:
        for step, after in zip(case.steps, case.steps[1:], strict=False):
            frame = _frame(step.data)
            if step.act is Act.LINE and after.act is Act.CONCLUDE and frame is not None:
                yield case.name, after.text, frame


def test_what_the_host_takes_is_a_frame() -> None:
    taken = [each for each in _concluded() if each[1].startswith(("answer ", "hello ", "again "))]
    assert len(taken) > 50
    for name, conclusion, frame in taken:
        if name != "answers/order" and not name.startswith("answers/order-"):
            assert faults(kind_of(frame), frame) == [], (name, conclusion)


def test_what_the_host_refuses_is_none_as_far_as_a_schema_can_say() -> None:
    refused = [each for each in _concluded() if each[1].startswith("fails ") and "protocol_error" in each[1]]
    assert len(refused) > 50
    let_through = {name for name, _, frame in refused if not faults(kind_of(frame), frame)}
    assert let_through == BEYOND_SCHEMAS


def test_a_cancel_is_a_frame() -> None:
    assert faults("cancel", {"cancel": "0192.1"}) == []
    assert faults("cancel", {"cancel": 7})
    assert faults("message-in", {"cancel": "0192.1"})
