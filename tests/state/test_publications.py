"""The statement that brings what was published to its subscribers, against a real PostgreSQL."""

from __future__ import annotations

import threading
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import psycopg
import pytest
import trio
from walking import a_store, load, running, sql, turn_of, walk

from inversion.effects import Effect, Publish, Subscribe, Unsubscribe
from inversion.errors import Conflict, Outrun
from inversion.ids import new_turn_id
from inversion.messages import Answer, Change, Delivery, MessageOut
from inversion.state import publications
from inversion.state.outbox import Outbox
from inversion.state.postgres import Connection
from inversion.state.publications import Batch, fan_out
from inversion.state.store import PostgresStore

NODE = new_turn_id()


async def do(store: PostgresStore, key: str, *effects: Effect) -> None:
    state = await load(store, key)
    await walk(lambda: store.store_state(turn_of(key), state, MessageOut([Answer(b"1", effects=effects)])))


def subscribe_many(url: str, count: int) -> None:
    sql(
        url,
        "INSERT INTO inversion.subscription"
        f" SELECT 'news', 'f' || n % 3, lpad(n::text, 6, '0'), 'hear' FROM generate_series(1, {count}) AS n",
    )


def inbox(url: str) -> list[tuple[object, ...]]:
    """What the subscribers have got, without what waits for its fan-out."""
    return sql(
        url, "SELECT function, key, body FROM inversion.message WHERE function <> '~topic' ORDER BY 1, 2, 3"
    )


def waiting(url: str) -> int:
    ((count,),) = sql(url, "SELECT count(*) FROM inversion.message WHERE function = '~topic'")
    assert isinstance(count, int)
    return count


@asynccontextmanager
async def connected(url: str) -> AsyncIterator[Connection]:
    connection = await Connection.open(url)
    yield connection
    connection.close()


async def claim(url: str, node: bytes = NODE) -> list[Delivery]:
    outbox = await Outbox.open(url, node)
    try:
        return await outbox.claim({"~topic": 64})
    finally:
        outbox.close()


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(publications, "MOST", 10)


async def test_batches_reach_every_subscriber_once_and_then_it_is_gone(database_url: str) -> None:
    subscribe_many(database_url, 25)
    async with running(a_store(database_url)) as store, connected(database_url) as connection:
        await do(store, "x", Publish("news", b"1"))
        assert inbox(database_url) == []
        (publication,) = await claim(database_url)
        made = []
        while not made or not made[-1].done:
            made.append((await fan_out(connection, NODE, [publication]))[publication])
            assert len(inbox(database_url)) == sum(batch.made for batch in made)
        assert made == [Batch(10, False), Batch(10, False), Batch(5, True)]
        assert waiting(database_url) == 0
        expected = sql(database_url, "SELECT function, key, '1' FROM inversion.subscription ORDER BY 1, 2")
        assert inbox(database_url) == expected
        columns = "SELECT DISTINCT sender, sender_version, seq, handler, hops, owner FROM inversion.message"
        assert sql(database_url, columns) == [("counter/x", 1, 0, "hear", 0, None)]
        assert sql(database_url, "SELECT count(DISTINCT id) FROM inversion.message") == [(25,)]
        assert await fan_out(connection, NODE, [publication]) == {}


async def test_the_last_batch_may_be_empty(database_url: str) -> None:
    subscribe_many(database_url, 10)
    async with running(a_store(database_url)) as store, connected(database_url) as connection:
        await do(store, "x", Publish("news", b"1"))
        (publication,) = await claim(database_url)
        assert list((await fan_out(connection, NODE, [publication])).values()) == [Batch(10, False)]
        assert list((await fan_out(connection, NODE, [publication])).values()) == [Batch(0, True)]
        assert waiting(database_url) == 0


