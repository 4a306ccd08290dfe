"""The JSON Schemas of frames that ship with the package, ready to validate with."""

from __future__ import annotations

import json
from functools import cache
from typing import Any

import jsonschema_rs

from inversion import shipped

FILE = shipped.runtimes() / "conformance" / "schemas" / "frames.json"


@cache
def _validator(kind: str) -> jsonschema_rs.Draft202012Validator:
    schemas = json.loads(FILE.read_text())
    return jsonschema_rs.Draft202012Validator(
        {"$schema": schemas["$schema"], "$ref": f"#/$defs/{kind}", "$defs": schemas["$defs"]}
    )


def faults(kind: str, frame: object) -> list[str]:
    """In what `frame` is none of that kind."""
    return [
        f"{'/'.join(map(str, each.instance_path))}: {each.message}"
        for each in _validator(kind).iter_errors(frame)
    ]


def kind_of(frame: dict[str, Any]) -> str:
    """Which kind of a runtime's frame it would be."""
    if "hello" in frame:
        return "hello"
    return "turn-out" if "answers" in frame else "message-out"


def without_effects(frame: dict[str, Any]) -> dict[str, Any]:
    """The frame without the effects of any answer: a shim passes on what its user wrote of them."""
    rest = {name: value for name, value in frame.items() if name != "effects"}
    if isinstance(rest.get("answers"), list):
        rest["answers"] = [without_effects(each) for each in rest["answers"]]
    return rest
