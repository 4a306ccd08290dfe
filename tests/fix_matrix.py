"""The fault matrix: what each test of tests/faults says of its row; the table in docs is made of that.

    @pytest.mark.fault("F1", "kill -9 of an idle process")
    async def test_...(row):
        for _ in range(row.times):            # 1, or INVERSION_FAULT_TIMES for a long run
            os.kill(pid, 9); ...
            row.fired(f"process {pid} is gone")   # the evidence that the fault happened
            ...                                   # wait for the recovery
            row.recovered()                       # the clock ran since `fired`

A test whose fault never fired fails. With INVERSION_FAULT_RECORD=FILE each row is appended to it as JSON.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import attrs
import orjson
import pytest

TIMES = int(os.environ.get("INVERSION_FAULT_TIMES", "1"))


@attrs.define
class Row:
    """One fault of the matrix, as a test proves it."""

    number: str
    fault: str
    times: int
    fires: int = 0
    evidence: str = ""
    worst_recovery_s: float | None = None
    _since_s: float = 0.0

    def fired(self, evidence: str) -> None:
        """The fault has happened, and this shows it. Starts the clock of the recovery."""
        self.fires += 1
        self.evidence = evidence
        self._since_s = perf_counter()

    def recovered(self) -> float:
        """All is well again: the seconds since `fired`. The worst goes into the table."""
        assert self.fires, "recovered from what? the fault has not fired"
        took_s = perf_counter() - self._since_s
        self.worst_recovery_s = max(took_s, self.worst_recovery_s or 0.0)
        return took_s


@pytest.fixture
def row(request: pytest.FixtureRequest) -> Iterator[Row]:
    """The row that the test's `fault` marker names."""
    marker = request.node.get_closest_marker("fault")
    assert marker is not None, 'a test with `row` is marked @pytest.mark.fault("F1", "what is injected")'
    row = Row(*marker.args, times=marker.kwargs.get("times", TIMES))
    yield row
    if request.node.stash.get(PASSED, False):
        assert row.fires, f"the fault of {row.number} never fired: the test proves nothing"
        _record(request.node.nodeid, row)


PASSED = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    report = yield
    if call.when == "call":
        item.stash[PASSED] = report.passed
    return report


def _record(test: str, row: Row) -> None:
    file = os.environ.get("INVERSION_FAULT_RECORD")
    if file is None:
        return
    entry = attrs.asdict(row, filter=lambda field, _: not field.name.startswith("_"))
    with Path(file).open("ab") as record:
        record.write(orjson.dumps({**entry, "test": test}) + b"\n")
