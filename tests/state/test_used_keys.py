"""Idempotency-Keys at the commit: taken for new without a look, until one was not."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import trio
from walking import a_store, load, put, putting, running, sql, turn_of, walk

from inversion.config import Limits
from inversion.errors import Conflict, FunctionError
from inversion.messages import Answer, Change, Idempotency, MessageOut, State
from inversion.state import committer
from inversion.state import sql as statements
from inversion.state.postgres import Connection, Rows
from inversion.state.store import PostgresStore
from inversion.watch import Watch

NAMES = {
    statements.COMMIT.name: "plain",
    statements.COMMIT_ONE.name: "plain",
    statements.COMMIT_KEYED.name: "keyed",
    statements.COMMIT_KEYED_EACH.name: "each",
    statements.COMMIT_KEYED_NEW.name: "new",
}


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The commits that were sent, in their order."""
    names: list[str] = []
    execute = Connection.execute

    async def watched(
        self: Connection, statement: statements.Statement, parameters: Sequence[bytes | None] = ()
    ) -> Rows:
        if statement.name in NAMES:
            names.append(NAMES[statement.name])
        return await execute(self, statement, parameters)

    monkeypatch.setattr(Connection, "execute", watched)
    return names


async def commit_keyed(
    store: PostgresStore, key: str, id_: str, state: State, out: MessageOut | None = None
) -> None:
    turn = turn_of(key)
    turn.requests[0].idempotency = Idempotency(f"c:{id_}", b"h" * 32)
    await walk(lambda: store.store_state(turn, state, out or putting(b"1")))


def recorded(url: str) -> list[tuple[object, ...]]:
    return sql(url, "SELECT key, id, version, status FROM inversion.request ORDER BY key, id")


async def test_new_keys_are_recorded_without_a_look(database_url: str, sent: list[str]) -> None:
    async with running(a_store(database_url)) as store:
        await commit_keyed(store, "k", "a", await load(store, "k"))
        await commit_keyed(store, "k", "b", await load(store, "k"))
    assert sent == ["new", "new"]
    assert recorded(database_url) == [("k", "c:a", 1, 200), ("k", "c:b", 2, 200)]
    assert sql(
        database_url,
        "SELECT r.id FROM inversion.request AS r JOIN inversion.entity AS e ON r.turn = e.turn",
    ) == [("c:b",)]


async def test_a_used_key_is_a_conflict_and_what_went_along_is_committed(
    database_url: str, sent: list[str]
) -> None:
    async with running(a_store(database_url)) as store:
        await commit_keyed(store, "k3", "used", await load(store, "k3"))
        states = {f"k{n}": await load(store, f"k{n}") for n in range(8)}
        outcomes: dict[str, str] = {}

        async def one(key: str, state: State) -> None:
            try:
                await commit_keyed(store, key, "used", state)
                outcomes[key] = "applied"
            except Conflict:
                outcomes[key] = "conflict"

        async with trio.open_nursery() as nursery:
            for key, state in states.items():
                nursery.start_soon(one, key, state)
    assert outcomes == {key: "conflict" if key == "k3" else "applied" for key in states}
    assert sent.count("each") >= 1
    assert recorded(database_url) == [(key, "c:used", 1, 200) for key in states]
    assert sql(database_url, "SELECT count(*) FROM inversion.entity WHERE version = 1") == [(8,)]


async def test_after_a_used_key_each_is_looked_up_for_a_while(
    database_url: str, sent: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    now_s = [100.0]
    monkeypatch.setattr(committer, "perf_counter", lambda: now_s[0])
    async with running(PostgresStore(database_url, Limits(), Watch(), committers=1)) as store:
        await commit_keyed(store, "k", "a", await load(store, "k"))
        for _ in range(2):
            with pytest.raises(Conflict):
                await commit_keyed(store, "k", "a", await load(store, "k"))
        now_s[0] += committer._LOOKS_S - 0.1
        await commit_keyed(store, "k", "b", await load(store, "k"))
        now_s[0] += 0.2
        await commit_keyed(store, "k", "c", await load(store, "k"))
    assert sent == ["new", "new", "each", "each", "each", "new"]
    assert [row[1] for row in recorded(database_url)] == ["c:a", "c:b", "c:c"]


async def test_answers_that_are_not_like_most_are_recorded_as_they_are(
    database_url: str, sent: list[str]
) -> None:
    refused = MessageOut(
        [Answer(error=FunctionError("sold_out", "none left", 410, None, retry=False))], Change.KEEP
    )
    async with running(a_store(database_url)) as store:
        await put(store, "k", b"1")
        await commit_keyed(store, "k", "a", await load(store, "k"), refused)
    assert sent == ["plain", "each"]
    assert recorded(database_url) == [("k", "c:a", 1, 410)]


async def test_a_batch_of_several_content_types_keeps_each(database_url: str) -> None:
    async with running(a_store(database_url)) as store:
        states = {f"k{n}": await load(store, f"k{n}") for n in range(12)}
        async with trio.open_nursery() as nursery:
            for number, (key, state) in enumerate(states.items()):
                out = putting(b"1")
                out.content_type = f"text/{number % 3}"
                nursery.start_soon(commit_keyed, store, key, "a", state, out)
    kinds = sql(database_url, "SELECT key, content_type FROM inversion.request")
    assert dict(kinds) == {key: f"text/{number % 3}" for number, key in enumerate(states)}
