"""Every requirement has a case, every case a requirement."""

from __future__ import annotations

import tomllib

from inversion import shipped
from inversion.conformance.cases import load

FILE = shipped.runtimes() / "conformance" / "requirements.toml"
REQUIREMENTS = tomllib.loads(FILE.read_text())
CASES = load()


def test_every_requirement_has_a_case() -> None:
    assert REQUIREMENTS.keys() - {case.requirement for case in CASES} == set()


def test_every_case_has_a_requirement() -> None:
    assert {case.requirement for case in CASES} - REQUIREMENTS.keys() == set()


def test_every_requirement_says_what_it_is_and_where_it_stands() -> None:
    for name, said in REQUIREMENTS.items():
        assert said.keys() == {"source", "sentence"}, name
        assert said["sentence"].endswith("."), name
