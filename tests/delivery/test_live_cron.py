"""Schedules on a real node: what is due by the database's clock is fired once and reaches its function.

Nobody waits for a minute to pass: the row of a schedule is set back in the database, as if the nodes had been
away since.
"""

from __future__ import annotations

import io
import os
import re
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import orjson
import psycopg
import pytest
import trio
from front_door import get

from fix_node import PYTHON, LiveNode, StartNode
from inversion.config_file import load
from inversion.observe import logs
from inversion.reload.reloader import Origin

CHRONICLER = Path(__file__).parent.parent / "functions" / "chronicler.py"
PATIENCE_S = 30.0
MINUTE = timedelta(minutes=1)

TOML = f"""
[functions.diary]
command = ["{PYTHON}", "{CHRONICLER}"]
processes = {{ max = 1 }}
"""


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What the node says."""
    stream = io.StringIO()
    logs.configure(logs.Style.READABLE, stream)
    yield stream
    logs.configure()


def sql(url: str, text: str, *parameters: object) -> list[tuple[Any, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        found = connection.execute(text, parameters)  # type: ignore[arg-type]
        return found.fetchall() if found.description else []


async def until(condition: Callable[[], Any]) -> Any:
    """What it comes to, when it comes to something."""
    with trio.fail_after(PATIENCE_S):
        while not (found := await trio.to_thread.run_sync(condition)):  # noqa: ASYNC110 (the database)
            await trio.sleep(0.02)
    return found


def entries(url: str, key: str = "k") -> list[dict[str, Any]]:
    """What `diary` was told, in its order."""
    found = sql(url, "SELECT state FROM inversion.entity WHERE function = 'diary' AND key = %s", key)
    return list(orjson.loads(found[0][0])) if found else []


def known(url: str, name: str = "tick") -> list[tuple[Any, ...]]:
    return sql(url, "SELECT last_at FROM inversion.cron WHERE name = %s", name)


def set_back(url: str, by: timedelta, name: str = "tick") -> datetime:
    """As if nothing had been fired for so long; the time it is, by the database."""
    ((now,),) = sql(
        url,
        "UPDATE inversion.cron SET last_at = date_trunc('minute', now()) - %s WHERE name = %s"
        " RETURNING now()",
        by,
        name,
    )
    assert isinstance(now, datetime)
    return now.astimezone(UTC)


def scheduled(found: list[dict[str, Any]]) -> list[datetime]:
    return [datetime.fromisoformat(each["meta"]["scheduled"]) for each in found]


async def test_a_schedule_that_is_new_fires_nothing_of_the_past_and_then_what_is_due(
    start_node: StartNode, database_url: str
) -> None:
    async with start_node(TOML + 'cron.tick = { schedule = "* * * * *", key = "k", message = { n = 1 } }\n'):
        await until(lambda: known(database_url))
        assert entries(database_url) == []
        now = set_back(database_url, 30 * MINUTE)
        found = await until(lambda: entries(database_url))
    (first, *more) = found
    assert len(more) <= 1  # a minute may have passed meanwhile
    assert (first["message"], first["handler"]) == ({"n": 1}, "call")
    assert first["meta"]["cron"] == "tick"
    assert timedelta() <= now - scheduled(found)[0] < 2 * MINUTE, "the newest"
    assert first["meta"]["scheduled"].endswith(":00Z")


@pytest.mark.parametrize(
    ("missed", "expected"), [("skip", 0), ("once", 1), ("all", 100)], ids=["skip", "once", "all"]
)
async def test_what_was_missed_is_skipped_or_made_up_for_as_the_policy_says(
    start_node: StartNode, database_url: str, missed: str, expected: int
) -> None:
    """By a schedule of yesterday's minutes: none of its instants is on time."""
    ((yesterday,),) = sql(database_url, "SELECT now() - interval '1 day'")
    day = yesterday.astimezone(UTC)
    rule = f"* 0-{max(day.hour, 2)} {day.day} {day.month} *"
    toml = f'cron.tick = {{ schedule = "{rule}", key = "k", missed = "{missed}" }}\n'
    async with start_node(TOML + toml):
        await until(lambda: known(database_url))
        set_back(database_url, timedelta(days=3))
        begun = known(database_url)
        await until(lambda: known(database_url) != begun)
        found = await until(lambda: len(entries(database_url)) >= expected and [entries(database_url)])
        assert sql(database_url, "SELECT count(*) FROM inversion.message") == [(0,)] or expected
        ((last,),) = known(database_url)
    instants = scheduled(found[0])
    assert len(instants) == expected
    newest = last.astimezone(UTC)
    assert instants == [newest - n * MINUTE for n in reversed(range(expected))]


