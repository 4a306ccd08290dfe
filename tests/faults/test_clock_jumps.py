"""S7: the wall clock of a node jumps while it serves; deadlines, retention and ids do not notice.

The clock is libfaketime's: it reads how far it is off from a file, at every look. The monotonic clock stays
as it is, as it does where somebody sets the clock of a host.
"""

from __future__ import annotations

import re
import uuid
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path
from time import perf_counter, time

import orjson
import psycopg
import pytest
import trio
from front_door import Answer
from ledger import Ledger

from fix_command import RunningCommand, StartCommand
from fix_matrix import Row
from fix_outage import ask

ALTERED_NODE = str(Path(__file__).parent / "altered_node.py")
HOUR_S = 3_600
YEAR_S = 365 * 24 * HOUR_S
#: What the clock is off by, one after the other: an hour and ten years, both ways.
JUMPS_S = (HOUR_S, -HOUR_S, 10 * YEAR_S, -10 * YEAR_S, 0)
#: An answer that the function gives at once takes milliseconds.
MOST_S = 10.0

#: Answers that were recorded longer ago than the retention (a day), and one that was so in an hour.
OLD_AND_NEARLY_OLD = """
    INSERT INTO inversion.request
           (function, key, id, hash, turn, version, status, content_type, body, created_at)
    SELECT 'journal', 'k', 'c:' || id, '', gen_random_uuid(), 1, 200, 'application/json', '1', now() - age
      FROM (VALUES (%s, interval '24 h 1 s'), (%s, interval '23 h 30 min')) AS r (id, age)
"""


class Clock:
    """The wall clock of a node."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / f"clock-{uuid.uuid4().hex[:8]}"
        self.off_by(0)

    def off_by(self, seconds: int) -> None:
        """It jumps."""
        new = self._file.with_suffix(".new")
        new.write_text(f"{seconds:+d}\n")
        new.rename(self._file)

    @property
    def environ(self) -> dict[str, str]:
        (library,) = Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1")
        return {
            "LD_PRELOAD": str(library),
            "FAKETIME_TIMESTAMP_FILE": str(self._file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            "NO_FAKE_STAT": "1",
        }


Serve = Callable[[Clock], AbstractContextManager[RunningCommand]]


@pytest.fixture
def serve(journal_folder: Path, database_url: str, start_command: StartCommand) -> Serve:
    """A node that looks often for answers past their retention."""

    @contextmanager
    def start(clock: Clock) -> Iterator[RunningCommand]:
        arguments = ("serve", "--config", journal_folder, "--database-url", database_url)
        environ = {**clock.environ, "INVERSION_SWEEP_S": "0.2"}
        with start_command(*arguments, program=(ALTERED_NODE,), **environ) as command:
            yield command

    return start


async def seen_off_by(node: RunningCommand, seconds: int) -> float:
    """Wait until the node's own Date says so; what it says."""
    with trio.fail_after(20):
        while True:
            date = (await node.admin("/livez")).fields["date"]
            off_s = parsedate_to_datetime(date).timestamp() - time()
            if abs(off_s - seconds) < 60:
                return off_s
            await trio.sleep(0.02)


async def slow_calls_begun(node: RunningCommand) -> int:
    """How many calls of `slow` have said so on its stderr."""
    metrics = (await node.admin("/metrics")).body.decode()
    found = re.search(r'inversion_function_stderr_lines_total\{function="slow"\} (\d+)', metrics)
    return int(found.group(1)) if found else 0


@pytest.mark.toolchain("faketime")
@pytest.mark.fault("S7", "the node's wall clock jumps by an hour and by ten years, both ways, under load")
@pytest.mark.timeout(60 * 20)
async def test_a_wall_clock_that_jumps_moves_no_deadline_and_no_retention(
    serve: Serve, database_url: str, short_folder: Path, row: Row
) -> None:
    ledger = Ledger()
    with serve(clock := Clock(short_folder)) as node, trio.fail_after(100 * row.times):
        kept = await node.call("journal/keyed/add", "once", b"Idempotency-Key: once")
        assert kept.status == 200
        async with ledger.load(node.url):
            await ledger.more(100)
            for number in range(row.times):
                for place, seconds in enumerate(JUMPS_S):
                    await jump(node, clock, seconds, f"{number}.{place}", database_url, row)
                    await ledger.more(50)
                    again = await node.call("journal/keyed/add", "once", b"Idempotency-Key: once")
                    assert (again.body, again.fields["etag"]) == (kept.body, kept.fields["etag"])
                    assert again.fields["inversion-replayed"] == "true"
                    row.recovered()
    assert set(ledger.told()) == {"ok"}, ledger.told()
    took_s = max(entry.answered_s - entry.sent_s for entry in ledger.entries)
    assert took_s < MOST_S
    ids = [entry.answer.fields["inversion-id"] for entry in ledger.entries if entry.answer is not None]
    assert len(set(ids)) == len(ids) == len(ledger.entries)
    births_s = [uuid.UUID(one).int >> 80 for one in ids]
    assert max(births_s) - min(births_s) > 19 * YEAR_S * 1_000, "the ids' clock is the one that jumped"


async def jump(
    node: RunningCommand, clock: Clock, seconds: int, name: str, database_url: str, row: Row
) -> None:
    """Let the clock jump while calls are under way: one that is in time, and one whose deadline passes."""
    answers: dict[str, tuple[Answer, float]] = {}

    async def call(key: str, pause_s: float, within: bytes) -> None:
        begun_s = perf_counter()
        message = {"s": pause_s, "token": f"{key}-{name}"}
        answer = await node.call(f"slow/{key}-{name}/add_slowly", message, b"Inversion-Timeout: " + within)
        answers[key] = answer, perf_counter() - begun_s

    with psycopg.connect(database_url, autocommit=True) as connection:
        connection.execute(OLD_AND_NEARLY_OLD, (f"old-{name}", f"nearly-{name}"))
    async with trio.open_nursery() as nursery:
        before = await slow_calls_begun(node)
        nursery.start_soon(call, "patient", 1.0, b"15s")
        with trio.fail_after(20):
            while await slow_calls_begun(node) == before:  # noqa: ASYNC110 (another process)
                await trio.sleep(0.01)
        nursery.start_soon(call, "late", 1.5, b"700ms")
        clock.off_by(seconds)
        seen_s = await seen_off_by(node, seconds)
        row.fired(f"the node's Date is off by {seen_s:.0f} s")
    answer, took_s = answers["patient"]
    assert answer.status == 200, answer.body
    answer, took_s = answers["late"]
    assert (answer.status, orjson.loads(answer.body)["code"]) == (504, "deadline")
    assert 0.6 < took_s < MOST_S
    with trio.fail_after(20):
        # A sweep under this clock: what is past its retention goes, and nothing else.
        left = f"SELECT id FROM inversion.request WHERE id IN ('c:old-{name}', 'c:nearly-{name}')"
        while (found := ask(database_url, left)) != [(f"c:nearly-{name}",)]:
            assert (f"c:nearly-{name}",) in found, "forgotten before its time"
            await trio.sleep(0.02)
