from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator

import pytest

from inversion import open_files


@pytest.fixture(autouse=True)
def limits(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[int, int]]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    monkeypatch.setattr(open_files, "_at_start", None)
    yield before
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


def theirs() -> int:
    """What a process that is started now finds."""
    read = "import resource; print(resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    return int(subprocess.run([sys.executable, "-c", read], stdout=subprocess.PIPE, check=True).stdout)


def test_the_soft_limit_becomes_the_hard_one_and_what_is_started_finds_the_old_one(
    limits: tuple[int, int],
) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (500, limits[1]))
    most = open_files.raise_limit()
    assert most == resource.getrlimit(resource.RLIMIT_NOFILE)[0] > 500
    assert theirs() == most
    with open_files.as_at_start():
        assert theirs() == 500
    assert resource.getrlimit(resource.RLIMIT_NOFILE) == (most, limits[1])


def test_a_limit_that_is_high_already_stays_for_all(limits: tuple[int, int]) -> None:
    resource.setrlimit(resource.RLIMIT_NOFILE, (limits[1], limits[1]))
    assert open_files.raise_limit() == limits[1]
    with open_files.as_at_start():
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (limits[1], limits[1])