async def test_a_schedule_without_a_key_calls_the_function_without_one(
    start_node: StartNode, database_url: str, tmp_path: Path
) -> None:
    toml = f"""
        [functions.diary]
        command = ["{PYTHON}", "{CHRONICLER}"]
        state = false
        env = {{ CHRONICLE = "{tmp_path}/chronicle" }}
        sandbox = "none"
        [functions.diary.cron.tick]
        schedule = "* * * * *"
        handler = "remember"
        """
    async with start_node(toml):
        await until(lambda: known(database_url))
        set_back(database_url, 2 * MINUTE)
        text = await until(
            lambda: os.path.exists(f"{tmp_path}/chronicle") and Path(f"{tmp_path}/chronicle").read_text()
        )
        await until(lambda: sql(database_url, "SELECT count(*) FROM inversion.message") == [(0,)])
    said = orjson.loads(text.splitlines()[0])
    assert (said["key"], said["handler"], said["message"], said["meta"]["cron"]) == (
        None,
        "remember",
        None,
        "tick",
    )


async def test_a_program_of_exec_mode_finds_the_schedule_in_its_environment(
    start_node: StartNode, database_url: str, tmp_path: Path
) -> None:
    toml = f"""
        [functions.backup]
        command = ["sh", "-c", "(cat; echo $INVERSION_CRON $INVERSION_SCHEDULED) > {tmp_path}/told"]
        mode = "exec"
        state = false
        sandbox = "none"
        cron.tick = {{ schedule = "* * * * *", message = "all of it" }}
        """
    async with start_node(toml):
        await until(lambda: known(database_url))
        set_back(database_url, 2 * MINUTE)
        await until(lambda: (tmp_path / "told").exists() and "Z" in (tmp_path / "told").read_text())
    assert re.fullmatch(r'"all of it"tick \d{4}-\d\d-\d\dT\d\d:\d\d:00Z\n', (tmp_path / "told").read_text())


async def test_a_hello_declares_schedules_the_config_wins_and_bad_ones_are_told_and_left_out(
    start_node: StartNode, database_url: str, log: io.StringIO
) -> None:
    declared = orjson.dumps(
        [
            {"name": "tick", "schedule": "* * * * *", "key": "k", "message": "of the hello"},
            {"name": "own", "schedule": "* * * * *", "key": "own", "message": {"of": "the hello"}},
            {"name": "bad", "schedule": "* * * *", "key": "k"},
            {"schedule": "* * * * *"},
        ]
    ).decode()
    toml = (
        f"env = {{ CRON = '{declared}' }}\n"
        + 'cron.tick = { schedule = "* * * * *", key = "k", message = "of the config" }\n'
    )
    async with start_node(TOML + toml) as node:
        await until(lambda: known(database_url, "own") and known(database_url))
        for name in ("tick", "own"):
            set_back(database_url, 2 * MINUTE, name)
        assert (await until(lambda: entries(database_url)))[0]["message"] == "of the config"
        assert (await until(lambda: entries(database_url, "own")))[0]["message"] == {"of": "the hello"}
        assert known(database_url, "bad") == []
        assert "inversion_cron_faults_total 2.0" in await metrics_of(node)
        assert (await node.call("diary/k", {})).status == 200
    said = log.getvalue()
    assert "cron.bad.schedule must be five fields" in said
    assert "cron.None: a schedule is named" in said


async def test_metrics_show_when_a_schedule_is_due_and_when_it_was_fired(
    start_node: StartNode, database_url: str
) -> None:
    async with start_node(
        TOML + 'cron.tick = { schedule = "0 0 1 1 *", key = "k", missed = "all" }\n'
    ) as node:
        await until(lambda: known(database_url))
        before = await shown_of(node, "next")
        assert datetime.fromtimestamp(before, UTC).strftime("%m-%d %H:%M") == "01-01 00:00"
        assert await shown_of(node, "fired") == 0
        set_back(database_url, timedelta(days=366))
        await until(lambda: entries(database_url))
        with trio.fail_after(PATIENCE_S):
            while not await shown_of(node, "fired"):  # noqa: ASYNC110 (another part of the node)
                await trio.sleep(0.02)
        assert await shown_of(node, "next") == before
        assert await shown_of(node, "lag") == 0


async def metrics_of(node: LiveNode) -> str:
    page = (await node.send(get(b"/metrics"), admin=True)).body.decode()
    assert page.startswith("#"), page
    return page


