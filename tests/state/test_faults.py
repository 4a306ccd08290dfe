"""The database goes away, comes back, refuses, warns, or sits on a row: what turns see of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from time import perf_counter

import psycopg
import pytest
import trio
import trio.testing
from proxy import COMMITS, Proxy, through_proxy
from walking import DELETING, KEEPING, a_store, commit, load, put, putting, read, running, sql, turn_of, walk

from fix_postgres import Cluster
from inversion.config import Limits
from inversion.errors import Abandoned, Code, Conflict, InversionError
from inversion.gate import Gate, Walk
from inversion.messages import Address, State
from inversion.state.migrate import NotMigrated, migrate
from inversion.state.postgres import UnfitServer
from inversion.state.store import PostgresStore
from inversion.watch import Watch

WAITING = (
    "SELECT pid FROM pg_stat_activity WHERE application_name = 'inversion' AND wait_event_type = 'Lock'"
    " AND datname = current_database()"
)


@contextmanager
def locking(url: str, text: str) -> Iterator[None]:
    """A transaction of somebody else's that holds locks until the end of the block."""
    with psycopg.connect(url, application_name="somebody") as connection:
        connection.execute(text)  # type: ignore[call-overload]
        yield


async def kill_the_waiting(url: str) -> None:
    """Terminate the first backend of ours that is seen waiting for a lock."""
    with trio.fail_after(10):
        while not await trio.to_thread.run_sync(
            sql, url, f"SELECT pg_terminate_backend(pid) FROM ({WAITING} LIMIT 1) AS waiting (pid)"
        ):
            await trio.lowlevel.checkpoint()


async def test_a_load_whose_backend_is_killed_is_read_again(database_url: str) -> None:
    async with running(a_store(database_url)) as store:
        await put(store, "k", b"1")
        store.cache.drop(Address("counter", "k"))
        loaded: list[State] = []

        async def load_it() -> None:
            loaded.append(await load(store, "k"))

        async with trio.open_nursery() as nursery:
            with locking(database_url, "LOCK TABLE inversion.entity"):
                nursery.start_soon(load_it)
                await kill_the_waiting(database_url)
        assert loaded[0].value == b"1"


async def test_a_commit_whose_backend_is_killed_lands_exactly_once(database_url: str) -> None:
    async with running(a_store(database_url)) as store:
        await put(store, "k", b"1")
        async with trio.open_nursery() as nursery:
            with locking(database_url, "SELECT * FROM inversion.entity FOR UPDATE"):
                nursery.start_soon(put, store, "k", b"2")
                await kill_the_waiting(database_url)
        assert sql(database_url, "SELECT version, state FROM inversion.entity") == [(2, "2")]


async def test_idle_backends_that_were_killed_cost_no_unknown_outcome(database_url: str) -> None:
    async with running(a_store(database_url)) as store:
        await put(store, "k", b"1")
        sql(
            database_url,
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE application_name = 'inversion' AND datname = current_database()",
        )
        stored = await put(store, "k", b"2")
        assert stored.versions == [2]
        assert not store._resolver._lane.up, "the resolver was asked"


async def test_an_idle_node_notices_that_its_database_has_gone_and_come_back(
    database_url: str, socket_folder: Path
) -> None:
    async with through_proxy(database_url, socket_folder) as (store, proxy):
        assert store.available
        proxy.silent = True
        sql(
            database_url,
            "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
            " WHERE application_name = 'inversion' AND datname = current_database()",
        )
        now_s = 0.0
        with trio.fail_after(5):
            while store.available:
                store.sweep(now_s := now_s + 2.0)
                await trio.lowlevel.checkpoint()
            proxy.wake()
            while not store.available:
                await trio.lowlevel.checkpoint()


