"""What a case expects, for people and for `faults`: the frame as far as it is known, and in words. Pure."""

from __future__ import annotations

from collections.abc import Sequence

from inversion.conformance.cases import Act, Step
from inversion.conformance.faults import MOST_SHOWN, read_frame, shown
from inversion.conformance.matching import read


def wanted_by(step: Step) -> object:
    """What is known of an expected frame."""
    match step.act:
        case Act.ANSWER:
            return {"id": step.text}
        case Act.ERROR:
            answered_id, code, *_ = step.text.split(" ", 2)
            return {"id": answered_id, "error": {"code": code}}
        case Act.HELLO:
            return {"hello": read(step.data) if step.data else {}}
        case _:
            return read(step.data)


def words_of(step: Step) -> str:
    """An expectation for people."""
    match step.act:
        case Act.ANSWER:
            return f"any answer to {step.text}"
        case Act.ERROR:
            answered_id, code, *without = step.text.split(" ", 3)
            which = "an error" if code == "*" else f"the error {code}"
            return f"{which} as the answer to {answered_id}" + (
                f", without {without[1]!r}" if without[1:] else ""
            )
        case Act.HELLO:
            return f"a hello with at least {step.text}" if step.data else "a hello"
        case _:
            return shown(step.data, MOST_SHOWN)


def closest(due: Sequence[Step], faults: Sequence[str | None], line: bytes) -> tuple[Step, str]:
    """Of what might have come, that with the id of what came."""
    came = (read_frame(line) or {}).get("id")
    for step, fault in zip(due, faults, strict=True):
        wanted = wanted_by(step)
        if isinstance(wanted, dict) and wanted.get("id") == came:
            return step, fault or ""
    return due[0], faults[0] or ""
