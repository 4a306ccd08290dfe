"""M6: schedules of three nodes that are killed while they fire and whose clocks are wrong: each fires once.

What is due is made so by setting the rows of the schedules back: with `missed = "all"` an hour of minutes is
due at once.
"""

from __future__ import annotations

import os
import re
import signal
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import orjson
import psycopg
import pytest
import trio
from test_clock_jumps import HOUR_S, Clock, seen_off_by

from fix_command import RunningCommand, StartCommand, for_serve
from fix_matrix import Row
from fix_node import PYTHON

FAULTS = Path(__file__).parent
ALTERED_NODE = str(FAULTS / "altered_node.py")
CHRONICLER = FAULTS.parent / "functions" / "chronicler.py"
#: With the minutes of each: so many messages.
SCHEDULES = 30
MINUTES = 20
#: What a killed node had leased is free after this, and not after 10 s.
LEASE_S = 2
#: So often that nodes look while another fires.
LOOK_S = 0.05
PATIENCE_S = 90.0

TOML = f"""
[functions.diary]
command = ["{PYTHON}", "{CHRONICLER}"]
processes = {{ min = 1, max = 2 }}
retry = {{ attempts = 100, pause = "50ms", longest_pause = "500ms" }}
[functions.diary.cron]
""" + "".join(
    f'n{n} = {{ schedule = "* * * * *", key = "k{n}", message = {n}, missed = "all" }}\n'
    for n in range(SCHEDULES)
)

Serve = Callable[..., AbstractContextManager[RunningCommand]]


@pytest.fixture
def serve(short_folder: Path, start_command: StartCommand, database_url: str) -> Serve:
    """One more node, a process of its own; more of its environment."""

    @contextmanager
    def start(toml: str = TOML, **environ: str) -> Iterator[RunningCommand]:
        folder = short_folder / uuid.uuid4().hex[:8]
        folder.mkdir()
        (folder / "inversion.toml").write_text(for_serve(toml))
        arguments = ("serve", "--config", folder, "--database-url", database_url)
        environ = {"INVERSION_LEASE_S": str(LEASE_S), "INVERSION_CRON_S": str(LOOK_S), **environ}
        with start_command(*arguments, program=(ALTERED_NODE,), **environ) as command:
            yield command

    return start


async def query(url: str, text: str) -> list[tuple[Any, ...]]:
    """One statement: one snapshot."""

    def run() -> list[tuple[Any, ...]]:
        with psycopg.connect(url, autocommit=True) as connection:
            found = connection.execute(text)  # type: ignore[arg-type]
            return found.fetchall() if found.description else []

    return await trio.to_thread.run_sync(run)


async def adopted(url: str, schedules: int) -> None:
    with trio.fail_after(PATIENCE_S):
        while await query(url, "SELECT count(*) FROM inversion.cron") != [(schedules,)]:  # noqa: ASYNC110
            await trio.sleep(0.05)


async def set_back(url: str, minutes: int) -> dict[str, int]:
    """How far each schedule is now said to be, in minutes since 1970."""
    rows = await query(
        url,
        f"UPDATE inversion.cron SET last_at = date_trunc('minute', now()) - interval '{minutes} minutes'"
        " RETURNING name, extract(epoch FROM last_at)::int8 / 60",
    )
    return dict(rows)


async def standing(url: str) -> dict[str, int]:
    rows = await query(url, "SELECT name, extract(epoch FROM last_at)::int8 / 60 FROM inversion.cron")
    return dict(rows)


async def told(url: str) -> dict[str, list[int]]:
    """What each schedule's entity was told, in its order, in minutes since 1970."""
    rows = await query(url, "SELECT key, state FROM inversion.entity WHERE function = 'diary'")
    found = {}
    for key, state in rows:
        entries = orjson.loads(state)
        assert {entry["meta"]["cron"] for entry in entries} == {f"n{key[1:]}"}
        found[f"n{key[1:]}"] = [
            int(datetime.fromisoformat(entry["meta"]["scheduled"]).timestamp()) // 60 for entry in entries
        ]
    return found


async def quiet(url: str, begun: dict[str, int]) -> None:
    """All of it was fired, and nothing waits."""
    with trio.fail_after(PATIENCE_S):
        while True:
            now = await standing(url)
            if all(now[name] - at >= MINUTES for name, at in begun.items()):
                break
            await trio.sleep(0.05)
        while await query(url, "SELECT count(*) FROM inversion.message") != [(0,)]:  # noqa: ASYNC110
            await trio.sleep(0.05)


async def check(url: str, begun: dict[str, int], before: dict[str, list[int]]) -> None:
    """Each minute since then once, in its order; of what passes meanwhile nothing twice."""
    found = await told(url)
    for name, at in begun.items():
        news = found[name][len(before.get(name, [])) :]
        assert news[:MINUTES] == list(range(at + 1, at + 1 + MINUTES)), name
        assert news == sorted(set(news)), name
    assert await query(url, "SELECT * FROM inversion.dead_letter") == []


