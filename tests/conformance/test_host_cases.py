"""The host's side of the protocol: its cases, played against the core, and proofs that they can fail."""

from __future__ import annotations

import pytest
from altered import Alteration, alterations, core
from host_script import Core, Unlike, play

from inversion.conformance.cases import Audience, Case, load

CASES = [case for case in load() if case.audience is Audience.HOST]
#: The issue asks for 150 cases over both sides, none of which nothing fails.
FEWEST = 200


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_host_does_what_the_case_says(case: Case) -> None:
    play(core(), case)


def test_a_conclusion_that_does_not_come_is_a_failure() -> None:
    for old, new in (
        (b"= answer", b"= fails"),
        (b"= log a note\n", b""),
        (b"= waiting 2.1", b"= waiting 1.1"),
    ):
        with pytest.raises(Unlike, match=r"line|end"):
            play(core(), _changed("lines/interleaved", old, new))


def _changed(name: str, old: bytes, new: bytes) -> Case:
    from inversion import shipped
    from inversion.conformance.cases import read

    content = (shipped.runtimes() / "conformance/cases/host" / f"{name}.txt").read_bytes()
    assert old in content
    return read(name, content.replace(old, new, 1))


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_every_case_is_failed_by_an_altered_core_and_every_alteration_fails_a_case() -> None:
    due = {case.name: case for case in CASES}
    failed: dict[str, Case] = {}
    unnoticed = []
    for alteration in alterations():
        altered = core(alteration)
        found = {name for name, case in due.items() if _fails(altered, case)}
        failed |= {name: due.pop(name) for name in found}
        if not found and not any(_fails(altered, case) for case in failed.values()):
            unnoticed.append(alteration)
    assert [f"{each.module}: {each.name}" for each in unnoticed] == []
    assert list(due) == []
    assert len(failed) >= FEWEST


def _fails(altered: Core, case: Case) -> bool:
    try:
        play(altered, case, also_piecemeal=False)
    except Exception:  # an altered core may raise whatever it likes
        return True
    return False


def test_an_alteration_leaves_the_core_of_others_alone() -> None:
    first = alterations()[0]
    assert isinstance(first, Alteration)
    before = core()
    assert core(first).json_text is not before.json_text
    assert core() == before
