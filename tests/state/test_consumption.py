"""The commit of turns that consume messages, against a real PostgreSQL: all of it there and in order."""

from __future__ import annotations

import threading

import psycopg
import pytest
from walking import a_store, load, running, sql, turn_of, walk

from inversion.effects import Cancel, Effect, Send
from inversion.errors import Outrun
from inversion.ids import new_turn_id
from inversion.messages import Address, Answer, Delivery, MessageOut, State, Stored
from inversion.state import rows
from inversion.state import sql as statements
from inversion.state.consequences import consequences_of, versions_with
from inversion.state.postgres import Connection
from inversion.state.rows import Commit
from inversion.state.store import PostgresStore

COUNT = "SELECT count(*) FROM inversion.message"


def sending(count: int) -> MessageOut:
    return MessageOut([Answer(b"1", effects=[Send("b", "y", "call", b"%d" % n) for n in range(count)])])


def delivery(seq: int) -> Delivery:
    """What `counter/x` sent with its first version."""
    return Delivery(Address("b", "y"), "counter/x", 1, seq, f"m{seq}", "call", b"1")


async def send(store: PostgresStore, count: int) -> None:
    state = await load(store, "x")
    await walk(lambda: store.store_state(turn_of("x"), state, sending(count)))


async def consume(store: PostgresStore, *sequence: int) -> Stored:
    turn = turn_of("y", len(sequence))
    turn.address = Address("b", "y")
    for request, seq in zip(turn.requests, sequence, strict=True):
        request.delivery = delivery(seq)
    out = MessageOut([Answer(b"1")] * len(sequence))
    return await walk(lambda: store.store_state(turn, State(None, 0, None), out))


async def test_a_turn_that_skips_an_earlier_message_of_the_pair_is_not_applied(database_url: str) -> None:
    async with running(a_store(database_url)) as store:
        await send(store, 3)
        with pytest.raises(Outrun):
            await consume(store, 1)
        with pytest.raises(Outrun):
            await consume(store, 1, 0)
        assert sql(database_url, COUNT) == [(3,)]
        await consume(store, 0, 1)
        assert sql(database_url, COUNT) == [(1,)]


async def test_a_turn_whose_message_another_has_consumed_is_not_applied(database_url: str) -> None:
    async with running(a_store(database_url)) as store:
        await send(store, 1)
        sql(database_url, "DELETE FROM inversion.message")
        with pytest.raises(Outrun):
            await consume(store, 0)
        assert sql(database_url, "SELECT count(*) FROM inversion.entity WHERE function = 'b'") == [(0,)]


async def test_one_that_is_gone_and_one_too_many_do_not_make_up_for_each_other(database_url: str) -> None:
    """A turn of 0 and 2 finds 1 and 2: as many as it wants, and 1 would be lost, 0 applied again."""
    async with running(a_store(database_url)) as store:
        await send(store, 3)
        await consume(store, 0)
        with pytest.raises(Outrun):
            await consume(store, 0, 2)
        assert sql(database_url, COUNT) == [(2,)]


@pytest.mark.parametrize("gone", ["DELETE FROM inversion.timer", "UPDATE inversion.timer SET id = 'newer'"])
async def test_a_timer_that_is_gone_and_a_message_too_many_do_not_make_up_for_each_other(
    gone: str, database_url: str
) -> None:
    """A turn of a timer and message 1 while message 0 waits elsewhere: it would lose 0 for the timer."""
    async with running(a_store(database_url)) as store:
        await send(store, 2)
        wind = MessageOut([Answer(effects=[Send("b", "y", "call", b"1", delay_ms=1, name="bell")])])
        winder = turn_of("z")
        state = await load(store, "z")
        await walk(lambda: store.store_state(winder, state, wind))
        ((id_,),) = sql(database_url, "SELECT id FROM inversion.timer")
        sql(database_url, gone)
        turn = turn_of("y", 2)
        turn.address = Address("b", "y")
        turn.requests[0].delivery = delivery(1)
        turn.requests[1].delivery = Delivery(
            turn.address, "counter/z", 0, 0, str(id_), "call", b"1", timer="bell"
        )
        with pytest.raises(Outrun):
            await walk(
                lambda: store.store_state(
                    turn, State(None, 0, None), MessageOut([Answer(b"1"), Answer(b"1")])
                )
            )
        assert sql(database_url, COUNT) == [(2,)]


