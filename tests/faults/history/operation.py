"""One line of a history: what one client asked of one entity, when, and what it was told.

A history is a file of JSON lines in any order. All times are CLOCK_MONOTONIC of one machine. `unknown` has
no answer and no end. `applied` without an end was read back from the tables. `not_applied` without an
answer never ran; with the answer `{"refused": code}` it was computed from the state of its version, as a
read is.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Any, TypeAlias

import msgspec

Json: TypeAlias = Any  #: what JSON can hold; msgspec knows no recursive alias


class Outcome(Enum):
    APPLIED = "applied"
    NOT_APPLIED = "not_applied"
    UNKNOWN = "unknown"


class Operation(msgspec.Struct, frozen=True, gc=False, omit_defaults=True):
    """A msgspec struct, because millions of lines are read: a quarter of the time of orjson and attrs."""

    client: str
    entity: str  #: `model/name`, as in a path: the model is what stands before the slash
    kind: str
    input: Json
    invoked_ns: int
    completed_ns: int | None
    outcome: Outcome
    answer: Json = None
    version: int | None = None  #: after it (the ETag); of reads and refusals: computed from it
    key: str | None = None  #: the Idempotency-Key; attempts with one key on one entity are one deed
    if_match: int | None = None
    node: str | None = None
    none_match: bool = False  #: If-None-Match: *

    @property
    def ran(self) -> bool:
        """False: it was refused before anything was computed, and must have no trace."""
        return self.outcome is not Outcome.NOT_APPLIED or self.answer is not None


def refused(code: str) -> Json:
    """The answer of a refusal."""
    return {"refused": code}


_ENCODE = msgspec.json.Encoder().encode
_DECODE = msgspec.json.Decoder(Operation).decode


class HistoryWriter:
    """Appends operations to a file, each as soon as its client knows the outcome."""

    def __init__(self, path: Path) -> None:
        self._file = path.open("wb")
        self.written = 0

    def write(self, operation: Operation) -> None:
        self._file.write(_ENCODE(operation) + b"\n")
        self.written += 1

    def flush(self) -> None:
        self._file.flush()

    def __enter__(self) -> HistoryWriter:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()


def write_history(path: Path, operations: Iterable[Operation]) -> None:
    with HistoryWriter(path) as history:
        for operation in operations:
            history.write(operation)


def read_history(path: Path) -> Iterator[Operation]:
    """Every line; one that is torn or has a field too few is an error, never skipped."""
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield _DECODE(line)
            except msgspec.MsgspecError as error:
                raise ValueError(f"{path}, line {number}: {error}") from error