async def test_a_locked_entity_waits_alone_and_commits_when_it_can(database_url: str) -> None:
    async with running(a_store(database_url)) as store:
        keys = [f"k{n}" for n in range(8)]
        for key in keys:
            await put(store, key, b"1")
        done: list[str] = []

        async def change(key: str) -> None:
            await put(store, key, b"2")
            done.append(key)

        async with trio.open_nursery() as nursery:
            with locking(database_url, "SELECT * FROM inversion.entity WHERE key = 'k3' FOR UPDATE"):
                for key in keys:
                    nursery.start_soon(change, key)
                with trio.fail_after(10):
                    while len(done) < 7:
                        await trio.lowlevel.checkpoint()
                assert "k3" not in done
                assert (await put(store, "k0", b"3")).versions == [3]  # nobody waits for the locked one
        assert done[-1] == "k3"


async def test_commits_wait_out_a_lock_on_the_whole_table(database_url: str) -> None:
    async with running(a_store(database_url)) as store, trio.open_nursery() as nursery:
        keys = [f"k{n}" for n in range(6)]
        states = {key: await load(store, key) for key in keys}
        with trio.fail_after(10):
            while not all(lane.up for lane in store._commit_lanes):
                await trio.lowlevel.checkpoint()
        with locking(database_url, "LOCK TABLE inversion.entity"):
            for key in keys:
                nursery.start_soon(commit, store, key, states[key], putting(b"1"))
            with trio.fail_after(10):
                while len(store._resolver._stuck) < len(keys):
                    await trio.lowlevel.checkpoint()


async def test_a_new_entity_that_another_inserts_at_the_same_time_is_a_conflict(database_url: str) -> None:
    async with running(a_store(database_url)) as store:
        state = await load(store, "k")
        outcome: list[Conflict] = []

        async def create() -> None:
            with pytest.raises(Conflict) as raised:
                await commit(store, "k", state, putting(b"1"))
            outcome.append(raised.value)

        async with trio.open_nursery() as nursery:
            with locking(
                database_url,
                "INSERT INTO inversion.entity (function, key, version, turn, updated_at)"
                " VALUES ('counter', 'k', 1, gen_random_uuid(), now())",
            ):
                nursery.start_soon(create)
                with trio.fail_after(10):
                    while not store._resolver._stuck:
                        await trio.lowlevel.checkpoint()
        assert outcome


async def test_a_locked_commit_that_nobody_waits_for_is_not_applied_later(database_url: str) -> None:
    async with running(a_store(database_url)) as store:
        await put(store, "k", b"1")
        state = await load(store, "k")
        turn = turn_of("k")

        async def change() -> None:
            with pytest.raises(Abandoned):
                await walk(lambda: store.store_state(turn, state, putting(b"2")))

        async with trio.open_nursery() as nursery:
            with locking(database_url, "SELECT * FROM inversion.entity FOR UPDATE"):
                nursery.start_soon(change)
                with trio.fail_after(5):
                    while not (store._resolver._stuck and not turn.commit_sent):
                        await trio.lowlevel.checkpoint()
                turn.requests[0].answered = True  # 503, not_applied
                store.sweep(0.0)
        assert sql(database_url, "SELECT state FROM inversion.entity") == [("1",)]


async def test_a_commit_that_came_with_a_warning_is_looked_up_before_it_is_acknowledged(
    database_url: str,
) -> None:
    sql(
        database_url,
        """CREATE FUNCTION warn() RETURNS trigger LANGUAGE plpgsql AS
           $$ BEGIN RAISE WARNING 'no standby has it'; RETURN NULL; END $$""",
    )
    sql(
        database_url,
        """CREATE CONSTRAINT TRIGGER warn AFTER INSERT ON inversion.entity
           DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION warn()""",
    )
    async with running(a_store(database_url)) as store:
        assert (await put(store, "k", b"1")).versions == [1]
        assert store._resolver._lane.up, "the warning was taken for an acknowledgement"
        assert sql(database_url, "SELECT version, state FROM inversion.entity") == [(1, "1")]


