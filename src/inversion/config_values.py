"""What one value of inversion.toml may be: durations, sizes, commands, choices.

Each function takes what tomllib read and returns what config.py holds, or raises ValueError with the end
of a sentence ("must be ..., not ...") that advises; config_file.py puts the dotted key before it.
"""

from __future__ import annotations

import difflib
import re
import shlex
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Final, TypeVar, cast

from inversion.protocol.destination import AllowList, read_entry

EnumT = TypeVar("EnumT", bound=Enum)

LATER: Final = "comes with a later release; leave it out for now"

_SECONDS: Final = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0}
_BYTES: Final = {
    "B": 1,
    "KB": 10**3,
    "MB": 10**6,
    "GB": 10**9,
    "KiB": 1 << 10,
    "MiB": 1 << 20,
    "GiB": 1 << 30,
}
_QUANTITY = re.compile(r"([0-9]+(?:\.[0-9]+)?) ?([A-Za-z]+)")
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+(?: *; *[ -~]+)?")
_ENV_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def duration_s(value: object) -> float:
    """Seconds of "30s", "500ms", "5m", "24h" or "7d". Raises ValueError with advice."""
    return _quantity(value, _SECONDS, "a duration with a unit", '"500ms", "30s", "5m", "24h" or "7d"')


def size_bytes(value: object) -> int:
    """Bytes of "64KiB", "1MiB", "10MB". Raises ValueError with advice."""
    return int(_quantity(value, _BYTES, "a size with a unit", '"64KiB", "1MiB" or "10MB"'))


def _quantity(value: object, units: Mapping[str, float], kind: str, examples: str) -> float:
    match = _QUANTITY.fullmatch(value) if isinstance(value, str) else None
    if match is None or match[2] not in units:
        raise ValueError(f"must be {kind}, such as {examples}, not {shown(value)}")
    return float(match[1]) * units[match[2]]


def shown(value: object) -> str:
    """A value as it would be written in TOML, near enough to be recognised."""
    match value:
        case bool():
            return "true" if value else "false"
        case str():
            return f'"{value}"' if len(value) <= 60 else f'"{value[:57]}..."'
        case dict():
            return "a table"
        case list():
            return "a list"
        case _:
            return str(value)


def command(value: object) -> tuple[str, ...]:
    """Program and arguments: a list, or a string that is split as a shell would."""
    if isinstance(value, str):
        try:
            parts: list[object] = list(shlex.split(value))
        except ValueError as error:
            raise ValueError(f"cannot be split as a shell would: {error}") from None
    elif isinstance(value, list):
        parts = value
    else:
        raise ValueError(f'must be a list such as ["python3", "cart.py"], or a string, not {shown(value)}')
    if not parts or not parts[0]:
        raise ValueError('is empty: name a program, such as ["python3", "cart.py"]')
    for part in parts:
        if not isinstance(part, str):
            raise ValueError(f'must hold strings, not {shown(part)}: write "{shown(part)}"')
        if "\0" in part:
            raise ValueError("holds a NUL character")
    return tuple(cast(list[str], parts))


def exit_statuses(value: object) -> dict[int, int]:
    """Exit code -> status of the answer."""
    advice = "must map exit codes to statuses, such as { 1 = 422 }"
    if not isinstance(value, dict):
        raise ValueError(f"{advice}, not {shown(value)}")
    statuses = {}
    for code, status in value.items():
        if not code.isascii() or not code.isdigit() or not 1 <= int(code) <= 255:
            raise ValueError(f"{advice}: {code} is not an exit code from 1 to 255")
        if type(status) is not int or not 400 <= status <= 499:
            raise ValueError(f"{advice}: {shown(status)} is not a status from 400 to 499")
        statuses[int(code)] = status
    return statuses


def env(value: object) -> dict[str, str]:
    """Environment variables of a function's processes."""
    if not isinstance(value, dict):
        raise ValueError(f"must be a table of strings, not {shown(value)}")
    for name, text in value.items():
        if _ENV_NAME.fullmatch(name) is None:
            raise ValueError(f'has "{name}", which is not the name of an environment variable')
        if name.startswith("INVERSION_"):
            raise ValueError(f"has {name}: names that begin with INVERSION_ are set by inversion itself")
        if not isinstance(text, str) or "\0" in text:
            raise ValueError(f'has {name} = {shown(text)}, which must be a string: write "{shown(text)}"')
    return dict(value)


def allow_list(value: object) -> AllowList:
    """Hosts and ranges of addresses that outgoing requests may reach."""
    if not isinstance(value, list) or not all(isinstance(entry, str) for entry in value):
        raise ValueError(f'must be a list such as ["api.example.com", "10.0.0.0/8"], not {shown(value)}')
    entries = []
    for text in value:
        try:
            entries.append(read_entry(text))
        except ValueError as error:
            raise ValueError(f"has {shown(text)}, which {error}") from None
    return AllowList(tuple(entries))


def media_type(value: object) -> str:
    """`json`, or a media type."""
    if value == "json":
        return "json"
    if not isinstance(value, str) or _MEDIA_TYPE.fullmatch(value) is None:
        raise ValueError(f'must be "json" or a media type such as "text/plain", not {shown(value)}')
    return value


def choice(cls: type[EnumT], *later: EnumT) -> Callable[[object], EnumT]:
    """One of the values of an Enum; those of a later release are refused as such."""

    def structure(value: object) -> EnumT:
        choices = [str(member.value) for member in cls if member not in later]
        for member in cls:
            if value == member.value and member in later:
                raise ValueError(f"= {shown(value)} {LATER}")
            if value == member.value:
                return member
        near = difflib.get_close_matches(str(value), choices, n=1)
        listed = " or ".join(f'"{choice}"' for choice in choices)
        raise ValueError(
            f"must be {listed}, not {shown(value)}" + (f'; did you mean "{near[0]}"?' if near else "")
        )

    return structure


def boolean(value: object) -> bool:
    """`true` or `false`, and nothing that merely looks like it."""
    if not isinstance(value, bool):
        raise ValueError(f"must be true or false, not {shown(value)}")
    return value


def whole(least: int, most: int) -> Callable[[object], int]:
    """A whole number within bounds, both included."""

    def structure(value: object) -> int:
        if type(value) is not int or not least <= value <= most:
            raise ValueError(f"must be a whole number from {least} to {most}, not {shown(value)}")
        return value

    return structure


def duration(*, zero: bool) -> Callable[[object], float]:
    """Seconds; `zero` says whether none at all will do."""

    def structure(value: object) -> float:
        seconds = duration_s(value)
        if seconds == 0 and not zero:
            raise ValueError(f"must be more than zero, not {shown(value)}")
        return seconds

    return structure


def size(least: int, most: int) -> Callable[[object], int]:
    """Bytes within bounds, both included."""

    def structure(value: object) -> int:
        count = size_bytes(value)
        if not least <= count <= most:
            raise ValueError(f"must be from {least} to {most} bytes, not {shown(value)}")
        return count

    return structure
