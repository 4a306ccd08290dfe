"""M1: order, payment and shipping in three languages while a node and their processes are killed.

In every snapshot of the database an order that has not ended has exactly one message under way, and one that
has ended has none. In the end who was shipped to has paid, and nobody else has.
"""

from __future__ import annotations

import json
import os
import random
import signal
import uuid
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psycopg
import pytest
import trio
from front_door import EndOfAnswers

from fix_command import RunningCommand, StartCommand, for_serve
from fix_matrix import Row
from fix_node import PYTHON, RUNTIMES

PROGRAMS = {"order": "python/order.py", "payment": "node/payment.js", "shipping": "bash/shipping.sh"}
TOML = "".join(
    f"""
[functions.{name}]
command = ["{interpreter}", "{RUNTIMES}/{PROGRAMS[name]}"]
processes = {{ min = 1, max = 2 }}
retry = {{ pause = "50ms", longest_pause = "500ms" }}
"""
    for name, interpreter in (("order", PYTHON), ("payment", "node"), ("shipping", "bash"))
)
ORDERS = 40
#: Half of what is asked for: both ends of the saga are seen.
STOCK = 30
#: What a killed node has leased waits for 10 s, and the machine may be slow.
PATIENCE_S = 90.0

Entities = dict[tuple[str, str], Any]


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


@pytest.mark.toolchain("node", "bash", "jq")
@pytest.mark.fault("M1", "kill -9 of one of two nodes and of functions of the other, amid a saga")
@pytest.mark.timeout(60 * 30)
async def test_orders_end_consistent_whatever_is_killed(start: Any, database_url: str, row: Row) -> None:
    with start() as staying:
        for number in range(row.times):
            with start() as leaving, trio.fail_after(2 * PATIENCE_S):
                article = f"tea{number}"
                await call(database_url, [staying], f"shipping/{article}/restock", STOCK)
                async with trio.open_nursery() as nursery:
                    nodes = [staying, leaving]
                    nursery.start_soon(place_all, database_url, nodes, article)
                    await until_under_way(database_url, article)
                    os.kill(leaving.process.pid, signal.SIGKILL)
                    nodes.remove(leaving)
                    _, under_way = await snapshot(database_url)
                    leaving.process.wait(10)
                    killed = kill_a_process_of_each(staying)
                    row.fired(f"a node and {killed} processes killed, {under_way.total()} messages under way")
                await until_ended(database_url)
                row.recovered()
                ended = check(await ended_of(database_url), article)
                assert set(ended) == {"shipped", "cancelled"}, ended
    assert await query(database_url, "SELECT * FROM inversion.dead_letter") == []


async def place_all(url: str, nodes: list[RunningCommand], article: str) -> None:
    async with trio.open_nursery() as nursery:
        for number in range(ORDERS):
            card = "41110000" if number % 5 == 0 else "4111"
            order = {"sku": article, "qty": 1 + number % 2, "cents": 100 + number, "card": card}
            nursery.start_soon(call, url, nodes, f"order/{article}-{number}/place", order)
            await trio.sleep(0.02)


async def call(url: str, nodes: list[RunningCommand], path: str, body: object) -> None:
    """Once, however often it is repeated: its key is its path."""
    while True:
        with suppress(OSError, EndOfAnswers, trio.BrokenResourceError, trio.TooSlowError):
            answer = await random.choice(nodes).call(path, body, b"Idempotency-Key: " + path.encode())
            if answer.status == 200:
                return
            assert answer.status >= 500, answer.body
        await trio.sleep(0.05)


async def until_under_way(url: str, article: str) -> None:
    """Some orders have ended, others are somewhere between."""
    while True:
        entities, under_way = await snapshot(url)
        ended = [key for (name, key), state in entities.items() if name == "order" and is_ended(state)]
        if any(key.startswith(f"{article}-") for key in ended) and under_way:
            return
        await trio.sleep(0.01)


async def until_ended(url: str) -> None:
    with trio.fail_after(PATIENCE_S):
        while (await snapshot(url))[1]:  # noqa: ASYNC110 (other processes)
            await trio.sleep(0.1)


async def ended_of(url: str) -> Entities:
    entities, under_way = await snapshot(url)
    assert not under_way
    return entities


async def snapshot(url: str) -> tuple[Entities, Counter[str]]:
    """All states, and the messages under way by the order they are about; checked against each other."""
    rows = await query(
        url,
        """
        SELECT function, key, NULL, state FROM inversion.entity WHERE state IS NOT NULL
         UNION ALL
        SELECT function, key, handler, body FROM inversion.message
        """,
    )
    entities: Entities = {}
    under_way: Counter[str] = Counter()
    for function, key, handler, text in rows:
        if handler is None:
            entities[function, key] = json.loads(text)
        else:
            under_way[json.loads(text)["order"] if handler == "ship" else key] += 1
    for (function, key), state in entities.items():
        if function == "order":
            assert under_way[key] == (not is_ended(state)), (key, state, under_way[key])
    return entities, +under_way


def is_ended(order: dict[str, Any]) -> bool:
    return order["status"] in ("shipped", "cancelled", "stuck")


def check(entities: Entities, article: str) -> Counter[str]:
    """How many orders ended in which way."""
    stock = entities["shipping", article]
    assert stock["stock"] + sum(stock["shipped"].values()) == STOCK
    assert stock["stock"] >= 0
    ended: Counter[str] = Counter()
    for number in range(ORDERS):
        key = f"{article}-{number}"
        order = entities["order", key]
        payment = entities.get(("payment", key), {"status": None, "cents": None})
        found = (order["status"], payment["status"], stock["shipped"].get(key))
        declined = order["card"].endswith("0000")
        assert found in {
            ("shipped", "charged", order["qty"]),
            ("cancelled", None if declined else "refunded", None),
        }, (key, found)
        assert payment["cents"] in (None, order["cents"])
        ended[order["status"]] += 1
    return ended


def kill_a_process_of_each(node: RunningCommand) -> int:
    killed = set()
    for pid in node.tree():
        with suppress(OSError):
            line = Path(f"/proc/{pid}/cmdline").read_bytes().decode()
            for name, program in PROGRAMS.items():
                if program in line and name not in killed:
                    os.kill(pid, signal.SIGKILL)
                    killed.add(name)
    return len(killed)


async def query(url: str, text: str) -> list[tuple[Any, ...]]:
    """One statement: one snapshot."""

    def run() -> list[tuple[Any, ...]]:
        with psycopg.connect(url, autocommit=True) as connection:
            return connection.execute(text).fetchall()  # type: ignore[arg-type]

    return await trio.to_thread.run_sync(run)