async def test_a_store_waits_for_a_database_that_is_down_at_start(
    database_url: str, socket_folder: Path
) -> None:
    proxy = Proxy(database_url, socket_folder, *COMMITS)
    said: list[str] = []
    store = PostgresStore(proxy.url, Limits(), Watch(), log=said.append)
    async with trio.open_nursery() as nursery:
        started = trio.Event()

        async def run() -> None:
            await nursery.start(store.run)
            started.set()

        nursery.start_soon(store._watch.run)
        nursery.start_soon(run)
        with trio.fail_after(10):
            while not said:
                await trio.lowlevel.checkpoint()
            assert "no database yet" in said[0]
            assert not started.is_set()
            assert not store.available
            await nursery.start(proxy.run)
            await started.wait()
            assert (await put(store, "k", b"1")).versions == [1]
        nursery.cancel_scope.cancel()


async def test_turns_that_nobody_waits_for_are_let_go_while_there_is_no_database() -> None:
    store = a_store("host=/nowhere")
    loading, committing = turn_of("a"), turn_of("b")
    abandoned: list[str] = []

    async def load_it() -> None:
        with pytest.raises(Abandoned):
            await walk(lambda: store.load_state(loading))
        abandoned.append("load")

    async def commit_it() -> None:
        with pytest.raises(Abandoned):
            await walk(lambda: store.store_state(committing, State(b"1", 1, b"t" * 16), putting(b"2")))
        abandoned.append("commit")

    async with trio.open_nursery() as nursery:
        nursery.start_soon(load_it)
        nursery.start_soon(commit_it)
        await trio.testing.wait_all_tasks_blocked()
        store.sweep(0.0)
        assert store.waiting == 2
        for turn in (loading, committing):
            turn.requests[0].answered = True
        store.sweep(0.0)
    assert sorted(abandoned) == ["commit", "load"]
    assert store.waiting == 0


async def test_a_reader_is_told_at_its_deadline_and_forgotten() -> None:
    store = a_store("host=/nowhere")
    raised: list[InversionError] = []

    async def read_it() -> None:
        with pytest.raises(InversionError) as error:
            await walk(lambda: store.read_state(Address("counter", "k"), 7.0))
        raised.append(error.value)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(read_it)
        await trio.testing.wait_all_tasks_blocked()
        store.sweep(6.9)
        assert store.waiting == 1
        store.sweep(7.0)
        assert store.waiting == 0
    assert (raised[0].code, raised[0].retry_after_s) == (Code.DATABASE_UNAVAILABLE, 1)


async def test_a_reader_that_left_and_waits_for_something_else_is_left_alone() -> None:
    store = a_store("host=/nowhere")
    elsewhere: Gate[tuple[str, str], None] = Gate()

    async def read_it_and_go_on() -> None:
        with pytest.raises(InversionError):
            await store.read_state(Address("counter", "k"), 7.0)
        await elsewhere.wait(("the next", "request"))

    ended: list[Exception | None] = []
    Walk(read_it_and_go_on(), ended.append).start()
    store.sweep(7.0)
    assert store.waiting == 0
    assert [reader.item for reader in elsewhere.waiting] == [("the next", "request")]
    for reader in elsewhere.waiting:
        reader.resume(None)
    assert ended == [None]


async def test_a_reader_leaves_at_its_deadline_though_its_statement_is_under_way(
    database_url: str,
) -> None:
    async with running(a_store(database_url)) as store:
        with locking(database_url, "LOCK TABLE inversion.entity"), trio.fail_after(10):
            async with trio.open_nursery() as nursery:
                raised: list[InversionError] = []

                async def read_it() -> None:
                    with pytest.raises(InversionError) as error:
                        await walk(lambda: store.read_state(Address("counter", "k"), 7.0))
                    raised.append(error.value)

                nursery.start_soon(read_it)
                while not await trio.to_thread.run_sync(sql, database_url, WAITING):
                    await trio.lowlevel.checkpoint()
                store.sweep(7.0)
            assert raised[0].code is Code.DATABASE_UNAVAILABLE
        assert (await read(store, "k")).value is None


