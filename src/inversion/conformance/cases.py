"""Reads the cases of the conformance kit, `runtimes/conformance/README.md`. Pure but for `load`."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from enum import Enum
from pathlib import Path
from typing import Final

import attrs

from inversion import shipped


class Audience(Enum):
    ANY = "any"  #: whatever answers lines
    INTERPRETER = "interpreter"
    HOST = "host"


class Need(Enum):
    """What a hello must have said, or the host would never play that case."""

    BATCH = "batch"  #: several messages in a frame
    PIPELINE = "pipeline"  #: several frames at a time
    INTEGERS_64 = "integers-64"


class Act(Enum):
    """What a line of the dialogue is. Of the runtime's cases, of the host's, or of both."""

    SEND = ">"
    SEND_TORN = "> @torn"
    SEND_EOF = "> @eof"
    DRIP = "> @drip"
    HOLD = "> @hold"
    LINE = "<"
    ANSWER = "< @answer"
    ERROR = "< @error"
    HELLO = "< @hello"
    TORN = "< @torn"
    ANY_ORDER = "< @any-order"
    EXIT = "< @exit"
    EOF = "< @eof"
    CONCLUDE = "="
    CONFIGURE = "?"


#: A case with one of these has a process of its own, from its first line to its last.
_ALONE: Final = {Act.HELLO, Act.SEND_EOF, Act.SEND_TORN, Act.EXIT}
_MACRO = re.compile(rb'%\{(?:"([^"]*)"\*(\d+)|0x((?:[0-9a-f]{2})+)|(ctx|each):([a-z-]*))\}')
_HEADERS: Final = ("requirement", "for", "needs")
#: What hosts say to every message of itself, in these cases.
_EACH: Final = (
    '"handler":"%s","attempt":1,"now":"2026-11-24T02:11:00.000Z","deadline":"2026-11-24T02:11:30.000Z",'
    '"seed":"9f3a","meta":{}'
)


class BadCase(Exception):
    """A case file that cannot be read; the message names the file and the line."""


@attrs.frozen
class Step:
    """One line of a dialogue: `data` is its text as bytes, macros written out, without a newline."""

    act: Act
    data: bytes
    line: int  #: in the file

    @property
    def text(self) -> str:
        return self.data.decode("utf-8", "backslashreplace")


@attrs.frozen
class Case:
    """One behaviour or one fault."""

    name: str  #: group/behaviour
    requirement: str
    audience: Audience
    sentence: str
    steps: Sequence[Step]
    needs: frozenset[Need] = frozenset()

    @property
    def group(self) -> str:
        return self.name.partition("/")[0]

    @property
    def is_alone(self) -> bool:
        """Whether it needs a process that nothing else was said to, and nothing will be."""
        return any(step.act in _ALONE for step in self.steps)

    def lacking(self, hello: Mapping[str, object]) -> Need | None:
        """What a program with this hello ({}: it said none) need not be able to; None: play it."""
        has = {
            Need.BATCH: _number(hello, "batch", 1) > 1,
            Need.PIPELINE: _number(hello, "pipeline", 1) > 1,
            Need.INTEGERS_64: _number(hello, "integers", 64) >= 64,
        }
        return next((need for need in Need if need in self.needs and not has[need]), None)


def load(folder: Path | None = None) -> list[Case]:
    """Every case that ships, or of `folder`, those of the runtime first. Raises BadCase."""
    root = folder or shipped.runtimes() / "conformance" / "cases"
    cases = []
    for side in ("runtime", "host"):
        for file in sorted((root / side).glob("*/*.txt")):
            case = read(f"{file.parent.name}/{file.stem}", file.read_bytes())
            if (case.audience is Audience.HOST) != (side == "host"):
                raise BadCase(f"{file}: a case for {case.audience.value} does not belong to {side}/")
            cases.append(case)
    return cases


def read(name: str, content: bytes) -> Case:
    """One file. Raises BadCase."""
    headers: dict[str, str] = {}
    sentence: list[str] = []
    steps: list[Step] = []
    for number, line in _lines(content):
        if line.startswith(b"#"):
            if steps:
                raise BadCase(f"{name}:{number}: a remark belongs above the dialogue")
            key, colon, value = line[1:].strip().decode().partition(": ")
            if colon and key in _HEADERS:
                headers[key] = value
            else:
                sentence.append(line[1:].strip().decode())
        elif line:
            steps.append(_step(name, number, line))
    if missing := [header for header in _HEADERS[:2] if header not in headers]:
        raise BadCase(f"{name}: it has no `# {missing[0]}: `")
    if not sentence or not steps:
        raise BadCase(
            f"{name}: it has no {'dialogue' if sentence else 'sentence that says what it is about'}"
        )
    try:
        audience = Audience(headers["for"])
    except ValueError:
        raise BadCase(f"{name}: for {headers['for']!r} is none of any, interpreter, host") from None
    try:
        needs = frozenset(Need(word) for word in headers.get("needs", "").split())
    except ValueError as error:
        raise BadCase(f"{name}: needs: {error}") from None
    return Case(name, headers["requirement"], audience, " ".join(sentence), tuple(steps), needs)


def _lines(content: bytes) -> list[tuple[int, bytes]]:
    """Numbered; one that ends with a backslash goes on in the next."""
    lines: list[tuple[int, bytes]] = []
    begun: tuple[int, bytes] | None = None
    for number, line in enumerate(content.split(b"\n"), 1):
        first, held = begun or (number, b"")
        if line.endswith(b"\\"):
            begun = (first, held + line[:-1])
        else:
            lines.append((first, held + line))
            begun = None
    return lines


def _step(name: str, number: int, line: bytes) -> Step:
    mark, _, rest = line.partition(b" ")
    word, _, argument = rest.partition(b" ")
    shown = f"{mark.decode(errors='replace')} {word.decode(errors='replace')}" if word[:1] == b"@" else ""
    try:
        act = Act(shown or mark.decode(errors="replace"))
    except ValueError:
        raise BadCase(f"{name}:{number}: {line[:60]!r} is no line of a dialogue") from None
    return Step(act, _written_out(argument if shown else rest), number)


def _written_out(text: bytes) -> bytes:
    def replaced(found: re.Match[bytes]) -> bytes:
        repeated, times, digits, what, handler = found.groups()
        if what is not None:
            each = _EACH % handler.decode()
            whole = f'{{"function":"f","key":"k","version":3,{each}}}' if what == b"ctx" else each
            return whole.encode()
        return repeated * int(times) if digits is None else bytes.fromhex(digits.decode())

    return _MACRO.sub(replaced, text)


def _number(hello: Mapping[str, object], name: str, without: int) -> int:
    value = hello.get(name, without)
    return value if isinstance(value, int) else without
