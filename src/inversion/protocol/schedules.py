"""What people write of schedules -> `Schedule`: the table `cron` of inversion.toml, and `cron` in a hello.

Whatever will not do is a sentence that begins with where it stands; the rest is taken. A hello's schedules
are a list of objects that carry their names; in inversion.toml the name is the key, and a string alone is
the five fields.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Final, NamedTuple

from inversion import json_text
from inversion.errors import RequestRefused
from inversion.names import DEFAULT_HANDLER, NAME, key_fault
from inversion.protocol.cron import Missed, Schedule, fault_of

#: Of one function: each is a row, a label in /metrics and a look in every round.
MOST_SCHEDULES: Final = 100
#: A missed day may be made up for by a hundred at once.
_MOST_MESSAGE_BYTES: Final = 64 << 10
_KEYS: Final = ("schedule", "zone", "key", "handler", "message", "missed")
_EXAMPLE: Final = '"0 4 * * *" or { schedule = "0 4 * * *", zone = "Europe/Berlin" }'


class Read(NamedTuple):
    """What could be made of it."""

    schedules: Mapping[str, Schedule]
    faults: Sequence[str]


#: Nobody wrote anything.
NONE: Final = Read({}, ())


def read_table(table: object) -> Read:
    """`[functions.NAME.cron]`, as tomllib read it."""
    if not isinstance(table, dict):
        return Read({}, [f" must be a table of schedules by their names, such as NAME = {_EXAMPLE}"])
    return _read(
        [(name, {"schedule": said} if isinstance(said, str) else said) for name, said in table.items()]
    )


def read_declared(text: bytes) -> Read:
    """`cron` of a hello."""
    try:
        said = json_text.plain(text)
    except RequestRefused as refusal:
        return Read({}, [f": {refusal.detail}"])
    if said is None:
        return NONE
    if not isinstance(said, list) or not all(isinstance(each, dict) for each in said):
        return Read({}, [' must be a list of objects such as {"name":"nightly","schedule":"0 4 * * *"}'])
    found = [(each.get("name"), {key: one for key, one in each.items() if key != "name"}) for each in said]
    return _read(found)


def misfit(schedule: Schedule, *, stateful: bool, handlers: Collection[str] | None) -> str | None:
    """Why the function cannot be what this schedule is for; None: it can, or nobody knows its handlers."""
    if schedule.key is not None and not stateful:
        return "it has a key, and the function has no state"
    if handlers is not None and schedule.handler not in handlers:
        known = ", ".join(sorted(handlers)) or "none"
        return f"the function has no handler {schedule.handler!r}; it has: {known}"
    return None


def _read(said: Sequence[tuple[object, object]]) -> Read:
    schedules: dict[str, Schedule] = {}
    faults: list[str] = []
    if len(said) > MOST_SCHEDULES:
        return Read({}, [f" has {len(said)} schedules: a function has {MOST_SCHEDULES} at most"])
    for name, fields in said:
        if not isinstance(name, str) or NAME.fullmatch(name) is None:
            faults.append(
                f'.{name}: a schedule is named by a lower-case letter, then at most 62 of a-z, 0-9, "_", "-"'
            )
        elif name in schedules:
            faults.append(f".{name} is there twice")
        elif not isinstance(fields, dict):
            faults.append(f".{name} must be {_EXAMPLE}, not {fields!r}")
        else:
            found = _faults(fields)
            faults += [f".{name}{fault}" for fault in found]
            if not found:
                schedules[name] = _schedule(name, fields)
    return Read(schedules, faults)


def _faults(fields: Mapping[str, object]) -> list[str]:
    faults = []
    for field in sorted(fields.keys() - set(_KEYS)):
        near = difflib.get_close_matches(field, _KEYS, n=1)
        faults.append(
            f": unknown key {field}; "
            + (f"did you mean {near[0]}?" if near else f"known here: {', '.join(_KEYS)}")
        )
    if "schedule" not in fields:
        faults.append('.schedule is missing: five fields, such as "0 4 * * *"')
    for field in ("schedule", "zone", "key", "handler", "missed"):
        if not isinstance(fields.get(field, ""), str):
            faults.append(f".{field} must be a string, not {fields[field]!r}")
    if faults:
        return faults
    fault = fault_of(str(fields["schedule"]), str(fields.get("zone", "UTC")))
    if fault is not None:
        faults.append(f".{fault[0]} {fault[1]}")
    key, handler, missed = fields.get("key"), fields.get("handler"), fields.get("missed")
    if key is not None and (words := key_fault(str(key))) is not None:
        faults.append(f".key {words}")
    if handler is not None and NAME.fullmatch(str(handler)) is None:
        faults.append(
            f'.handler must be a lower-case letter, then at most 62 of a-z, 0-9, "_", "-", not "{handler}"'
        )
    if missed is not None and missed not in {each.value for each in Missed}:
        faults.append(f'.missed must be "skip" or "once" or "all", not "{missed}"')
    if (words := _message_fault(fields.get("message"))) is not None:
        faults.append(f".message {words}")
    return faults


def _message_fault(message: object) -> str | None:
    if not _is_finite(message):
        return "holds a number that JSON has not"
    try:
        text = json_text.encode(message)
        json_text.check_part(text)
    except RequestRefused as refusal:
        return f"will not do: {refusal.detail}"
    except TypeError as error:
        return f"cannot be JSON: {error}"
    if len(text) > _MOST_MESSAGE_BYTES:
        return f"has {len(text)} bytes, more than {_MOST_MESSAGE_BYTES}"
    return None


def _is_finite(value: object) -> bool:
    """orjson would make null of it."""
    match value:
        case float():
            return math.isfinite(value)
        case dict():
            return all(map(_is_finite, value.values()))
        case list():
            return all(map(_is_finite, value))
        case _:
            return True


def _schedule(name: str, fields: Mapping[str, object]) -> Schedule:
    key = fields.get("key")
    return Schedule(
        name,
        " ".join(str(fields["schedule"]).upper().split()),
        str(fields.get("zone", "UTC")),
        None if key is None else str(key),
        str(fields.get("handler", DEFAULT_HANDLER)),
        json_text.encode(fields.get("message")),
        Missed(fields.get("missed", Missed.ONCE.value)),
    )