async def test_a_commit_without_a_reply_is_given_up_and_found_out(
    database_url: str, socket_folder: Path
) -> None:
    async with through_proxy(database_url, socket_folder) as (store, proxy):
        state = await load(store, "k")
        proxy.hold_reply = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(commit, store, "k", state, putting(b"1"))
            with trio.fail_after(10):
                await proxy.happened.wait()
            store.sweep(perf_counter())
            await trio.testing.wait_all_tasks_blocked()
            assert store.doubtful == 0
            store.sweep(perf_counter() + 15)
        assert sql(database_url, "SELECT version, state FROM inversion.entity") == [(1, "1")]
        assert (await put(store, "k", b"2")).versions == [2]


async def test_what_ends_a_gatherer_ends_the_store(database_url: str) -> None:
    said: list[str] = []

    def log(sentence: str) -> None:  # the first two lanes say it to `run`, the others to gatherers
        said.append(sentence)
        if len(said) > 2:
            raise RuntimeError("out of order")

    url = f"{database_url} options='-c synchronous_commit=off'"
    with pytest.RaisesGroup(RuntimeError, flatten_subgroups=True), trio.fail_after(10):
        async with running(PostgresStore(url, Limits(), Watch(), log=log)):
            await trio.sleep_forever()
    assert "synchronous_commit" in said[2]


async def test_a_pooler_that_refuses_options_gets_unnamed_statements(
    database_url: str, socket_folder: Path
) -> None:
    proxy = Proxy(database_url, socket_folder, *COMMITS)
    proxy.refuse_options = True
    said: list[str] = []
    store = PostgresStore(proxy.url, Limits(), Watch(), log=said.append)
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.run)
        async with running(store):
            assert (await put(store, "k", b"1")).versions == [1]
            assert (await commit(store, "k", await load(store, "k"), DELETING)).versions == [2]
            assert (await commit(store, "k", await load(store, "k"), KEEPING)).versions == [2]
        assert any("pooler" in sentence for sentence in said)
        nursery.cancel_scope.cancel()
    assert sql(database_url, "SELECT version FROM inversion.entity") == [(2,)]


async def test_a_store_refuses_a_database_that_was_not_migrated(empty_database_url: str) -> None:
    with pytest.raises(NotMigrated, match="inversion migrate"), trio.fail_after(5):
        await a_store(empty_database_url).run()


async def test_a_url_that_cannot_be_read_is_refused_at_once() -> None:
    with pytest.raises(UnfitServer, match="database URL"), trio.fail_after(5):
        await a_store("postgres://[").run()


async def test_the_server_is_killed_under_load_and_nothing_acknowledged_is_lost(
    postgres_server: Cluster,
) -> None:
    url = postgres_server.conninfo
    await migrate(url)
    acknowledged: dict[str, int] = {}
    async with running(a_store(url)) as store, trio.open_nursery() as nursery:
        stop = trio.Event()

        async def count(key: str) -> None:
            while not stop.is_set():
                state = await load(store, key)
                stored = await commit(store, key, state, putting(b"1"))
                acknowledged[key] = stored.versions[0] or 0

        for n in range(8):
            nursery.start_soon(count, f"k{n}")
        with trio.fail_after(30):
            while sum(acknowledged.values()) < 200:
                await trio.lowlevel.checkpoint()
            postgres_server.kill()
            before = dict(acknowledged)
            while any(acknowledged[key] < version + 5 for key, version in before.items()):
                await trio.lowlevel.checkpoint()
        stop.set()
    # One writer per entity: each acknowledgement is the version before it and one more, none twice.
    assert dict(sql(url, "SELECT key, version FROM inversion.entity")) == acknowledged
