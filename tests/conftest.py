"""What all tests share: the fix_*.py files are plugins; markers say what a test needs of the machine.

Every test that uses a database fixture is marked `postgres` by itself, those of some folders `slow`, so that
`pytest -m "not postgres and not toolchain and not slow"` is the inner loop. A `toolchain("node")` that is
missing skips its tests with the reason, or fails them when INVERSION_REQUIRE_TOOLCHAINS is set (CI).
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

pytest_plugins = [file.stem for file in Path(__file__).parent.glob("fix_*.py")]
pytest.register_assert_rewrite(*pytest_plugins)  # before one imports another

# PgBouncer's folder, which is not on an ordinary user's PATH in Debian.
os.environ["PATH"] = f"{os.environ.get('PATH', os.defpath)}:/usr/sbin"

#: Folders whose tests take their time: pauses, real nodes, thousands of histories.
SLOW_FOLDERS = {"faults", "campaign", "history", "simulation", "reload", "image"}
DATABASE_FIXTURES = {"server_url", "initialized_folder", "postgres_server"}


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if DATABASE_FIXTURES.intersection(getattr(item, "fixturenames", ())):
            item.add_marker(pytest.mark.postgres)
        if item.path.parent.name in SLOW_FOLDERS:
            item.add_marker(pytest.mark.slow)


def pytest_runtest_setup(item: pytest.Item) -> None:
    for marker in item.iter_markers("toolchain"):
        missing = [program for program in marker.args if shutil.which(program) is None]
        if not missing:
            continue
        reason = f"needs {', '.join(missing)}, not found on PATH"
        if os.environ.get("INVERSION_REQUIRE_TOOLCHAINS"):
            pytest.fail(reason, pytrace=False)
        pytest.skip(reason)
