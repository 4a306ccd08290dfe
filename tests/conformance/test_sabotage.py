"""`inversion check` finds what runtimes do wrong, and names it; and no case is there that nothing fails.

aimed.json says which fault of the sabotage runtime is tried with which cases, and what it is called
(`python -m tests.conformance.matrix --write`).
"""

from __future__ import annotations

import json

import pytest
from tests.conformance.matrix import AIMED, failed, play_against, runtime_cases
from tests.conformance.sabotage import FAULTS

from inversion.conformance.faults import Fault

AIM = json.loads(AIMED.read_text())
#: A process is up within three times that; a fault is silent for ever.
TIMEOUT_S = 2.0


def test_every_fault_is_aimed_at_something() -> None:
    assert len(FAULTS) >= 25
    assert sorted(AIM) == sorted(FAULTS)
    assert [fault for fault, aim in AIM.items() if not aim["cases"] or Fault(aim["named"]) is None] == []


def test_every_case_is_failed_by_a_fault() -> None:
    """One that nothing fails proves nothing: add a fault to sabotage.py, or take the case away."""
    aimed = {name for aim in AIM.values() for name in aim["cases"]}
    assert aimed == {case.name for case in runtime_cases()}


@pytest.mark.slow
@pytest.mark.timeout(240)
async def test_each_fault_is_caught_by_every_case_aimed_at_it_and_named() -> None:
    by_name = {case.name: case for case in runtime_cases()}
    faults = {fault: [by_name[name] for name in aim["cases"]] for fault, aim in AIM.items()}
    results = await play_against(faults, TIMEOUT_S)
    uncaught, unnamed = [], []
    for fault, played in results.items():
        caught = failed(played)
        uncaught += [f"{fault}: {each.name}" for each in played if each not in caught]
        said = {advice.fault.value for each in caught for advice in each.advice}
        if AIM[fault]["named"] not in said:
            unnamed.append(f"{fault}: {AIM[fault]['named']} is not among {sorted(said)}")
    assert uncaught + unnamed == []
