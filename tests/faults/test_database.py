"""D1-D3, D6, D8, D10, D11 and S1: what calls see while the database is killed, stopped, stalled or refuses.

Under every fault a load keeps a ledger, which is compared with the rows at the end: nothing acknowledged
is lost, what was `not_applied` never appears, what is unknown at most once, versions have no gap.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import psycopg
import pytest
import trio
from ledger import Ledger
from psycopg.conninfo import make_conninfo

from fix_command import for_serve
from fix_matrix import Row
from fix_outage import JOURNAL, NODE, ServeNode, Server, alive, end_and_read, memory_bytes, stopped
from fix_postgres import new_cluster_folder
from inversion.embedded import server as embedded_server

#: First success after PostgreSQL accepts again.
PROMPT_S = 2.0


@pytest.mark.fault(
    "D1", "kill -9 of the postmaster, down for longer than the calls' deadlines, started again"
)
async def test_calls_wait_out_a_killed_server_to_their_deadline_and_succeed_once_it_is_back(
    own_server: Server, serve_node: ServeNode, row: Row
) -> None:
    ledger = Ledger()
    with serve_node(own_server.url, "--migrate") as command, trio.fail_after(50 * row.times):
        async with ledger.load(command.url, b"Inversion-Timeout: 700ms"):
            for _ in range(row.times):
                await ledger.more(150)
                pid = await own_server.down(signal.SIGKILL)
                down_s = perf_counter()
                held_bytes = memory_bytes(command.process.pid)
                await ledger.until(lambda s=down_s: ledger.told(s)["database_unavailable"] > 30)
                assert (await command.admin("/readyz")).status == 503
                grown_bytes = memory_bytes(command.process.pid) - held_bytes
                assert grown_bytes < 16 << 20, "memory grows while the database is away"
                up_s = await own_server.up()
                row.fired(f"postmaster {pid} is gone, {dict(ledger.told(down_s))}")
                assert await ledger.success_after(up_s) < PROMPT_S
                row.recovered()
        end_and_read(command)
    told = ledger.told()
    assert set(told) <= {"ok", "database_unavailable", "deadline"}, told
    for entry in ledger.entries:
        if entry.code == "database_unavailable":
            assert entry.outcome == "not_applied"
            assert entry.answered_s - entry.sent_s >= 0.7, "it did not wait to its deadline"
            assert entry.answer is not None
            assert entry.answer.fields["retry-after"] == "1"
        elif entry.code == "deadline":
            assert entry.outcome == "unknown"
    ledger.check(own_server.url)


@pytest.mark.fault("D2", "pg_terminate_backend of a connection at work, again and again")
async def test_terminated_backends_cost_time_and_nothing_else(
    own_server: Server, serve_node: ServeNode, row: Row
) -> None:
    ledger = Ledger()
    with serve_node(own_server.url, "--migrate") as command, trio.fail_after(50 * row.times):
        async with ledger.load(command.url):
            for _ in range(row.times):
                for _ in range(5):
                    await ledger.more(50)
                    await one_at_work_is_terminated(own_server)
                    row.fired("pg_terminate_backend of an active connection said true")
                    await ledger.success_after(perf_counter())
                    assert row.recovered() < PROMPT_S
        said = end_and_read(command)
    assert "57P01" in said
    assert set(ledger.told()) == {"ok"}
    ledger.check(own_server.url)


async def one_at_work_is_terminated(server: Server) -> None:
    text = f"""SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                WHERE {NODE} AND state = 'active' LIMIT 1"""
    with trio.fail_after(10):
        while await trio.to_thread.run_sync(server.ask, text) != [(True,)]:
            pass


@pytest.mark.fault("D2", "kill -9 of one backend: the server resets all of them and recovers")
async def test_a_killed_backend_takes_all_others_along_and_nothing_is_lost(
    own_server: Server, serve_node: ServeNode, row: Row
) -> None:
    ledger = Ledger()
    with serve_node(own_server.url, "--migrate") as command, trio.fail_after(50 * row.times):
        async with ledger.load(command.url):
            for _ in range(row.times):
                await ledger.more(100)
                pid = own_server.backends()[0]
                os.kill(pid, signal.SIGKILL)
                with trio.fail_after(10):
                    while alive(pid):  # noqa: ASYNC110 (another process)
                        await trio.sleep(0.005)
                row.fired(f"backend {pid} is gone")
                killed_s = perf_counter()
                with trio.fail_after(20):
                    while not await trio.to_thread.run_sync(accepts, own_server):  # noqa: ASYNC110 (the own_server)
                        await trio.sleep(0.01)
                up_s = perf_counter()
                await ledger.success_after(up_s)
                assert perf_counter() - up_s < PROMPT_S
                row.recovered()
                assert killed_s < up_s
        said = end_and_read(command)
    assert "57P02" in said
    assert set(ledger.told()) == {"ok"}
    ledger.check(own_server.url)


def accepts(server: Server) -> bool:
    try:
        return server.ask("SELECT 1") == [(1,)]
    except psycopg.OperationalError:
        return False


@pytest.mark.fault("D3", "stopped fast and immediate by turns, started again each time")
async def test_a_loop_of_restarts_costs_time_and_nothing_else(
    own_server: Server, serve_node: ServeNode, row: Row
) -> None:
    ledger = Ledger()
    with serve_node(own_server.url, "--migrate") as command, trio.fail_after(55 * row.times):
        async with ledger.load(command.url):
            for _ in range(row.times):
                for how in (signal.SIGINT, signal.SIGQUIT, signal.SIGINT, signal.SIGQUIT):
                    await ledger.more(50)
                    before = own_server.cluster.pid
                    up_s = await own_server.end_once(how)
                    row.fired(f"postmaster {before} ended by {how.name}, {own_server.cluster.pid} runs")
                    assert await ledger.success_after(up_s) < PROMPT_S
                    row.recovered()
        end_and_read(command)
    assert set(ledger.told()) == {"ok"}
    ledger.check(own_server.url)


@pytest.mark.fault("D6", "SIGSTOP of every backend until the node says that it is not ready")
async def test_a_stalled_database_fills_bounded_queues_and_drains_when_it_goes_on(
    own_server: Server, serve_node: ServeNode, journal_folder: Path, row: Row
) -> None:
    limits = "queue = { entity = 3, function = 25, node = 30 }"
    (journal_folder / "inversion.toml").write_text(for_serve(f"{JOURNAL}\n[limits]\n{limits}\n"))
    ledger = Ledger()
    keys = [f"k{n}" for n in range(40)]
    with serve_node(own_server.url, "--migrate") as command, trio.fail_after(50 * row.times):
        async with ledger.load(command.url, b"Inversion-Timeout: 600ms", keys=keys):
            for _ in range(row.times):
                await ledger.more(100)
                held_bytes = memory_bytes(command.process.pid)
                backends = own_server.backends()
                for pid in backends:
                    os.kill(pid, signal.SIGSTOP)
                stopped_s = perf_counter()
                with trio.fail_after(10):
                    while not all(stopped(pid) for pid in backends):  # noqa: ASYNC110 (other processes)
                        await trio.sleep(0.005)
                with trio.fail_after(8):
                    while (await command.admin("/readyz")).status == 200:  # noqa: ASYNC110 (another process)
                        await trio.sleep(0.05)
                told = ledger.told(stopped_s)
                assert memory_bytes(command.process.pid) - held_bytes < 16 << 20
                for pid in backends:
                    os.kill(pid, signal.SIGCONT)
                row.fired(f"{len(backends)} backends were stopped, {dict(told)}")
                going_s = perf_counter()
                assert {"queue_full", "deadline"} <= set(told), told
                await ledger.success_after(going_s)
                # Drained: nobody is refused or late any more.
                await ledger.more(200)
                calm_s = perf_counter()
                await ledger.more(100)
                assert set(ledger.told(calm_s)) <= {"ok", "queue_full"}
                assert row.recovered() < 5.0
        end_and_read(command)
    for entry in ledger.entries:
        if entry.code == "queue_full":
            assert entry.answer is not None
            assert (entry.answer.status, entry.answer.fields["retry-after"]) == (429, "1")
    assert set(ledger.told()) <= {"ok", "queue_full", "deadline", "database_unavailable"}
    ledger.check(own_server.url)


@pytest.fixture
def small_server(
    short_folder: Path, initialized_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Server]:
    """Ten connections, three of them for superusers; the node is none."""
    settings = [each for each in embedded_server.SETTINGS if not each.startswith("max_connections")]
    monkeypatch.setattr(embedded_server, "SETTINGS", (*settings, "max_connections=10"))
    server = Server(new_cluster_folder(short_folder, initialized_folder))
    yield server
    server.stop()
    shutil.rmtree(server.folder)


@pytest.mark.fault("D8", "somebody else holds every connection that the server has")
async def test_a_server_without_a_free_connection_is_not_stormed(
    small_server: Server, serve_node: ServeNode, row: Row
) -> None:
    server = small_server
    with serve_node(server.url, "--migrate") as command:
        end_and_read(command)
    server.ask(
        """CREATE ROLE app LOGIN; GRANT USAGE ON SCHEMA inversion TO app;
           GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA inversion TO app"""
    )
    app_url = make_conninfo(server.url, user="app")
    ledger = Ledger()
    with serve_node(app_url) as command, trio.fail_after(55 * row.times):
        async with ledger.load(command.url, b"Inversion-Timeout: 500ms"):
            for _ in range(row.times):
                await ledger.more(100)
                hogs: list[psycopg.Connection] = []
                await trio.to_thread.run_sync(hog_all, server, app_url, hogs)
                hogged_s = perf_counter()
                await trio.sleep(2.0)  # the first tries follow each other more closely
                before = refused_connections(server)
                await trio.sleep(3.0)
                tries = refused_connections(server) - before
                told = ledger.told(hogged_s + 0.6)
                for hog in hogs:
                    hog.close()
                row.fired(f"{len(hogs)} connections held, {tries} tries refused with 53300, {dict(told)}")
                free_s = perf_counter()
                assert tries >= 1
                assert tries <= 5, "more than about one try a second"
                assert set(told) == {"database_unavailable"}
                assert await ledger.success_after(free_s) < PROMPT_S
                row.recovered()
        end_and_read(command)
    ledger.check(server.url)


def hog_all(server: Server, url: str, hogs: list[psycopg.Connection]) -> None:
    """Take every connection, those of the node as well."""
    while len(hogs) < 7:
        server.ask(f"SELECT pg_terminate_backend(pid, 1000) FROM pg_stat_activity WHERE {NODE}")
        try:
            while True:
                hogs.append(psycopg.connect(url, application_name="hog"))
        except psycopg.OperationalError:
            continue


def refused_connections(server: Server) -> int:
    return server.log.count("remaining connection slots are reserved") + server.log.count("too many clients")


@pytest.mark.fault("D10", "default_transaction_read_only = on, as where storage has run out")
async def test_a_server_that_became_read_only_is_unavailable_until_it_is_not(
    own_server: Server, serve_node: ServeNode, row: Row
) -> None:
    ledger = Ledger()
    with serve_node(own_server.url, "--migrate") as command, trio.fail_after(55 * row.times):
        async with ledger.load(command.url, b"Inversion-Timeout: 500ms"):
            for _ in range(row.times):
                await ledger.more(100)
                turn_read_only(own_server, "on")
                changed_s = perf_counter()
                await ledger.until(lambda s=changed_s: ledger.told(s)["database_unavailable"] > 20)
                ready = await command.admin("/readyz")
                assert ready.status == 503, ready.body
                begun = opened(own_server)
                await trio.sleep(2.0)
                assert opened(own_server) - begun < 12, "it storms"
                turn_read_only(own_server, "off")
                row.fired(f"refused with 25006, {dict(ledger.told(changed_s))}")
                await ledger.success_after(perf_counter())
                assert row.recovered() < 5.0
        said = end_and_read(command)
    assert "read-only" in said
    assert set(ledger.told()) <= {"ok", "database_unavailable", "deadline"}
    ledger.check(own_server.url)


def turn_read_only(server: Server, value: str) -> None:
    writing = "-c default_transaction_read_only=off"
    server.ask(f"ALTER SYSTEM SET default_transaction_read_only = {value}", options=writing)
    server.ask("SELECT pg_reload_conf()", options=writing)


def opened(server: Server) -> int:
    """How many sessions the server has had."""
    ((count,),) = server.ask("SELECT sum(sessions) FROM pg_stat_database")
    return int(str(count))


@pytest.mark.fault("S1", "kill -9 of the node under load, a new one in the same folder")
async def test_a_killed_node_loses_nothing_that_it_acknowledged(
    own_server: Server, serve_node: ServeNode, row: Row
) -> None:
    ledger = Ledger()
    for _ in range(row.times):
        with serve_node(own_server.url, "--migrate") as command, trio.fail_after(50):
            async with ledger.load(command.url):
                await ledger.more(300)
                command.process.kill()
                command.process.wait()
                row.fired(f"node {command.process.pid} is gone")
        torn = ledger.told()["torn"]
        assert torn, "nobody was waiting for an answer"
        with serve_node(own_server.url) as command, trio.fail_after(50):
            async with ledger.load(command.url):
                await ledger.more(50)
                row.recovered()
            end_and_read(command)
    assert set(ledger.told()) == {"ok", "torn"}
    ledger.check(own_server.url)


@pytest.mark.fault("D11", "foreign transactions take the rows in reverse: deadlocks and lock timeouts")
async def test_locks_of_others_cost_time_and_nothing_else(
    own_server: Server, serve_node: ServeNode, row: Row
) -> None:
    own_server.ask("ALTER SYSTEM SET deadlock_timeout = '20ms'")  # before our lock_timeout of 300 ms
    own_server.ask("SELECT pg_reload_conf()")
    ledger = Ledger()
    with serve_node(own_server.url, "--migrate") as command, trio.fail_after(50 * row.times):
        async with ledger.load(command.url):
            await ledger.more(100)
            for _ in range(row.times):
                before = deadlocks(own_server), lock_timeouts(own_server)
                while deadlocks(own_server) == before[0] or lock_timeouts(own_server) == before[1]:
                    await trio.to_thread.run_sync(lock_in_reverse, own_server.url)
                row.fired(f"{deadlocks(own_server) - before[0]} deadlocks")
                await ledger.success_after(perf_counter())
                row.recovered()
            await ledger.more(50)
        end_and_read(command)
    assert set(ledger.told()) == {"ok"}
    ledger.check(own_server.url)


def lock_in_reverse(url: str) -> None:
    with psycopg.connect(url) as connection:
        try:
            for key in ("k9", "k7", "k5", "k3", "k2", "k1", "k0"):
                connection.execute("UPDATE inversion.entity SET key = key WHERE key = %s", [key])
            connection.execute("SELECT pg_sleep(0.4)")
        except psycopg.errors.DeadlockDetected:
            pass
        connection.rollback()


def deadlocks(server: Server) -> int:
    return server.log.count("ERROR:  deadlock detected")


def lock_timeouts(server: Server) -> int:
    return server.log.count("canceling statement due to lock timeout")


async def test_a_wrong_password_ends_the_start_and_is_waited_out_later(
    own_server: Server, serve_node: ServeNode, journal_folder: Path
) -> None:
    with serve_node(own_server.url, "--migrate") as command:
        end_and_read(command)
    own_server.ask(
        """CREATE ROLE app LOGIN PASSWORD 'right'; GRANT USAGE ON SCHEMA inversion TO app;
           GRANT SELECT, INSERT, UPDATE ON ALL TABLES IN SCHEMA inversion TO app"""
    )
    (own_server.cluster.data / "pg_hba.conf").write_text("local all app scram-sha-256\nlocal all all trust\n")
    own_server.ask("SELECT pg_reload_conf()")
    wrong_url = make_conninfo(own_server.url, user="app", password="wrong-secret")
    with trio.fail_after(10):
        while lets_in(wrong_url):  # noqa: ASYNC110 (the server reads its file when it likes)
            await trio.sleep(0.01)
    serve = [sys.executable, "-m", "inversion", "serve", "--port", "0", "--admin-port", "0"]
    run = await trio.run_process(
        [*serve, "--config", str(journal_folder), "--database-url", wrong_url],
        capture_stdout=True,
        capture_stderr=True,
        check=False,
    )
    assert run.returncode == 3
    said = run.stderr.decode()
    assert "password authentication failed" in said
    assert "SQLSTATE 28P01" in said
    assert "check the database URL" in said
    assert "wrong-secret" not in said + run.stdout.decode()

    ledger = Ledger()
    with (
        serve_node(make_conninfo(own_server.url, user="app", password="right")) as command,
        trio.fail_after(50),
    ):
        async with ledger.load(command.url, b"Inversion-Timeout: 500ms"):
            await ledger.more(50)
            own_server.ask("ALTER ROLE app PASSWORD 'changed'")
            own_server.ask(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {NODE}")
            changed_s = perf_counter()
            await ledger.until(lambda: ledger.told(changed_s)["database_unavailable"] > 20)
            own_server.ask("ALTER ROLE app PASSWORD 'right'")
            assert await ledger.success_after(perf_counter()) < PROMPT_S
        assert "password authentication failed" in end_and_read(command)
    ledger.check(own_server.url)


def lets_in(url: str) -> bool:
    try:
        psycopg.connect(url).close()
    except psycopg.OperationalError:
        return False
    return True
