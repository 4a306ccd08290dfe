"""S9: a node kills itself at every numbered moment of a commit's way (crash_points.py), alone and in pairs.

After each crash it is started again, and whoever was torn repeats the call with its key. Every keyed call
stands exactly once where its answer says, every other at most once, and what was acknowledged is there.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from itertools import count, pairwise, product
from pathlib import Path

import pytest
import trio
from crash_points import POINTS
from front_door import EndOfAnswers
from ledger import Entry, Ledger

from fix_command import RunningCommand, StartCommand
from fix_matrix import TIMES, Row
from fix_outage import ask
from inversion.state import sql
from inversion.state.migrate import migrate, pending

ALTERED_NODE = str(Path(__file__).parent / "altered_node.py")
NUMBERS = range(1, len(POINTS) + 1)
#: Recorded longer ago than the retention (a day): there is something to sweep.
OLD = """
    INSERT INTO inversion.request
           (function, key, id, hash, turn, version, status, content_type, body, created_at)
    SELECT 'journal', 'old', 'c:' || gen_random_uuid(), '', gen_random_uuid(), 1, 200, 'text/plain', '1',
           now() - interval '25 h'
      FROM generate_series(1, 1500)
"""

Serve = Callable[[int | None], AbstractContextManager[RunningCommand]]


@pytest.fixture
def serve(journal_folder: Path, database_url: str, start_command: StartCommand) -> Serve:
    """`serve(point)`: a node that crashes there."""

    @contextmanager
    def start(point: int | None) -> Iterator[RunningCommand]:
        arguments = ("serve", "--config", journal_folder, "--database-url", database_url)
        crash = {} if point is None else {"INVERSION_CRASH_AT": f"{point}:{POINTS[point - 1][1]}"}
        environ = {"INVERSION_SWEEP_S": "0.2", **crash}
        with start_command(*arguments, program=(ALTERED_NODE,), **environ) as command:
            yield command

    return start


async def call_until_it_dies(ledger: Ledger, command: RunningCommand) -> int:
    """Keyed and other calls at the same entities, and those again that were torn; the exit status."""
    torn = [entry for entry in ledger.entries if entry.keyed and entry.code != "ok"]
    async with (
        ledger.load(command.url, keys=("a",), hot=3, keyed=True),
        ledger.load(command.url, keys=("b",), hot=2),
    ):
        async with trio.open_nursery() as nursery:
            for entry in torn:
                nursery.start_soon(repeat, command, entry)
        with trio.fail_after(60):
            while command.process.poll() is None:  # noqa: ASYNC110 (another process)
                await trio.sleep(0.01)
    return command.process.returncode


async def repeat(command: RunningCommand, entry: Entry) -> None:
    """The same call under its key; it may be torn again."""
    key = b"Idempotency-Key: " + entry.token.encode()
    try:
        entry.answer = await command.call(f"journal/{entry.key}/add", entry.token, key)
    except (OSError, trio.BrokenResourceError, EndOfAnswers):
        return


async def crash(points: Iterable[int], serve: Serve, database_url: str, row: Row) -> None:
    """One life that ends at each point, and one that goes on."""
    ask(database_url, "TRUNCATE inversion.entity, inversion.request")
    ledger = Ledger()
    for point in points:
        name = POINTS[point - 1][0]
        with serve(point) as command:
            ask(database_url, OLD)
            status = await call_until_it_dies(ledger, command)
        assert status == -signal.SIGKILL, f"it did not reach '{name}'"
        row.fired(f"it killed itself at '{name}', {ledger.told()['torn']} calls are torn")
        try:
            ledger.check(database_url)
        except AssertionError as wrong:
            wrong.add_note(f"found after it had died at '{name}'")
            raise
    with serve(None) as command, trio.fail_after(120):
        for entry in ledger.entries:
            if entry.keyed and entry.code != "ok":
                await repeat(command, entry)
        async with ledger.load(command.url, hot=1):
            await ledger.more(20)
        row.recovered()
        old = "SELECT count(*) FROM inversion.request WHERE key = 'old'"
        while ask(database_url, old) != [(0,)]:  # noqa: ASYNC110 (another process)
            await trio.sleep(0.02)
    assert all(entry.code == "ok" for entry in ledger.entries if entry.keyed)
    assert set(ledger.told()) <= {"ok", "torn"}
    ledger.check(database_url)


@pytest.mark.fault(
    "S9", f"the node kills itself under load at each of {len(POINTS)} moments, one life after the other"
)
@pytest.mark.timeout(60 * 20)
async def test_a_node_that_dies_at_any_moment_loses_and_repeats_nothing(
    serve: Serve, database_url: str, row: Row
) -> None:
    for _ in range(row.times):
        await crash(NUMBERS, serve, database_url, row)


def every_pair(points: Sequence[int]) -> list[int]:
    """The shortest way on which each point comes once right after each, itself too (de Bruijn)."""
    way = []
    for place, point in enumerate(points):
        way.append(point)
        for later in points[place + 1 :]:
            way += [point, later]
    return [*way, points[0]]


def test_the_way_of_every_pair_has_each_once() -> None:
    way = every_pair(NUMBERS)
    assert sorted(pairwise(way)) == list(product(NUMBERS, repeat=2))
    assert sorted(pair for part in PARTS for pair in pairwise(part)) == list(product(NUMBERS, repeat=2))


#: A life for each pair, not three; in parts, so that the ledger stays short and a part can be run alone.
PARTS = [
    every_pair(NUMBERS)[begin : begin + len(NUMBERS) + 1]
    for begin in range(0, len(NUMBERS) ** 2, len(NUMBERS))
]


@pytest.mark.skipif(TIMES == 1, reason="pairs of moments are for the long run: INVERSION_FAULT_TIMES")
@pytest.mark.parametrize("points", PARTS, ids=[f"part{number}" for number in range(len(PARTS))])
@pytest.mark.fault("S9", "the node kills itself at a moment, is started again and kills itself at another")
@pytest.mark.timeout(60 * 20)
async def test_a_node_that_dies_again_loses_and_repeats_nothing(
    points: Sequence[int], serve: Serve, database_url: str, row: Row
) -> None:
    await crash(points, serve, database_url, row)


@pytest.mark.fault("S9", "`inversion migrate` kills itself after each of its statements was sent")
@pytest.mark.timeout(60 * 20)
async def test_a_migration_that_dies_at_any_statement_is_finished_by_the_next(
    empty_database_url: str, row: Row
) -> None:
    command = [sys.executable, ALTERED_NODE, "migrate", "--database-url", empty_database_url]
    run = partial(subprocess.run, command, check=False, capture_output=True, timeout=60)
    for _ in range(row.times):
        for statement in count(1):
            ask(empty_database_url, "DROP SCHEMA IF EXISTS inversion CASCADE")
            environ = {**os.environ, "INVERSION_CRASH_AT": f"any:{statement}"}
            ended = await trio.to_thread.run_sync(partial(run, env=environ))
            if ended.returncode == 0:
                break  # it has fewer statements
            assert ended.returncode == -signal.SIGKILL, ended.stderr
            row.fired(f"it killed itself when {statement} statements had been sent")
            with trio.fail_after(30):
                await migrate(empty_database_url)  # its backend may still be at work
                assert await pending(empty_database_url) == []
            row.recovered()
            rows = ask(empty_database_url, "SELECT name FROM inversion.migration ORDER BY number")
            assert rows == [(each.name,) for each in sql.MIGRATIONS]
        assert statement > 10
