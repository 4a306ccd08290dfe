"""M2: nodes killed amid the fan-outs of two publishers. Each subscriber hears each once, and in order.

In every snapshot of the database a message that was made for a subscriber is waiting or was heard, never
both and never twice, and no publisher's second is before its first.
"""

from __future__ import annotations

import signal
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import orjson
import psycopg
import pytest
import trio

from fix_command import RunningCommand, StartCommand, for_serve
from fix_matrix import Row
from fix_node import PYTHON

OBEDIENT = Path(__file__).parent.parent / "functions" / "obedient.py"
TOML = f"""
[functions.b]
command = ["{PYTHON}", "{OBEDIENT}"]
processes = {{ min = 1, max = 2 }}
retry = {{ pause = "50ms", longest_pause = "500ms" }}
"""
#: Several batches of 1,000 for each publication, and soon over on a slow machine.
SUBSCRIBERS = 3_500
PUBLISHERS = ("p", "q")
UNDER_WAY = "SELECT count(*) FROM inversion.message WHERE function = '~topic'"
END_CONNECTION = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE '%last_function%'
"""
#: So often, then it may come to its end.
ENDED = 5
#: What a killed node has leased waits for 10 s, and the machine may be slow.
PATIENCE_S = 120.0


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


@pytest.mark.fault("M2", "kill -9 of the node between two batches of what was published; another goes on")
@pytest.mark.timeout(60 * 30)
async def test_each_subscriber_hears_once_whoever_is_killed_amid_a_fan_out(
    start: Any, database_url: str, row: Row
) -> None:
    for number in range(row.times):
        await subscribe(database_url, number)
        with start() as node:
            await publish(node, number)
            made = await until_some_were_made(database_url)
            node.process.send_signal(signal.SIGKILL)
            node.process.wait(10)
            row.fired(f"killed with {made} of {4 * SUBSCRIBERS} messages made")
        under_way = await check(database_url, number)
        assert under_way, "nothing was left to be done"
        with start(), trio.fail_after(PATIENCE_S):
            while await check(database_url, number):  # noqa: ASYNC110 (another process)
                await trio.sleep(0.2)
        row.recovered()
        assert await heard(database_url, number) == SUBSCRIBERS
    assert await query(database_url, "SELECT * FROM inversion.dead_letter") == []


@pytest.mark.fault("M2", "the server ends the connection over which the messages are made, again and again")
@pytest.mark.timeout(60 * 30)
async def test_a_fan_out_whose_connection_breaks_goes_on_where_it_was(
    start: Any, database_url: str, row: Row
) -> None:
    with start() as node:
        for number in range(row.times):
            await subscribe(database_url, number)
            await publish(node, number)
            ended = 0
            with trio.fail_after(PATIENCE_S):
                while (await query(database_url, UNDER_WAY))[0][0]:
                    ended += len(await query(database_url, END_CONNECTION)) if ended < ENDED else 0
                    await trio.sleep(0.01)
                row.fired(f"ended {ended} connections while messages were made")
                assert ended
                while await check(database_url, number):  # noqa: ASYNC110 (another process)
                    await trio.sleep(0.2)
            row.recovered()
            assert await heard(database_url, number) == SUBSCRIBERS


async def subscribe(url: str, number: int) -> None:
    await query(
        url,
        "INSERT INTO inversion.subscription"
        f" SELECT 'news{number}', 'b', 's{number}-' || n, 'call' FROM generate_series(1, {SUBSCRIBERS}) AS n",
    )


async def publish(node: RunningCommand, number: int) -> None:
    """Two publications of each publisher, in one turn."""
    for publisher in PUBLISHERS:
        effects = [
            {"publish": {"topic": f"news{number}", "message": {"add": 1, "as": f"{publisher}{n}"}}}
            for n in range(2)
        ]
        answer = await node.call(f"b/{publisher}", {"do": effects})
        assert answer.status == 200, answer.body


async def until_some_were_made(url: str) -> int:
    """How many messages were made, some and not all."""
    with trio.fail_after(PATIENCE_S):
        while True:
            ((waiting, moved),) = await query(
                url,
                "SELECT count(*), count(progress) FROM inversion.message WHERE function = '~topic'",
            )
            if moved:
                ((made,),) = await query(
                    url,
                    """
                    SELECT (SELECT count(*) FROM inversion.message WHERE function <> '~topic')
                         + (SELECT coalesce(sum((state::json ->> 'count')::int), 0) FROM inversion.entity)
                    """,
                )
                return int(made)
            assert waiting, "it was over before anybody looked"
            await trio.sleep(0.002)


async def check(url: str, number: int) -> int:
    """One snapshot: what each subscriber heard and what waits for it; how many messages are under way."""
    rows = await query(
        url,
        f"""
        SELECT key, state::json -> 'seen', NULL FROM inversion.entity WHERE key LIKE 's{number}-%'
         UNION ALL
        SELECT key, NULL, body::json ->> 'as' FROM inversion.message
         WHERE function = 'b' AND key LIKE 's{number}-%'
         UNION ALL
        SELECT '~', NULL, body::json ->> 'as' FROM inversion.message WHERE function = '~topic'
        """,
    )
    seen: dict[str, list[str]] = {}
    waiting: dict[str, list[str]] = {}
    for key, heard_of, waits in rows:
        if waits is None:
            seen[key] = heard_of
        else:
            waiting.setdefault(key, []).append(waits)
    under_way = waiting.pop("~", [])
    for key in seen.keys() | waiting.keys():
        of_key = seen.get(key, []) + sorted(waiting.get(key, []))
        for publisher in PUBLISHERS:
            of_publisher = [each for each in of_key if each.startswith(publisher)]
            assert of_publisher == [f"{publisher}{n}" for n in range(len(of_publisher))], (key, of_key)
    return len(under_way) + sum(map(len, waiting.values()))


async def heard(url: str, number: int) -> int:
    """How many have heard all four."""
    rows = await query(url, f"SELECT state FROM inversion.entity WHERE key LIKE 's{number}-%'")
    wanted = sorted(f"{publisher}{n}" for publisher in PUBLISHERS for n in range(2))
    return sum(sorted(orjson.loads(state)["seen"]) == wanted for (state,) in rows)


async def query(url: str, text: str) -> list[tuple[Any, ...]]:
    """One statement: one snapshot."""

    def run() -> list[tuple[Any, ...]]:
        with psycopg.connect(url, autocommit=True) as connection:
            cursor = connection.execute(text)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []

    return await trio.to_thread.run_sync(run)
