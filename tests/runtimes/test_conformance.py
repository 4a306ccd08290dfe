"""Every case of the conformance kit against the interpreter of every language. What `known-failing.txt` names
must fail, all else must pass.
"""

from __future__ import annotations

import shlex
import sys
import tomllib
from collections.abc import Sequence

import pytest
from hand_host import RUNTIMES

from fix_builds import BUILD_S, BUILDS, built
from inversion.conformance.cases import Audience, load
from inversion.conformance.playing import play
from inversion.conformance.verdict import KnownFailing

#: For one line to come: a virtual machine starts, on a machine that is busy with ten others.
LINE_S = 30.0

with (RUNTIMES / "inversion.toml").open("rb") as opened:
    COUNTERS = {
        name.removeprefix("counter-"): function["command"]
        for name, function in tomllib.load(opened)["functions"].items()
        if name.startswith("counter-") and name != "counter-jq-alone"  # which has no shim
    }


def languages() -> list[object]:
    needs = {language: run[0] for language, run in COUNTERS.items()} | {"awk": "gawk"}
    needs |= {language: shlex.split(build.line)[0] for language, build in BUILDS.items()}
    return [
        pytest.param(language, marks=[pytest.mark.toolchain(program), pytest.mark.timeout(BUILD_S)])
        for language, program in needs.items()
    ]


@pytest.mark.parametrize("language", languages())
async def test_a_language_passes_every_case(language: str) -> None:
    known = KnownFailing.read((RUNTIMES / language / "known-failing.txt").read_text())
    cases = [case for case in load() if case.audience is not Audience.HOST]
    assert not known.strangers(case.name for case in cases)
    played = await play(interpreter(language), RUNTIMES, cases, known, LINE_S, lambda played: None)
    assert len(played) == len(cases)
    for each in played:
        assert each.verdict.is_well, each


def interpreter(language: str) -> Sequence[str]:
    if language in BUILDS:
        return built(language, "interpreter")
    command = [word.replace("counter.", "interpreter.") for word in COUNTERS[language]]
    if language == "python":
        command[0] = sys.executable
    return command
