"""M3: node or database are killed while outgoing requests are under way; a server outside counts keys.

What was committed arrives, at least once, with one key of its own. What was not committed never arrives:
neither of calls that failed nor of those that the kill caught.
"""

from __future__ import annotations

import os
import signal
from collections import Counter, defaultdict
from contextlib import suppress
from pathlib import Path

import orjson
import psycopg
import pytest
import trio
from front_door import EndOfAnswers

from delivery.outside import Heard, Outside, answer, outside
from fix_command import RunningCommand, StartCommand, for_serve
from fix_matrix import Row
from fix_node import PYTHON
from fix_outage import Server

OBEDIENT = Path(__file__).parent.parent / "functions" / "obedient.py"
TOML = f"""
[functions.a]
command = ["{PYTHON}", "{OBEDIENT}"]
processes = {{ min = 1, max = 2 }}
[http]
allow = ["127.0.0.1"]
timeout = "10s"
retry = {{ attempts = 50, pause = "50ms", longest_pause = "500ms" }}
"""
KILLS = 3
#: Before each kill: some were heard, others are on their way.
HEARD_BETWEEN = 20
#: Several leases of 10 s run out one after the other, on a busy machine.
PATIENCE_S = 120.0


@pytest.mark.fault("M3", "kill -9 of the node, again and again, while outgoing requests are under way")
@pytest.mark.timeout(60 * 30)
async def test_what_was_committed_arrives_under_one_key_and_nothing_else(
    short_folder: Path, start_command: StartCommand, database_url: str, row: Row
) -> None:
    (short_folder / "inversion.toml").write_text(for_serve(TOML))
    start = ("serve", "--config", short_folder, "--database-url", database_url)

    async def behave(heard: Heard, stream: trio.abc.Stream) -> None:
        """Every third request fails, every fifth is torn after it was taken."""
        await trio.sleep(0.02)
        turn = len(server.heard)
        if turn % 5 == 0:
            return
        await stream.send_all(answer(503 if turn % 3 == 0 else 200))

    async with outside(behave) as server:
        for number in range(KILLS * row.times):
            with start_command(*start) as node:
                async with trio.open_nursery() as nursery:
                    for caller in range(4):
                        nursery.start_soon(call_for_ever, node, server, f"e{number}-{caller}")
                    before = len(server.heard)
                    with trio.fail_after(PATIENCE_S):
                        while len(server.heard) < before + HEARD_BETWEEN:  # noqa: ASYNC110
                            await trio.sleep(0.005)
                    os.kill(node.process.pid, signal.SIGKILL)
                    node.process.wait(10)
                    nursery.cancel_scope.cancel()
            under_way = (await query(database_url, "SELECT count(*) FROM inversion.message"))[0][0]
            row.fired(f"the node was killed, {under_way} requests under way")
        with start_command(*start), trio.fail_after(PATIENCE_S):
            while await query(database_url, "SELECT 1 FROM inversion.message LIMIT 1"):  # noqa: ASYNC110
                await trio.sleep(0.1)
        row.recovered()
        assert await query(database_url, "SELECT * FROM inversion.dead_letter") == []
        committed = await committed_of(database_url)
        keys: defaultdict[tuple[str, int], Counter[str]] = defaultdict(Counter)
        for heard in server.heard:
            said = orjson.loads(heard.body)
            keys[said["entity"], said["n"]][heard.key] += 1
        assert set(keys) == committed
        assert all(len(each) == 1 for each in keys.values())
        assert len({key for each in keys.values() for key in each}) == len(committed)


@pytest.mark.fault(
    "M3", "kill -9 of the database while an outgoing request is under way; it answers meanwhile"
)
async def test_an_answer_that_comes_while_the_database_is_away_is_kept_or_asked_for_again(
    short_folder: Path, start_command: StartCommand, own_server: Server, row: Row
) -> None:
    (short_folder / "inversion.toml").write_text(for_serve(TOML))
    going = trio.Event()

    async def behave(_: Heard, stream: trio.abc.Stream) -> None:
        await going.wait()
        await stream.send_all(answer())

    start = ("serve", "--config", short_folder, "--database-url", own_server.url, "--migrate")
    async with outside(behave) as server:
        with start_command(*start) as node, trio.fail_after(PATIENCE_S):
            for number in range(row.times):
                going = trio.Event()
                before = len({heard.key for heard in server.heard})
                effect = {"url": f"http://127.0.0.1:{server.port}/", "reply_to": "replied"}
                assert (await node.call(f"a/e{number}", {"do": [{"http": effect}]})).status == 200
                while len({heard.key for heard in server.heard}) == before:  # noqa: ASYNC110
                    await trio.sleep(0.01)
                pid = await own_server.down(signal.SIGKILL)
                answered = await answered_by(node)
                going.set()
                while await answered_by(node) == answered:  # noqa: ASYNC110
                    await trio.sleep(0.01)
                await own_server.up()
                row.fired(f"postmaster {pid} is gone, the request was answered meanwhile")
                state = f"SELECT state::json->>'answered' FROM inversion.entity WHERE key = 'e{number}'"
                while await query(own_server.url, state) != [("1",)]:  # noqa: ASYNC110
                    await trio.sleep(0.05)
                row.recovered()
                assert len({heard.key for heard in server.heard}) == before + 1
                assert await query(own_server.url, "SELECT 1 FROM inversion.message") == []


async def answered_by(node: RunningCommand) -> bytes:
    """The line of its metrics that counts good answers from outside."""
    lines = (await node.admin("/metrics")).body.splitlines()
    return next(line for line in lines if b'outgoing_requests_total{outcome="2xx"}' in line)


async def call_for_ever(node: RunningCommand, server: Outside, entity: str) -> None:
    """Numbers 0, 1, ... of one entity, each asked once: nobody repeats what a kill caught.

    Every fourth asks for its request and then for what cannot be: nothing of it may be committed.
    """
    n = 0
    with suppress(OSError, EndOfAnswers, trio.BrokenResourceError, trio.ClosedResourceError):
        while True:
            body = {"entity": entity, "n": n}
            url = f"http://127.0.0.1:{server.port}/sink"
            effects: list[object] = [{"http": {"url": url, "body": body}}]
            if n % 4 == 3:
                effects.append({"send": {"delay": "never"}})
            said = await node.call(f"a/{entity}", {"do": effects, "add": 1, "as": n})
            assert said.status == (502 if n % 4 == 3 else 200), said.body
            n += 1


async def committed_of(url: str) -> set[tuple[str, int]]:
    """What the entities themselves have seen."""
    rows = await query(
        url, "SELECT key, state FROM inversion.entity WHERE function = 'a' AND state IS NOT NULL"
    )
    return {(str(key), n) for key, state in rows for n in orjson.loads(str(state)).get("seen", [])}


async def query(url: str, text: str) -> list[tuple[object, ...]]:
    def run() -> list[tuple[object, ...]]:
        with psycopg.connect(url, autocommit=True) as connection:
            return connection.execute(text).fetchall()  # type: ignore[arg-type]

    return await trio.to_thread.run_sync(run)
