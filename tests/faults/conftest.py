"""Fixtures of the fault tests."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import pytest

from fix_command import RunningCommand, StartCommand, for_serve

Served = Callable[[str], AbstractContextManager[RunningCommand]]


@pytest.fixture
def served(short_folder: Path, start_command: StartCommand, database_url: str) -> Served:
    """`served(toml)`: `inversion serve` as a process of its own, over the session's database server."""

    @contextmanager
    def start(toml: str) -> Iterator[RunningCommand]:
        folder = short_folder / uuid.uuid4().hex[:8]
        folder.mkdir()
        (folder / "inversion.toml").write_text("[http]\nread_state = true\n" + for_serve(toml))
        with start_command(
            "serve", "--config", folder / "inversion.toml", DATABASE_URL=database_url
        ) as command:
            yield command

    return start
