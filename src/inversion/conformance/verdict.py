"""What became of a case that was played, and of all of them, with what is known to fail."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from enum import Enum

import attrs

from inversion.conformance.faults import Advice


class Verdict(Enum):
    PASSED = "passed"
    FAILED = "failed"
    KNOWN = "known failing"  #: it failed, as its known-failing file says
    NOT_ASKED = "not asked"  #: its hello does not say that it can do this, so no host asks it
    UNEXPECTED = "passes unexpectedly"  #: it is named in the known-failing file, and passed

    @property
    def is_well(self) -> bool:
        return self in (Verdict.PASSED, Verdict.KNOWN, Verdict.NOT_ASKED)


@attrs.frozen
class Said:
    """One line of what happened. `mark`: > was sent, < was written, - a remark."""

    mark: str
    text: str


@attrs.frozen
class Played:
    """A case as it went."""

    name: str  #: group/behaviour
    requirement: str
    sentence: str  #: what the case is about
    verdict: Verdict
    took_s: float
    said: Sequence[Said] = ()  #: in order, up to where it failed
    expected: str = ""  #: what should have come there
    advice: Sequence[Advice] = ()


@attrs.frozen
class KnownFailing:
    """Names of cases that are expected to fail, each with its reason."""

    reasons: Mapping[str, str] = attrs.field(factory=dict)

    @staticmethod
    def read(text: str) -> KnownFailing:
        """One name a line; why is behind a `#`, there or in the comment above. Raises ValueError."""
        reasons: dict[str, str] = {}
        comment = ""
        for number, line in enumerate(text.splitlines(), 1):
            name, _, behind = (part.strip() for part in line.partition("#"))
            if not name:
                comment = behind
            elif reason := behind or comment:
                reasons[name] = reason
            else:
                raise ValueError(f"line {number}: {name}: say why it fails, behind a #")
        return KnownFailing(reasons)

    def judge(self, name: str, *, passed: bool) -> Verdict:
        if passed:
            return Verdict.UNEXPECTED if name in self.reasons else Verdict.PASSED
        return Verdict.KNOWN if name in self.reasons else Verdict.FAILED

    def strangers(self, names: Iterable[str]) -> Sequence[str]:
        """What it names that is no case."""
        every = set(names)
        return [name for name in self.reasons if name not in every]
