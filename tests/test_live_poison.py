"""One bad row in a gathered commit fails alone: its 63 neighbours are committed and answered."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import orjson
import psycopg
import pytest
import trio

from fix_node import PYTHON, StartNode
from inversion.protocol import roster
from inversion.state import rows
from inversion.state.rows import Commit

CALLERS = 64
FUNCTION = f"""
    [limits]
    state = "1KB"
    [functions.poison]
    command = ["{PYTHON}", "{Path(__file__).parent}/functions/all_at_once.py"]
    processes = {{ min = 1, max = 1 }}
    """


@pytest.mark.parametrize(
    ("state", "answer", "first_batch"),
    [
        ("no JSON", (502, "protocol_error"), CALLERS - 1),
        (2_000, (502, "state_too_large"), CALLERS - 1),
        ("refused", (503, "database_unavailable"), CALLERS),
    ],
)
async def test_a_poison_row_among_64_fails_alone(
    start_node: StartNode,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
    state: object,
    answer: tuple[int, str],
    first_batch: int,
) -> None:
    batches: list[int] = []
    original = rows.commit_statement

    def commit_statement(commits: Sequence[Commit], *, looks: bool = True) -> object:
        batches.append(len(commits))
        return original(commits, looks=looks)

    monkeypatch.setattr(rows, "commit_statement", commit_statement)
    monkeypatch.setattr(roster, "HELD_S", 60.0)  # all of them are to reach the function before it answers one
    monkeypatch.setattr(roster, "STALLED_S", 60.0)
    async with start_node(FUNCTION) as node:
        with psycopg.connect(database_url, autocommit=True) as connection:
            connection.execute("""ALTER TABLE inversion.entity ADD CHECK (state <> '"refused"')""")
        assert (await node.call("poison/first/put", {"of": 1, "state": 1})).status == 200
        batches.clear()
        answers = {}

        async def call(number: int) -> None:
            message = {"of": CALLERS, "state": state if number == 7 else number}
            answers[number] = await node.call(f"poison/k{number}/put", message)

        async with trio.open_nursery() as nursery:
            for number in range(CALLERS):
                nursery.start_soon(call, number)
        poisoned = answers.pop(7)
        assert (poisoned.status, orjson.loads(poisoned.body)["code"]) == answer
        assert poisoned.fields["inversion-outcome"] == "not_applied"
        assert {each.status for each in answers.values()} == {200}
        assert batches[0] == first_batch
        assert (await node.state("poison/k7")).status == 404
        for number in answers:
            assert (await node.state(f"poison/k{number}")).fields["etag"] == '"1"'
