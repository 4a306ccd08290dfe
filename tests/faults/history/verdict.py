"""What a checker says of the history of one entity. Only LINEARIZABLE is a pass: a checker that ran out of
time has found nothing, and a run that it cannot vouch for has failed.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum

import attrs
from tests.faults.history.operation import Operation


class Finding(Enum):
    LINEARIZABLE = "linearizable"
    VIOLATION = "violation"
    OUT_OF_TIME = "out of time"


@attrs.frozen
class Verdict:
    finding: Finding
    sentence: str = ""
    evidence: tuple[Operation, ...] = ()

    @property
    def passed(self) -> bool:
        return self.finding is Finding.LINEARIZABLE


PASSED = Verdict(Finding.LINEARIZABLE)


def violation(sentence: str, *evidence: Operation) -> Verdict:
    return Verdict(Finding.VIOLATION, sentence, evidence)


def out_of_time(sentence: str) -> Verdict:
    return Verdict(Finding.OUT_OF_TIME, sentence)


class Impossible(Exception):
    """Found on the way, where no verdict can be returned."""

    def __init__(self, sentence: str, evidence: Sequence[Operation]) -> None:
        super().__init__(sentence)
        self.verdict = violation(sentence, *evidence)