async def test_large_bodies_make_small_batches(database_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    subscribe_many(database_url, 5)
    monkeypatch.setattr(publications, "_MOST_BYTES", 250)
    async with running(a_store(database_url)) as store, connected(database_url) as connection:
        await do(store, "x", Publish("news", b'"%b"' % (b"a" * 98)), Publish("news2", b"1"))
        for publication in await claim(database_url):
            (batch,) = (await fan_out(connection, NODE, [publication])).values()
            assert batch == (Batch(2, False) if publication.target.key == "news" else Batch(0, True))


async def test_several_publications_go_on_in_one_statement(database_url: str) -> None:
    subscribe_many(database_url, 8)
    async with running(a_store(database_url)) as store, connected(database_url) as connection:
        for key in ("x", "y"):
            await do(store, key, Publish("news", b'"%b"' % key.encode()))
        both = await claim(database_url)
        assert set((await fan_out(connection, NODE, both)).values()) == {Batch(5, False)}
        assert set((await fan_out(connection, NODE, both)).values()) == {Batch(3, True)}
        assert len(set(inbox(database_url))) == 16
        assert waiting(database_url) == 0


async def test_of_one_publisher_on_one_topic_the_earlier_comes_first(database_url: str) -> None:
    """Another topic's and another publisher's do not wait for it."""
    subscribe_many(database_url, 12)
    async with running(a_store(database_url)) as store, connected(database_url) as connection:
        await do(store, "x", Publish("news", b"1"), Publish("news", b"2"), Publish("other", b"3"))
        await do(store, "y", Publish("news", b"4"))
        found = {each.body: each for each in await claim(database_url)}
        assert await fan_out(connection, NODE, [found[b"2"]]) == {}
        assert len(await fan_out(connection, NODE, [found[b"3"], found[b"4"]])) == 2
        assert not (await fan_out(connection, NODE, [found[b"1"]]))[found[b"1"]].done
        assert await fan_out(connection, NODE, [found[b"2"]]) == {}
        assert (await fan_out(connection, NODE, [found[b"1"]]))[found[b"1"]].done
        assert (await fan_out(connection, NODE, [found[b"2"]]))[found[b"2"]].made == 10


async def test_whoever_lost_its_publication_makes_nothing(database_url: str) -> None:
    """Its lease ran out and another node has it, or the same node again."""
    subscribe_many(database_url, 25)
    expire = "UPDATE inversion.message SET due_at = now()"
    async with running(a_store(database_url)) as store, connected(database_url) as connection:
        await do(store, "x", Publish("news", b"1"))
        (first,) = await claim(database_url)
        await fan_out(connection, NODE, [first])
        sql(database_url, expire)
        (second,) = await claim(database_url)
        assert await fan_out(connection, NODE, [first]) == {}
        sql(database_url, expire)
        other = new_turn_id()
        (third,) = await claim(database_url, other)
        assert await fan_out(connection, NODE, [second]) == {}
        assert await fan_out(connection, NODE, [third]) == {}
        assert (await fan_out(connection, other, [third]))[third] == Batch(10, False)
        assert (await fan_out(connection, other, [third]))[third] == Batch(5, True)
        assert len(set(inbox(database_url))) == len(inbox(database_url)) == 25


async def test_a_statement_whose_answer_was_lost_and_that_is_still_at_work_doubles_nothing(
    database_url: str,
) -> None:
    """The same is sent again on another connection: it waits for the row and goes on behind the first."""
    subscribe_many(database_url, 25)
    statement = publications.sql.FAN_OUT
    async with running(a_store(database_url)) as store, connected(database_url) as connection:
        await do(store, "x", Publish("news", b"1"))
        (publication,) = await claim(database_url)
        with psycopg.connect(database_url) as other:
            text = statement.text.decode()
            for number in range(8, 0, -1):
                text = text.replace(f"${number}", f"%({number})s")
            parameters = {
                "1": ["news"],
                "2": ["counter/x"],
                "3": [publication.sender_version],
                "4": [publication.seq],
                "5": [publication.attempt],
                "6": [10],
                "7": uuid.UUID(bytes=NODE),
                "8": 10_000,
            }
            other.execute(text, parameters)  # type: ignore[arg-type]
            threading.Timer(0.15, other.commit).start()
            batch = (await fan_out(connection, NODE, [publication]))[publication]
        assert batch == Batch(10, False)
        assert (await fan_out(connection, NODE, [publication]))[publication] == Batch(5, True)
        assert len(set(inbox(database_url))) == len(inbox(database_url)) == 25


async def test_who_is_subscribed_is_asked_for_each_batch(database_url: str) -> None:
    """Whoever was subscribed all the while gets it; whoever comes or goes meanwhile may, and nobody twice."""
    subscribe_many(database_url, 0)
    async with running(a_store(database_url)) as store, connected(database_url) as connection:
        for number in range(20):
            await do(store, f"k{number:02}", Subscribe("news", "hear"))
        await do(store, "x", Publish("news", b"1"))
        (publication,) = await claim(database_url)
        await fan_out(connection, NODE, [publication])
        await do(store, "k03", Unsubscribe("news"))
        await do(store, "k15", Unsubscribe("news"))
        await do(store, "k00", Unsubscribe("news"), Subscribe("news", "again"))
        await do(store, "a", Subscribe("news", "hear"))
        await do(store, "z", Subscribe("news", "hear"))
        assert (await fan_out(connection, NODE, [publication]))[publication] == Batch(10, False)
        assert (await fan_out(connection, NODE, [publication]))[publication] == Batch(0, True)
        wanted = sorted([f"k{number:02}" for number in range(20) if number != 15] + ["z"])
        assert [key for _, key, _ in inbox(database_url)] == wanted


async def test_two_nodes_that_change_the_same_subscriptions_neither_lock_each_other_out_nor_mix_turns(
    database_url: str,
) -> None:
    """Each turn changes ten topics, in an order of its own, and its state says how."""
    topics = [f"t{number}" for number in range(10)]
    lost = 0

    async def change(store: PostgresStore, name: str) -> None:
        nonlocal lost
        for number in range(20):
            for key in ("x", "y", "z"):
                handler = "none" if number % 3 == 2 else f"{name}{number}"
                order: Sequence[str] = topics if name == "one" else topics[::-1]
                effects = [
                    Unsubscribe(topic) if handler == "none" else Subscribe(topic, handler) for topic in order
                ]
                out = MessageOut(
                    [Answer(b"1", changed=True, effects=effects)], Change.PUT, b'"%b"' % handler.encode()
                )
                while not await applied(store, key, out):
                    lost += 1
                as_the_state_says(key)

    async def applied(store: PostgresStore, key: str, out: MessageOut) -> bool:
        state = await load(store, key)
        try:
            await walk(lambda: store.store_state(turn_of(key), state, out))
        except (Conflict, Outrun):
            return False
        return True

    def as_the_state_says(key: str) -> None:
        ((state, count, handlers),) = sql(
            database_url,
            "SELECT e.state::json #>> '{}', count(s.handler), array_agg(DISTINCT s.handler)"
            " FROM inversion.entity AS e LEFT JOIN inversion.subscription AS s USING (function, key)"
            f" WHERE e.key = '{key}' GROUP BY e.state",
        )
        assert (count, handlers) == ((0, [None]) if state == "none" else (10, [state]))

    async with running(a_store(database_url)) as one, running(a_store(database_url)) as two:
        with trio.fail_after(50):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(change, one, "one")
                nursery.start_soon(change, two, "two")
    assert lost > 0, "they never wanted the same row"
    assert sql(database_url, "SELECT version FROM inversion.entity") == [(40,)] * 3
    deadlocks = "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
    assert sql(database_url, deadlocks) == [(0,)]
