"""A node whose functions do what they are told, and how to see what became of it."""

from __future__ import annotations

from pathlib import Path

import pytest

from fix_node import PYTHON

OBEDIENT = Path(__file__).parent.parent / "functions" / "obedient.py"


@pytest.fixture
def obedient_toml() -> str:
    """Functions `a` and `b` of entities, `pure` without state; failures are tried again soon."""
    one = f"""
        [functions.NAME]
        command = ["{PYTHON}", "{OBEDIENT}"]
        processes = {{ min = 1, max = 2 }}
        retry = {{ attempts = 3, pause = "50ms", longest_pause = "100ms" }}
        """
    return (
        "".join(one.replace("NAME", name) for name in ("a", "b"))
        + one.replace("NAME", "pure")
        + "state = false\n"
    )
