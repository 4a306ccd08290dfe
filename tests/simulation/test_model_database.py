"""The model of the database against the real one: the same statements, the same rows."""

from __future__ import annotations

import random

import pytest
from model_database import Database, ModelRows

from inversion.messages import Address, Turn
from inversion.state import arrays, rows, sql
from inversion.state.dialing import Settings
from inversion.state.postgres import Connection, Rows, StatementFailed
from inversion.state.rows import Commit, Record

KEYS = [b"a", b"b", b"c"]


def read(answer: Rows | ModelRows, columns: int) -> list[tuple[bytes | None, ...]]:
    table = [tuple(answer.value(row, column) for column in range(columns)) for row in range(answer.count)]
    return sorted(table, key=repr)


@pytest.mark.parametrize("seed", range(6))
async def test_drawn_statements_do_the_same_to_both(database_url: str, seed: int) -> None:
    dice = random.Random(seed)
    model = Database()
    turns: dict[bytes, list[bytes | None]] = {key: [None] for key in KEYS}
    connection = await Connection.open(database_url, Settings())
    places = [arrays.texts([b"f"] * len(KEYS)), arrays.texts(KEYS)]
    drawn: set[bytes] = set()

    def a_commit(key: bytes) -> Commit:
        turn = dice.randbytes(16)
        newest = model.entities.get((b"f", key))
        replaced = dice.choice(turns[key]) if dice.random() < 0.3 else newest and newest.turn
        version = (newest.version if newest else 0) + 1
        records = []
        if dice.random() < 0.4:
            id_ = b"c:%d" % dice.randrange(6)
            records = [Record(id_, b"h" * 32, version, 200, b"application/json", b"1")]
        turns[key].append(turn)
        state = dice.choice([b"1", b'"\xc3\xbc"', None])
        return Commit(Turn(Address("f", "-"), [], 0.0), b"f", key, version, turn, replaced, state, records)

    try:
        for _ in range(60):
            keys = dice.sample(KEYS, dice.randint(1, 3))
            commits = [a_commit(key) for key in keys]
            if dice.random() < 0.2:
                record = Record(b"c:%d" % dice.randrange(4), b"h" * 32, 0, 200, b"x", b"2")
                turn = Turn(Address("f", None), [], 0.0)
                commits.append(Commit(turn, b"f", b"-", 0, dice.randbytes(16), None, None, [record]))
            statement, parameters = rows.commit_statement(commits, looks=dice.random() < 0.5)
            drawn.add(statement.name)
            ended = model.ended(statement, parameters)
            if isinstance(ended, StatementFailed):
                with pytest.raises(StatementFailed, match=ended.sqlstate):
                    await connection.execute(statement, parameters)
                drawn.add(ended.sqlstate.encode())
            else:
                real = await connection.execute(statement, parameters)
                assert read(real, 1) == read(ModelRows(ended), 1)
            for look, columns in ((sql.LOAD, 4), (sql.FIND, 3)):
                found = await connection.execute(look, places)
                assert read(found, columns) == read(ModelRows(model.run(look, places)), columns)
            asked = [*places, arrays.uuids([dice.choice(turns[key]) for key in KEYS])]
            found = await connection.execute(sql.OUTDATED, asked)
            assert read(found, 1) == read(ModelRows(model.run(sql.OUTDATED, asked)), 1)
            ids = [(key, b"c:%d" % number) for key in (*KEYS, b"-") for number in range(6)]
            kept = [arrays.texts([b"f"] * len(ids)), *(arrays.texts(part) for part in zip(*ids, strict=True))]
            found = await connection.execute(sql.RECORDED, kept)
            assert read(found, 7) == read(ModelRows(model.run(sql.RECORDED, kept)), 7)
        assert len(model.requests) > 5
        keyed = sql.COMMIT_KEYED, sql.COMMIT_KEYED_EACH, sql.COMMIT_KEYED_NEW
        assert drawn >= {sql.COMMIT.name, *(each.name for each in keyed), b"23505"}
    finally:
        connection.close()