async def test_a_message_whose_lease_changes_while_its_commit_waits_is_consumed(database_url: str) -> None:
    """Its row is not the one that the statement saw when it began."""
    async with running(a_store(database_url)) as store:
        await send(store, 1)
        with psycopg.connect(database_url) as other:
            other.execute("UPDATE inversion.message SET due_at = now() + interval '10 s', attempt = 7")
            threading.Timer(0.15, other.commit).start()
            await consume(store, 0)
        assert sql(database_url, COUNT) == [(0,)]


@pytest.mark.parametrize("effect", [Cancel("bell"), Send("b", "y", "call", b"2", delay_ms=1, name="bell")])
async def test_a_timer_that_was_withdrawn_earlier_in_its_turn_does_not_ring(
    effect: Effect, database_url: str
) -> None:
    """The entity has said so before; the other way round it rings, and what is said then is for the next."""
    async with running(a_store(database_url)) as store:
        turn = turn_of("x")
        turn.address = Address("b", "y")
        wind = [Send("b", "y", "call", b"1", delay_ms=1, name="bell")]
        await walk(lambda: store.store_state(turn, State(None, 0, None), MessageOut([Answer(effects=wind)])))
        ((id_,),) = sql(database_url, "SELECT id FROM inversion.timer")
        ring = Delivery(turn.address, "b/y", 0, 0, str(id_), "call", b"1", timer="bell")

        async def together(place: int) -> Stored:
            both = turn_of("y", 2)
            both.address = turn.address
            both.requests[place].delivery = ring
            answers = [Answer(b"1"), Answer(b"1")]
            answers[1 - place] = Answer(b"1", effects=[effect])
            state = store.cache.get(turn.address)
            assert state is not None
            return await walk(lambda: store.store_state(both, state, MessageOut(answers)))

        with pytest.raises(Outrun):
            await together(1)
        assert sql(database_url, "SELECT id FROM inversion.timer") == [(id_,)]
        await together(0)
        assert sql(database_url, "SELECT id FROM inversion.timer WHERE id = '" + str(id_) + "'") == []


def a_commit(key: str, seq: int | None, *effects: Effect, replaced: bytes | None = None) -> Commit:
    """Of an entity of `b`, which consumes what `counter/x` sent it."""
    turn = turn_of(key)
    turn.address = Address("b", key)
    if seq is not None:
        turn.requests[0].delivery = Delivery(turn.address, "counter/x", 1, seq, f"m{seq}", "call", b"1")
    answers = [Answer(b"1", changed=True, effects=effects)]
    versions = versions_with(turn, 0, answers)
    made = consequences_of(turn, answers, versions, None, "application/json")
    return Commit(turn, b"b", key.encode(), versions[-1], new_turn_id(), replaced, b"1", (), made)


@pytest.mark.parametrize("refused", [set(), {"gone"}, {"stale"}, {"gone", "stale"}])
async def test_of_turns_in_one_statement_each_is_told_what_became_of_it(
    refused: set[str], database_url: str
) -> None:
    """Senders and receivers; of those `refused` one comes too late for its message, one for its state."""
    async with running(a_store(database_url)) as store:
        out = MessageOut([Answer(b"1", effects=[Send("b", "y", "call", b"1"), Send("b", "z", "call", b"2")])])
        state = await load(store, "x")
        await walk(lambda: store.store_state(turn_of("x"), state, out))
    sends = Send("b", "target", "call", b"3")
    commits = {
        "consumes": a_commit("y", 0),
        "sends": a_commit("s", None, sends),
        "both": a_commit("z", 1, sends),
    }
    if "gone" in refused:
        commits["gone"] = a_commit("gone", 5, sends)
    if "stale" in refused:
        commits["stale"] = a_commit("stale", None, sends, replaced=new_turn_id())
    statement, parameters = rows.commit_statement(list(commits.values()))
    assert statement is statements.COMMIT_PLAIN_MESSAGES
    connection = await Connection.open(database_url)
    try:
        sent = await connection.execute(statement, parameters)
    finally:
        connection.close()
    applied, outrun = rows.applied_of(statement, sent)
    assert applied == {commit.id for name, commit in commits.items() if name not in refused}
    assert outrun == {commit.id for name, commit in commits.items() if name in refused & {"gone"}}
    assert (sent.count == len(commits) and rows.all_applied(sent)) is not bool(refused)
    assert sql(database_url, "SELECT key, sender FROM inversion.message ORDER BY sender") == [
        ("target", "b/s"),
        ("target", "b/z"),
    ]
    keys = sql(database_url, "SELECT key FROM inversion.entity WHERE function = 'b' ORDER BY key")
    assert keys == [("s",), ("y",), ("z",)]
