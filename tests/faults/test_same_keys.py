"""C4, C5, S10: many do the same at once: one key on two nodes, another body under it, eight migrations."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import orjson
import pytest
import trio
from front_door import Answer

from fix_command import for_serve
from fix_matrix import Row
from fix_node import LiveNode, StartNode
from fix_outage import JOURNAL, ask
from inversion.state import sql

Nodes = tuple[LiveNode, LiveNode]


@pytest.fixture
async def nodes(start_node: StartNode, tmp_path: Path) -> AsyncIterator[Nodes]:
    (tmp_path / "other").mkdir()
    toml = for_serve(JOURNAL)
    async with start_node(toml) as one, start_node(toml, folder=tmp_path / "other") as two:
        yield one, two


def code_of(answer: Answer) -> str:
    return "ok" if answer.status == 200 else str(orjson.loads(answer.body)["code"])


@pytest.mark.fault("C4", "the same key 50 times at once over two nodes, half of them with Prefer: wait=0")
@pytest.mark.timeout(600)
async def test_one_of_fifty_equal_calls_is_executed(nodes: Nodes, database_url: str, row: Row) -> None:
    for round_ in range(row.times):
        answers: list[tuple[bool, Answer]] = []

        async def ask_one(
            number: int, round_: int = round_, answers: list[tuple[bool, Answer]] = answers
        ) -> None:
            patient = number // 2 % 2 == 0
            lines = [b"Idempotency-Key: same"] + ([] if patient else [b"Prefer: wait=0"])
            call = {"s": 0.2, "token": "t"}
            answers.append(
                (patient, await nodes[number % 2].call(f"slow/c{round_}/add_slowly", call, *lines))
            )

        async with trio.open_nursery() as nursery:
            for number in range(50):
                nursery.start_soon(ask_one, number)
        told = [code_of(answer) for _, answer in answers]
        row.fired(f"{told.count('ok')} x ok, {told.count('key_in_flight')} x key_in_flight")
        assert all(code_of(answer) == "ok" for patient, answer in answers if patient)
        assert set(told) == {"ok", "key_in_flight"}
        good = [answer for _, answer in answers if answer.status == 200]
        assert {(answer.body, answer.fields["etag"]) for answer in good} == {(b"1", '"1"')}
        assert sum("inversion-replayed" not in answer.fields for answer in good) == 1
        rows = ask(database_url, f"SELECT version FROM inversion.entity WHERE key = 'c{round_}'")
        assert rows == [(1,)]
        row.recovered()


@pytest.mark.fault("C5", "the same key with another body: while the first runs, and after, from both nodes")
@pytest.mark.timeout(600)
async def test_another_body_under_a_key_is_refused_everywhere(
    nodes: Nodes, database_url: str, row: Row
) -> None:
    for round_ in range(row.times):
        path = f"slow/p{round_}/add_slowly"
        answers: list[Answer] = []

        async def ask_one(
            node: LiveNode, token: str, path: str = path, answers: list[Answer] = answers
        ) -> None:
            answers.append(await node.call(path, {"s": 0.2, "token": token}, b"Idempotency-Key: same"))

        async with trio.open_nursery() as nursery:  # whoever is first
            for number, token in enumerate(("a", "b", "b", "a")):
                nursery.start_soon(ask_one, nodes[number % 2], token)
        told = sorted(code_of(answer) for answer in answers)
        assert told == ["key_reused", "key_reused", "ok", "ok"]
        before = ask(database_url, f"SELECT version, state FROM inversion.entity WHERE key = 'p{round_}'")
        assert before[0][0] == 1
        for node in nodes:
            await ask_one(node, "c")
        for answer in answers:
            if answer.status != 200:
                assert (answer.status, answer.fields["inversion-outcome"]) == (422, "not_applied")
        row.fired(f"{sum(answer.status == 422 for answer in answers)} x 422")
        assert [code_of(answer) for answer in answers[-2:]] == ["key_reused"] * 2
        after = ask(database_url, f"SELECT version, state FROM inversion.entity WHERE key = 'p{round_}'")
        assert after == before
        row.recovered()


@pytest.mark.fault("S10", "eight `inversion migrate` at once on an empty database")
@pytest.mark.timeout(600)
async def test_eight_migrations_at_once_make_one_row_each(empty_database_url: str, row: Row) -> None:
    command = [sys.executable, "-m", "inversion", "migrate", "--database-url", empty_database_url]
    for _ in range(row.times):
        ask(empty_database_url, "DROP SCHEMA IF EXISTS inversion CASCADE")
        processes = [
            subprocess.Popen(  # noqa: ASYNC220 (it returns at once)
                command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
            )
            for _ in range(8)
        ]
        said = [(await trio.to_thread.run_sync(one.communicate))[0].decode() for one in processes]
        assert [one.returncode for one in processes] == [0] * 8, said
        appliers = [text for text in said if text.startswith("applied ")]
        row.fired(f"8 at once, {len(appliers)} of them applied something")
        assert len(appliers) == 1
        rows = ask(
            empty_database_url, "SELECT number, name, checksum FROM inversion.migration ORDER BY number"
        )
        assert rows == [(each.number, each.name, each.checksum) for each in sql.MIGRATIONS]
        row.recovered()
