"""The matrix itself: a fault that did not fire proves nothing."""

from pathlib import Path

import orjson

pytest_plugins = ["pytester"]

TESTS = Path(__file__).parent.parent

BEGIN = """
import pytest
pytest_plugins = ["fix_matrix"]

@pytest.mark.fault("X1", "nothing at all")
"""


def run(pytester, test):
    pytester.makeini(f"[pytest]\npythonpath = {TESTS}\nmarkers = fault(number, injected): a row")
    pytester.makepyfile(BEGIN + test)
    return pytester.runpytest_subprocess("-p", "no:cacheprovider")


def test_a_fault_that_never_fired_fails_its_test(pytester):
    result = run(pytester, "def test_it(row): pass")
    result.assert_outcomes(passed=1, errors=1)
    result.stdout.fnmatch_lines(["*the fault of X1 never fired*"])


def test_a_fault_that_fired_is_recorded_with_its_recovery(pytester, tmp_path, monkeypatch):
    record = tmp_path / "rows.jsonl"
    monkeypatch.setenv("INVERSION_FAULT_RECORD", str(record))
    result = run(pytester, "def test_it(row):\n    row.fired('seen')\n    row.recovered()")
    result.assert_outcomes(passed=1)
    (entry,) = map(orjson.loads, record.read_bytes().splitlines())
    assert (entry["number"], entry["fault"], entry["fires"], entry["evidence"]) == (
        "X1",
        "nothing at all",
        1,
        "seen",
    )
    assert entry["worst_recovery_s"] >= 0
