"""One thing that was looked at: what it is, whether it will do, and what to do if not."""

from __future__ import annotations

from enum import Enum

import attrs


class Verdict(Enum):
    OK = "ok"
    WARN = "warn"  #: it works, and something is worth knowing
    FAIL = "fail"  #: `dev` or `serve` would not start, or a function would not run


@attrs.frozen(slots=True)
class Finding:
    """A line of the report."""

    name: str
    verdict: Verdict
    sentence: str
    remedy: str | None = None


def ok(name: str, sentence: str) -> Finding:
    return Finding(name, Verdict.OK, sentence)


def warn(name: str, sentence: str, remedy: str) -> Finding:
    return Finding(name, Verdict.WARN, sentence, remedy)


def fail(name: str, sentence: str, remedy: str) -> Finding:
    return Finding(name, Verdict.FAIL, sentence, remedy)
