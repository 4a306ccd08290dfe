"""M2: nodes killed amid the fan-outs of two publishers. Each subscriber hears each once, and in order.

In every snapshot of the database a message that was made for a subscriber is waiting or was heard, never
both and never twice, and no publisher's second is before its first.
"""

from __future__ import annotations

import signal
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import orjson
import psycopg
import pytest
import trio
from front_door import EndOfAnswers
from message_points import FAN_OUT_POINTS
from test_crash_points import ALTERED_NODE

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
#: Of what is published in each of several lives.
FEWER = 1_500
PUBLISHERS = ("p", "q")
UNDER_WAY = "SELECT count(*) FROM inversion.message WHERE function = '~topic'"
END_CONNECTION = """
SELECT pg_terminate_backend(pid) FROM pg_stat_activity
 WHERE datname = current_database() AND pid <> pg_backend_pid() AND query LIKE '%last_function%'
"""
#: So often, then it may come to its end.
ENDED = 5
#: Who waits for a dead node's messages waits for that.
LEASE_S = "1"
#: The machine may be slow.
PATIENCE_S = 120.0


@pytest.fixture
def start(short_folder: Path, start_command: StartCommand, database_url: str) -> Any:
    """`start()`: one more node, a process of its own; `start(1)`: it kills itself at that point."""

    @contextmanager
    def serve(point: int | None = None) -> Iterator[RunningCommand]:
        folder = short_folder / uuid.uuid4().hex[:8]
        folder.mkdir()
        (folder / "inversion.toml").write_text(for_serve(TOML))
        arguments = ("serve", "--config", folder, "--database-url", database_url)
        crash = {} if point is None else {"INVERSION_CRASH_AT": f"t{point}:{FAN_OUT_POINTS[point - 1][1]}"}
        with start_command(
            *arguments, program=(ALTERED_NODE,), INVERSION_LEASE_S=LEASE_S, **crash
        ) as command:
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
        await until_all_have_heard(start, database_url, number)
        row.recovered()
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


@pytest.mark.fault(
    "S9", "the node kills itself before, in and after a batch of what was published, one life after the other"
)
@pytest.mark.timeout(60 * 30)
async def test_a_node_that_dies_at_any_moment_of_a_fan_out_loses_and_repeats_nothing(
    start: Any, database_url: str, row: Row
) -> None:
    for number in range(row.times):
        await subscribe(database_url, number, FEWER)
        asked: list[str] = []  #: what was to be published and may not have been
        for point, (name, _, _) in enumerate(FAN_OUT_POINTS, 1):
            with start(point) as node:  # it dies of what is published now: not before its start line
                asked += [f"{publisher}{point - 1}" for publisher in PUBLISHERS]
                await insist(node, number, asked)
                with trio.fail_after(PATIENCE_S):
                    while node.process.poll() is None:  # noqa: ASYNC110 (another process)
                        await trio.sleep(0.01)
                assert node.process.poll() == -signal.SIGKILL
            under_way = await check(database_url, number)
            row.fired(f"it killed itself at '{name}', {under_way} messages under way")
        with start() as node:
            await insist(node, number, asked)
            assert asked == []
        await until_all_have_heard(start, database_url, number, FEWER, len(FAN_OUT_POINTS))
        row.recovered()


async def insist(node: RunningCommand, number: int, asked: list[str]) -> None:
    """Publish them, once however often they are asked for, until the node dies."""
    with suppress(OSError, EndOfAnswers, trio.BrokenResourceError):
        while asked:
            effect = {"publish": {"topic": f"news{number}", "message": {"add": 1, "as": asked[0]}}}
            key = b'Idempotency-Key: "%d-%b"' % (number, asked[0].encode())
            answer = await node.call(f"b/{asked[0][0]}", {"do": [effect]}, key)
            assert answer.status == 200, answer.body
            del asked[0]


async def until_all_have_heard(
    start: Any, url: str, number: int, subscribers: int = SUBSCRIBERS, publications: int = 2
) -> None:
    with start(), trio.fail_after(PATIENCE_S):
        while await check(url, number):  # noqa: ASYNC110 (another process)
            await trio.sleep(0.2)
    assert await heard(url, number, publications) == subscribers


async def subscribe(url: str, number: int, subscribers: int = SUBSCRIBERS) -> None:
    await query(
        url,
        "INSERT INTO inversion.subscription"
        f" SELECT 'news{number}', 'b', 's{number}-' || n, 'call' FROM generate_series(1, {subscribers}) AS n",
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


async def heard(url: str, number: int, publications: int = 2) -> int:
    """How many have heard all of both."""
    rows = await query(url, f"SELECT state FROM inversion.entity WHERE key LIKE 's{number}-%'")
    wanted = sorted(f"{publisher}{n}" for publisher in PUBLISHERS for n in range(publications))
    return sum(sorted(orjson.loads(state)["seen"]) == wanted for (state,) in rows)


async def query(url: str, text: str) -> list[tuple[Any, ...]]:
    """One statement: one snapshot."""

    def run() -> list[tuple[Any, ...]]:
        with psycopg.connect(url, autocommit=True) as connection:
            cursor = connection.execute(text)  # type: ignore[arg-type]
            return cursor.fetchall() if cursor.description else []

    return await trio.to_thread.run_sync(run)