@pytest.mark.fault("M6", "kill -9 of two of three nodes while they fire what is due of thirty schedules")
@pytest.mark.timeout(60 * 30)
async def test_each_occurrence_is_fired_once_though_nodes_are_killed_while_they_fire(
    serve: Serve, database_url: str, row: Row
) -> None:
    with serve(INVERSION_CLOCK_OFF_S="-18000") as staying:
        await adopted(database_url, SCHEDULES)
        for _ in range(row.times):
            with ExitStack() as stack, trio.fail_after(3 * PATIENCE_S):
                leaving = [stack.enter_context(serve(INVERSION_CLOCK_OFF_S=off)) for off in ("18000", "0")]
                for node in (staying, *leaving):
                    await looks(node)
                before = await told(database_url)
                begun = await set_back(database_url, MINUTES)
                fired = await some_fired(database_url, begun, at_least=SCHEDULES // 4)
                for node in leaving:
                    os.kill(node.process.pid, signal.SIGKILL)
                ((waiting,),) = await query(database_url, "SELECT count(*) FROM inversion.message")
                row.fired(f"two nodes killed, {fired} schedules had fired, {waiting} messages waited")
                for node in leaving:
                    node.process.wait(10)
                await quiet(database_url, begun)
                row.recovered()
                await check(database_url, begun, before)


async def some_fired(url: str, begun: dict[str, int], at_least: int) -> int:
    """Until so many schedules have fired; how many."""
    fired = 0
    while fired < at_least:
        fired = sum(at > begun[name] for name, at in (await standing(url)).items())
    return fired


async def looks(node: RunningCommand) -> None:
    """Until it has looked at the schedules."""
    with trio.fail_after(PATIENCE_S):
        while b'cron_next_seconds{schedule="diary/' not in (await node.admin("/metrics")).body:  # noqa: ASYNC110
            await trio.sleep(0.05)


async def moved(url: str, begun: dict[str, int]) -> int:
    """How many occurrences the rows say were dealt with since."""
    return sum((await standing(url)).values()) - sum(begun.values())


async def fired_by(nodes: Sequence[RunningCommand]) -> int:
    """How many messages these nodes say they have fired."""
    pages = [(await node.admin("/metrics")).body.decode() for node in nodes]
    return sum(int(float(re.findall(r"^inversion_cron_fired_total (\S+)", page, re.M)[0])) for page in pages)


@pytest.mark.fault(
    "M6", "three nodes at once fire what is due of thirty schedules; the clock of one is 5 h ahead"
)
@pytest.mark.timeout(60 * 30)
async def test_three_nodes_that_fire_at_once_fire_no_occurrence_twice(
    serve: Serve, database_url: str, row: Row
) -> None:
    """Each node counts what it has fired: what the message's key would hide is seen too."""
    with ExitStack() as stack, trio.fail_after(3 * PATIENCE_S * row.times):
        nodes = [stack.enter_context(serve(INVERSION_CLOCK_OFF_S=off)) for off in ("-18000", "18000", "0")]
        for node in nodes:
            await looks(node)
        for _ in range(row.times):
            before = await told(database_url)
            counted = await fired_by(nodes)
            begun = await set_back(database_url, MINUTES)
            row.fired(f"{MINUTES} occurrences of each of {len(begun)} schedules due at once")
            await quiet(database_url, begun)
            row.recovered()
            await check(database_url, begun, before)
            counts = (0, 1)
            with trio.move_on_after(20):
                while counts[0] != counts[1]:  # a minute may just have passed
                    counts = await fired_by(nodes) - counted, await moved(database_url, begun)
            assert counts[0] == counts[1], "as many as the rows have moved by"


@pytest.mark.toolchain("faketime")
@pytest.mark.fault("M6", "the node's wall clock jumps by five hours, both ways, while schedules are due")
@pytest.mark.timeout(60 * 20)
async def test_what_is_due_is_what_the_databases_clock_says(
    serve: Serve, database_url: str, short_folder: Path, row: Row
) -> None:
    clock = Clock(short_folder)
    with serve(**clock.environ) as node:
        await adopted(database_url, SCHEDULES)
        for _ in range(row.times):
            for off_s in (5 * HOUR_S, -5 * HOUR_S, 0):
                with trio.fail_after(3 * PATIENCE_S):
                    clock.off_by(off_s)
                    row.fired(f"the node's Date is off by {await seen_off_by(node, off_s):.0f} s")
                    before = await told(database_url)
                    begun = await set_back(database_url, MINUTES)
                    await quiet(database_url, begun)
                    row.recovered()
                    await check(database_url, begun, before)
                    ((ahead,),) = await query(
                        database_url, "SELECT count(*) FROM inversion.cron WHERE last_at > now()"
                    )
                    assert ahead == 0
        page = (await node.admin("/metrics")).body.decode()
    due = Counter(re.findall(r"inversion_cron_lag_seconds{.*} (\S+)", page))
    assert due.keys() == {"0.0"}
