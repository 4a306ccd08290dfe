"""The store against a real PostgreSQL: atomic, checked, durable before the reply."""

from __future__ import annotations

import uuid

import pytest
import trio
from walking import DELETING, KEEPING, a_store, commit, load, put, putting, read, running, sql, turn_of, walk

from inversion.effects import Effect, Forward, Publish
from inversion.errors import Abandoned, Code, Conflict, EffectsRefused, RuntimeBroken, StoreUnavailable
from inversion.messages import NO_STATE, Address, Answer, Change, MessageOut, State
from inversion.state.store import PostgresStore


async def test_what_was_put_is_loaded_by_another_store(database_url: str) -> None:
    async with running(a_store(database_url)) as store, running(a_store(database_url)) as other:
        stored = await put(store, "a", b'{"count":1}')
        assert stored.versions == [1]
        state = await load(other, "a")
        assert (state.value, state.version, state.fresh) == (b'{"count":1}', 1, True)
        again = await load(other, "a")
        assert (again.value, again.version, again.fresh) == (b'{"count":1}', 1, False)


async def test_an_entity_that_was_never_stored_has_no_state_and_is_remembered_so(database_url: str) -> None:
    async with running(a_store(database_url)) as store:
        state = await load(store, "nobody")
        assert (state.value, state.version, state.turn) == (None, 0, None)
        assert len(store.cache) == 1


@pytest.mark.parametrize(
    "value",
    [
        b'{"a":"\\u0000"}',
        b"1E5",
        b'{"b":1,"a":2,"b":3}',
        b'" \xc3\xa4\xf0\x9f\x98\x80"',
        b"[1.0000000000000000001]",
    ],
)
async def test_a_state_comes_back_byte_for_byte(database_url: str, value: bytes) -> None:
    async with running(a_store(database_url)) as store:
        await put(store, "k", value)
        found = await read(store, "k")
        assert found.value == value


async def test_each_changed_message_of_a_turn_is_a_version_of_its_own(database_url: str) -> None:
    async with running(a_store(database_url)) as store:
        await put(store, "k", b"1")
        answers = [Answer(b"1"), Answer(b"1", changed=True), Answer(b"1"), Answer(b"1", changed=True)]
        stored = await commit(store, "k", await load(store, "k"), MessageOut(answers, Change.PUT, b"3"))
        assert stored.versions == [1, 2, 2, 3]
        assert (await read(store, "k")).version == 3


async def test_a_delete_keeps_the_row_and_the_versions_go_on(database_url: str) -> None:
    async with running(a_store(database_url)) as store:
        await put(store, "k", b"1")
        deleted = await commit(store, "k", await load(store, "k"), DELETING)
        assert deleted.versions == [2]
        assert sql(database_url, "SELECT version, state FROM inversion.entity") == [(2, None)]
        found = await read(store, "k")
        assert (found.value, found.version) == (None, 2)
        assert (await put(store, "k", b"2")).versions == [3]


async def test_a_commit_with_a_stale_turn_is_a_conflict(database_url: str) -> None:
    async with running(a_store(database_url)) as store, running(a_store(database_url)) as other:
        await put(store, "k", b"1")
        await put(other, "k", b"2")
        with pytest.raises(Conflict):
            await put(store, "k", b"lost")  # from its cache
        assert (await read(store, "k")).value == b"2"
        assert (await put(store, "k", b"3")).versions == [3]  # the cache entry is gone


async def test_two_stores_that_make_the_same_new_entity_do_not_both_succeed(database_url: str) -> None:
    async with running(a_store(database_url)) as store, running(a_store(database_url)) as other:
        outcomes: list[str] = []

        async def race(one: PostgresStore, value: bytes) -> None:
            state = await load(one, "new")
            try:
                await commit(one, "new", state, putting(value))
                outcomes.append("applied")
            except Conflict:
                outcomes.append("conflict")

        absent = await load(store, "new"), await load(other, "new")
        assert [state.turn for state in absent] == [None, None]
        async with trio.open_nursery() as nursery:
            nursery.start_soon(race, store, b"1")
            nursery.start_soon(race, other, b"2")
        assert sorted(outcomes) == ["applied", "conflict"]


async def test_a_swept_tombstone_is_not_inserted_again_by_a_stale_writer(database_url: str) -> None:
    async with running(a_store(database_url)) as store:
        await put(store, "k", b"1")
        sql(database_url, "DELETE FROM inversion.entity")
        with pytest.raises(Conflict):
            await put(store, "k", b"2")
        assert sql(database_url, "SELECT count(*) FROM inversion.entity") == [(0,)]


async def test_a_commit_of_many_entities_is_one_transaction(database_url: str) -> None:
    async with running(a_store(database_url)) as store:
        states = {f"k{n}": await load(store, f"k{n}") for n in range(40)}
        async with trio.open_nursery() as nursery:
            for key, state in states.items():
                nursery.start_soon(commit, store, key, state, putting(b"1"))
        rows = sql(database_url, "SELECT count(*), count(DISTINCT xmin::text) FROM inversion.entity")
        assert rows[0][0] == 40
        assert int(str(rows[0][1])) <= 5, "commits were not gathered"


