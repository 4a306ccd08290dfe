"""Does a line answer what was expected? Pure: bytes and an expectation -> a sentence, or None when it does.

Frames are compared as JSON values. Whole numbers by their exact value, so that 2^53+1 is not 2^53, and 1.0
is 1; those with a fraction or an exponent as doubles, whose decimals are the language's business.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from decimal import Decimal
from math import copysign
from typing import Final

from inversion.conformance.cases import Act, Step

#: Stands for any value; as a field's name, for fields that nobody named.
ANYTHING: Final = "..."
#: Of the code of an error.
_ANY_CODE: Final = "*"


def difference(step: Step, line: bytes) -> str | None:
    """In what `line` is not what `step`, an expectation, asks for; None: it is."""
    try:
        frame = read(line)
    except ValueError as problem:
        return f"it is not JSON: {problem}"
    if not isinstance(frame, dict):
        return "it is no object"
    match step.act:
        case Act.LINE:
            return unlike(read(step.data), frame)
        case Act.ANSWER:
            return _no_answer(step.text, frame)
        case Act.ERROR:
            answered_id, code, *without = step.text.split(" ", 3)
            leaked = without[1:] and without[1] in line.decode()
            return (
                _no_answer(answered_id, frame)
                or _no_error(code, frame)
                or (f"it tells {without[1]!r}, which is for the log" if leaked else None)
            )
        case Act.HELLO:
            hello = frame.get("hello")
            if not isinstance(hello, dict):
                return "it is no hello"
            return _lacks(read(step.data), hello, "hello") if step.data else None
        case _:
            raise ValueError(f"{step.act} expects no line")


def read(text: bytes) -> object:
    """JSON with its numbers exact. Raises ValueError."""
    found: object = json.loads(
        text.decode("utf-8"), parse_int=Decimal, parse_float=float, parse_constant=_refuse
    )
    return found


def unlike(wanted: object, found: object, where: str = "") -> str | None:
    """In words, where two values are not the same; None: they are."""
    if wanted == ANYTHING:
        return None
    place = where or "it"
    if isinstance(wanted, dict) and isinstance(found, dict):
        named = [name for name in wanted if name != ANYTHING]
        for name in named:
            if name not in found:
                return f"{_inside(where, name)} is missing"
        for name in found:
            if name not in wanted and ANYTHING not in wanted:
                return f"{_inside(where, name)} is too much"
        pairs = ((_inside(where, name), wanted[name], found[name]) for name in named)
    elif isinstance(wanted, list) and isinstance(found, list):
        if len(wanted) != len(found):
            return f"{place} has {len(found)} elements, not {len(wanted)}"
        pairs = (
            (f"{place}[{index}]", one, other)
            for index, (one, other) in enumerate(zip(wanted, found, strict=True))
        )
    else:
        return None if _is_same(wanted, found) else f"{place} is {_shown(found)}, not {_shown(wanted)}"
    return next((fault for at, one, other in pairs if (fault := unlike(one, other, at))), None)


def _lacks(wanted: object, found: object, where: str) -> str | None:
    """Like `unlike`, but objects may have more fields."""
    if not isinstance(wanted, dict) or not isinstance(found, dict):
        return unlike(wanted, found, where)
    for name, value in wanted.items():
        if name not in found:
            return f"{where}.{name} is missing"
        if (fault := _lacks(value, found[name], f"{where}.{name}")) is not None:
            return fault
    return None


def _is_same(wanted: object, found: object) -> bool:
    if isinstance(wanted, float) and isinstance(found, float | Decimal):
        return wanted == float(found) and copysign(1, wanted) == copysign(1, found)
    if isinstance(wanted, Decimal) and isinstance(found, float | Decimal):
        return wanted == found
    return type(wanted) is type(found) and wanted == found


def _no_answer(answered_id: str, frame: Mapping[str, object]) -> str | None:
    if frame.get("id") != answered_id:
        return f"its id is {_shown(frame.get('id'))}, not {_shown(answered_id)}"
    if "error" in frame and {"response", "state", "delete", "effects"} & frame.keys():
        return "it has an error, and more beside it"
    return None


def _no_error(code: str, frame: Mapping[str, object]) -> str | None:
    error = frame.get("error")
    if not isinstance(error, dict):
        return "it is no error"
    if code != _ANY_CODE and error.get("code") != code:
        return f"error.code is {_shown(error.get('code'))}, not {_shown(code)}"
    return None


def _refuse(name: str) -> object:
    raise ValueError(f"{name} is no JSON")


def _inside(where: str, name: str) -> str:
    return f"{where}.{name}" if where else name


def _shown(value: object) -> str:
    text = str(value) if isinstance(value, Decimal) else json.dumps(value, default=str, ensure_ascii=False)
    return text if len(text) <= 120 else f"{text[:117]}..."