async def shown_of(node: LiveNode, what: str) -> float:
    found: re.Match[str] | None = None
    with trio.fail_after(PATIENCE_S):
        while found is None:
            page = await metrics_of(node)
            found = re.search(rf'inversion_cron_{what}_seconds{{schedule="diary/tick"}} (\S+)', page)
            await trio.sleep(0.01)
    return float(found[1])


async def test_a_changed_schedule_begins_anew_and_one_that_is_as_it_was_goes_on(
    start_node: StartNode, database_url: str
) -> None:
    begun = 0
    for rule, goes_on in (("* * * * *", False), ("* * * * *", True), ("*/1 * * * *", False)):
        async with start_node(
            TOML + f'cron.tick = {{ schedule = "{rule}", key = "k", missed = "all" }}\n'
        ) as node:
            await shown_of(node, "next")  # it has been looked at
            assert sql(database_url, "SELECT rule FROM inversion.cron") == [(f"{rule} UTC",)]
            if goes_on:
                await until(lambda: len(entries(database_url)) >= 10)
            ((waiting,),) = sql(database_url, "SELECT count(*) FROM inversion.message")
            born = len(entries(database_url)) + waiting - begun
            assert (born >= 10) if goes_on else (born <= 1)  # a minute may have passed meanwhile
            begun += born
        set_back(database_url, 10 * MINUTE)


async def test_a_reload_changes_schedules_and_the_processes_stay(
    start_node: StartNode, database_url: str, tmp_path: Path, log: io.StringIO
) -> None:
    """The function's own table is as it was: nothing of it is started again."""

    def write(cron: str) -> None:
        new = tmp_path / "new"
        new.write_text(TOML + cron)
        new.rename(tmp_path / "inversion.toml")

    async with start_node(TOML, reload=Origin(tmp_path / "inversion.toml", lambda: load(tmp_path))) as node:
        assert (await node.call("diary/k", "before")).status == 200
        await until(lambda: "watching" in log.getvalue())
        write('cron.tick = { schedule = "* * * * *", key = "k", message = "first" }\n')
        await until(lambda: known(database_url))
        set_back(database_url, 5 * MINUTE)
        await until(lambda: len(entries(database_url)) > 1)
        write('cron.tick = { schedule = "* * * * *", key = "k", message = "second" }\n')
        await until(lambda: log.getvalue().count("schedules of diary changed") == 2)
        set_back(database_url, 5 * MINUTE)
        await until(lambda: entries(database_url)[-1]["message"] == "second")
        write('cron.other = "* * *"\n')
        await until(lambda: "cron.other.schedule must be five fields" in log.getvalue())
        write("")
        await until(lambda: log.getvalue().count("schedules of diary changed") == 3)
        metrics = await metrics_of(node)
        assert 'inversion_function_starts_total{function="diary"} 1.0' in metrics
        before = set_back(database_url, 5 * MINUTE)
        with trio.fail_after(PATIENCE_S):
            while 'schedule="diary/tick"' in await metrics_of(node):  # noqa: ASYNC110 (a round of the node)
                await trio.sleep(0.02)
        ((last,),) = known(database_url)
        assert before - last >= 5 * MINUTE, "nobody fires it any more"


async def test_a_firing_that_fails_for_good_is_a_dead_letter_and_the_next_one_is_fired(
    start_node: StartNode, database_url: str
) -> None:
    toml = TOML + 'cron.tick = { schedule = "* * * * *", key = "k", handler = "refuse" }\n'
    async with start_node(toml):
        await until(lambda: known(database_url))
        set_back(database_url, 2 * MINUTE)
        ((sender, error),) = await until(
            lambda: sql(database_url, "SELECT sender, error FROM inversion.dead_letter LIMIT 1")
        )
    assert sender == "~cron/diary/tick"
    assert orjson.loads(error)["code"] == "refused"


async def test_a_schedule_that_the_database_refuses_holds_up_no_other(
    start_node: StartNode, database_url: str, log: io.StringIO
) -> None:
    toml = TOML + "".join(f'cron.{name} = {{ schedule = "* * * * *", key = "{name}" }}\n' for name in "ab")
    async with start_node(toml):
        await until(lambda: known(database_url, "a") and known(database_url, "b"))
        sql(database_url, "ALTER TABLE inversion.message ADD CHECK (key <> 'a')")
        for name in "ab":
            set_back(database_url, 2 * MINUTE, name)
        await until(lambda: entries(database_url, "b"))
        await until(lambda: "not_fired" in log.getvalue() and "diary/a" in log.getvalue())
        assert entries(database_url, "a") == []