async def test_an_answer_from_a_stale_cache_is_found_out_before_it_goes_out(database_url: str) -> None:
    async with running(a_store(database_url)) as store, running(a_store(database_url)) as other:
        await put(store, "k", b'"sold out"')
        await put(other, "k", b'"in stock"')
        cached = await load(store, "k")
        assert (cached.value, cached.fresh) == (b'"sold out"', False)
        with pytest.raises(Conflict):
            await commit(store, "k", cached, KEEPING)
        fresh = await load(store, "k")
        assert (fresh.value, fresh.fresh) == (b'"in stock"', True)
        stored = await commit(store, "k", fresh, KEEPING)
        assert stored.versions == [2]


async def test_a_cached_absence_is_confirmed_too(database_url: str) -> None:
    async with running(a_store(database_url)) as store, running(a_store(database_url)) as other:
        await load(store, "k")
        absent = await load(store, "k")
        assert not absent.fresh
        assert (await commit(store, "k", absent, KEEPING)).versions == [0]
        await put(other, "k", b"1")
        with pytest.raises(Conflict):
            await commit(store, "k", absent, KEEPING)


async def test_a_stateless_call_touches_no_database() -> None:
    store = a_store("host=/nowhere")
    state = await load(store, None)
    assert state is NO_STATE
    turn = turn_of(None)
    stored = await walk(lambda: store.store_state(turn, state, KEEPING))
    assert stored.versions == [None]


async def test_a_poison_member_fails_alone(database_url: str) -> None:
    sql(database_url, "ALTER TABLE inversion.entity ADD CONSTRAINT tame CHECK (state <> '\"poison\"')")
    async with running(a_store(database_url)) as store:
        states = {f"k{n}": await load(store, f"k{n}") for n in range(20)}
        failed: dict[str, str] = {}

        async def one(key: str, state: State) -> None:
            try:
                await commit(store, key, state, putting(b'"poison"' if key == "k7" else b"1"))
            except StoreUnavailable as error:
                failed[key] = error.detail

        async with trio.open_nursery() as nursery:
            for key, state in states.items():
                nursery.start_soon(one, key, state)
        assert list(failed) == ["k7"]
        assert "23514" in failed["k7"]  # check_violation; the server's words are for the log
        assert sql(database_url, "SELECT count(*) FROM inversion.entity") == [(19,)]


@pytest.mark.parametrize(
    ("value", "code"),
    [
        (b'"' + b"x" * 100 + b'"', Code.STATE_TOO_LARGE),
        (b'"\x00"', Code.PROTOCOL_ERROR),
        (b'"\xff"', Code.PROTOCOL_ERROR),
    ],
)
async def test_a_state_that_cannot_be_stored_is_refused_before_it_is_sent(value: bytes, code: Code) -> None:
    store = a_store("host=/nowhere", state_bytes=50)
    turn = turn_of("k")
    with pytest.raises(RuntimeBroken) as refusal:
        await walk(lambda: store.store_state(turn, State(None, 0, None), putting(value)))
    assert refusal.value.code is code
    assert not turn.commit_sent


@pytest.mark.parametrize("effect", [Forward("f", "k", "call", b"1"), Publish("t", b"1")])
async def test_effects_of_a_call_without_a_key_are_refused_and_never_ignored(effect: Effect) -> None:
    store = a_store("host=/nowhere")
    turn = turn_of("k", 2)
    turn.address = Address("counter", None)
    out = MessageOut([Answer(), Answer(b"1", effects=[effect])])
    with pytest.raises(EffectsRefused, match="nothing was stored"):
        await walk(lambda: store.store_state(turn, NO_STATE, out))


async def test_a_turn_that_was_answered_at_its_deadline_is_not_committed(database_url: str) -> None:
    async with running(a_store(database_url)) as store:
        state = await load(store, "k")
        turn = turn_of("k")
        turn.requests[0].answered = True
        with pytest.raises(Abandoned):
            await walk(lambda: store.store_state(turn, state, putting(b"1")))
        assert not turn.commit_sent
        assert sql(database_url, "SELECT count(*) FROM inversion.entity") == [(0,)]


async def test_the_row_records_the_turn_and_the_one_it_replaced(database_url: str) -> None:
    async with running(a_store(database_url)) as store:
        await put(store, "k", b"1")
        first = await load(store, "k")
        await put(store, "k", b"2")
        second = await load(store, "k")
        assert first.turn is not None
        assert second.turn is not None
        assert sql(database_url, "SELECT turn, prev FROM inversion.entity") == [
            (uuid.UUID(bytes=second.turn), uuid.UUID(bytes=first.turn))
        ]


async def test_increments_of_two_racing_stores_add_up(database_url: str) -> None:
    keys, per_store = ["a", "b", "c", "d"], 25
    async with running(a_store(database_url)) as one, running(a_store(database_url)) as two:

        async def increment(store: PostgresStore, key: str) -> None:
            for _ in range(per_store):
                while True:
                    state = await load(store, key)
                    try:
                        await commit(store, key, state, putting(b"%d" % (int(state.value or b"0") + 1)))
                        break
                    except Conflict:
                        continue

        async with trio.open_nursery() as nursery:
            for store in (one, two):
                for key in keys:
                    nursery.start_soon(increment, store, key)
    assert sql(database_url, "SELECT key, version, state FROM inversion.entity ORDER BY key") == [
        (key, 2 * per_store, str(2 * per_store)) for key in keys
    ]
