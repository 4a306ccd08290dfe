"""M5: a node dies while it has a timer. Another one has it within a lease, by the database's clock."""

from __future__ import annotations

import signal
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trio

from fix_command import RunningCommand, StartCommand, for_serve
from fix_matrix import Row
from fix_node import PYTHON
from inversion.state.consequence_rows import LEASE_MS

OBEDIENT = Path(__file__).parent.parent / "functions" / "obedient.py"
TOML = f"""
[functions.b]
command = ["{PYTHON}", "{OBEDIENT}"]
processes = {{ min = 1, max = 2 }}
"""
#: Looking, claiming and writing down on a slow machine.
SPARE_S = 5.0
PATIENCE_S = 90.0
HELD = "SELECT owner::text FROM inversion.timer WHERE owner IS NOT NULL"
#: A lease begins with its claim: when that was, seconds after the instant.
TAKEN_AFTER = f"""
    SELECT extract(epoch FROM due_at - {LEASE_MS} * interval '1 ms' - %s)::float8
      FROM inversion.timer WHERE owner IS NOT NULL AND owner::text <> %s
"""


@pytest.fixture
def start(short_folder: Path, start_command: StartCommand, database_url: str) -> Any:
    """`start()`: one more node, a process of its own."""

    @contextmanager
    def serve() -> Iterator[RunningCommand]:
        folder = short_folder / uuid.uuid4().hex[:8]
        folder.mkdir()
        (folder / "inversion.toml").write_text(for_serve(TOML))
        with start_command("serve", "--config", folder, "--database-url", database_url) as command:
            yield command

    return serve


async def until_row(database: psycopg.Connection, text: str, *values: object) -> tuple[Any, ...]:
    """The first row there is, soon."""
    with trio.fail_after(PATIENCE_S):
        while True:
            row = database.execute(text, values).fetchone()  # type: ignore[arg-type]
            if row is not None:
                return row
            await trio.sleep(0.02)


@pytest.mark.fault("M5", "kill -9 of the node that has just begun a timer's message; another takes it on")
async def test_a_timer_of_a_dead_node_fires_within_a_lease_of_the_death(
    start: Any, database_url: str, row: Row
) -> None:
    for turn in range(row.times):
        with ExitStack() as stack:
            database = stack.enter_context(psycopg.connect(database_url, autocommit=True))
            doomed: RunningCommand = stack.enter_context(start())
            bell = {"key": f"y{turn}", "handler": "call", "name": "bell", "delay": "100ms"}
            message = {"pause": 2, "add": 1}
            answer = await doomed.call(f"b/x{turn}", {"do": [{"send": {**bell, "message": message}}]})
            assert answer.status == 200
            (owner,) = await until_row(database, HELD)
            doomed.process.send_signal(signal.SIGKILL)
            doomed.process.wait(10)
            (died_at,) = await until_row(database, "SELECT clock_timestamp()")
            row.fired(f"the owner {owner} of the timer is dead")
            stack.enter_context(start())
            (after_s,) = await until_row(database, TAKEN_AFTER, died_at, owner)
            row.recovered()
            assert after_s <= LEASE_MS / 1_000 + SPARE_S
            done = f"SELECT 1 FROM inversion.entity WHERE key = 'y{turn}' AND version = 1"
            await until_row(database, done)
            assert database.execute("SELECT count(*) FROM inversion.timer").fetchone() == (0,)
