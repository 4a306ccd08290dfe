"""psycopg.pq under trio: how a connection is made, used, and how each failure leaves."""

from __future__ import annotations

import inspect
from pathlib import Path

import psycopg
import pytest
import trio
from proxy import Proxy
from psycopg import pq
from walking import sql

from inversion.state.postgres import Connection, ConnectionLost, Settings, StatementFailed, UnfitServer
from inversion.state.sql import statement

ONE = statement("SELECT '1'")


async def opened(url: str, settings: Settings | None = None) -> Connection:
    with trio.fail_after(10):
        return await Connection.open(url, settings)


async def test_statements_are_prepared_once_under_the_hash_of_their_text(database_url: str) -> None:
    connection = await opened(database_url)
    for _ in range(3):
        assert (await connection.execute(ONE)).texts() == [("1",)]
    prepared = await connection.execute(statement("SELECT name FROM pg_prepared_statements ORDER BY 1"))
    assert (ONE.name.decode(),) in prepared.texts()
    assert prepared.count <= 3  # these two and the settings
    connection.close()


async def test_a_refused_statement_leaves_the_connection_in_order(database_url: str) -> None:
    connection = await opened(database_url)
    with pytest.raises(StatementFailed, match="division by zero") as refused:
        await connection.execute(statement("SELECT 1 / 0"))
    assert refused.value.sqlstate == "22012"
    assert (await connection.execute(ONE)).count == 1
    connection.close()


async def test_a_warning_marks_the_statement_and_not_the_next(database_url: str) -> None:
    connection = await opened(database_url)
    sql(
        database_url,
        "CREATE FUNCTION warn() RETURNS text LANGUAGE plpgsql AS"
        " $$ BEGIN RAISE WARNING 'careful'; RETURN 'x'; END $$",
    )
    assert (await connection.execute(statement("SELECT warn()"))).warned
    assert not (await connection.execute(ONE)).warned
    connection.close()


async def test_a_backend_that_is_killed_at_work_leaves_an_unknown_outcome(database_url: str) -> None:
    connection = await opened(database_url)
    with pytest.raises(ConnectionLost) as lost:
        await connection.execute(
            statement("SELECT pg_terminate_backend(pg_backend_pid())::text, pg_sleep(9)::text")
        )
    assert lost.value.sent
    assert connection.closed
    with pytest.raises(ConnectionLost) as lost:
        await connection.execute(ONE)
    assert not lost.value.sent


async def test_a_backend_that_was_killed_while_idle_is_noticed_without_asking_it(database_url: str) -> None:
    connection = await opened(database_url)
    assert connection.alive()
    sql(
        database_url,
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity"
        " WHERE application_name = 'inversion' AND datname = current_database()",
    )
    assert not connection.alive()
    assert connection.closed


async def test_a_cancelled_statement_closes_its_connection(database_url: str) -> None:
    connection = await opened(database_url)
    with trio.move_on_after(0.05) as scope:
        await connection.execute(statement("SELECT pg_sleep(9)::text"))
    assert scope.cancelled_caught
    assert connection.closed


async def test_a_server_that_does_not_answer_is_given_up(database_url: str) -> None:
    connection = await opened(database_url, Settings(reply_timeout_s=0.1))
    with pytest.raises(ConnectionLost, match="no reply") as lost:
        await connection.execute(statement("SELECT pg_sleep(9)::text"))
    assert lost.value.sent


async def test_time_limits_reach_the_server(database_url: str) -> None:
    connection = await opened(database_url, Settings(statement_timeout_s=0.05))
    with pytest.raises(StatementFailed) as refused:
        await connection.execute(statement("SELECT pg_sleep(9)::text"))
    assert refused.value.sqlstate == "57014"
    assert (await connection.execute(ONE)).count == 1
    connection.close()


async def test_options_of_the_url_are_kept(database_url: str) -> None:
    connection = await opened(f"{database_url} options='-c work_mem=3MB'")
    shown = statement("SELECT current_setting('work_mem'), current_setting('lock_timeout')")
    assert (await connection.execute(shown)).texts() == [("3MB", "300ms")]
    connection.close()


async def test_statements_larger_than_the_socket_buffer_are_sent_whole(database_url: str) -> None:
    connection = await opened(database_url)
    large = b"x" * 20_000_000
    with trio.fail_after(20):
        rows = await connection.execute(statement("SELECT length($1::text)::text, $1::text"), [large])
    assert rows.texts() == [("20000000", large.decode())]
    connection.close()


async def test_hosts_are_tried_one_after_another_each_with_its_own_deadline(
    database_url: str, socket_folder: Path
) -> None:
    silent = Proxy(database_url, socket_folder, b"none")
    silent.silent = True
    given = psycopg.conninfo.conninfo_to_dict(database_url)
    hosts = ["/nowhere", str(socket_folder), str(given["host"])]
    ports = ["5432", "5432", str(given.get("port") or 5432)]
    url = psycopg.conninfo.make_conninfo(database_url, host=",".join(hosts), port=",".join(ports))
    async with trio.open_nursery() as nursery:
        await nursery.start(silent.run)
        connection = await opened(url, Settings(connect_timeout_s=0.2))
        assert (await connection.execute(ONE)).count == 1
        connection.close()
        nursery.cancel_scope.cancel()


async def test_a_host_that_has_no_address_is_named() -> None:
    with pytest.raises(ConnectionLost, match=r"cannot look up nowhere\.invalid"):
        await opened("postgresql://nowhere.invalid/x")


async def test_each_host_that_failed_says_why() -> None:
    with pytest.raises(ConnectionLost, match=r"nowhere.*elsewhere"):
        await opened("host=/nowhere,/elsewhere")


@pytest.mark.parametrize("url", ["postgres://[", "nonsense", "host=x frobnicate=1"])
async def test_a_url_that_cannot_be_read_is_no_matter_of_trying_again(url: str) -> None:
    with pytest.raises(UnfitServer, match="cannot be read"):
        await opened(url)


async def test_a_database_with_another_encoding_is_unfit(server_url: str, database_url: str) -> None:
    sql(server_url, "DROP DATABASE IF EXISTS inversion_test_latin1")
    sql(server_url, "CREATE DATABASE inversion_test_latin1 TEMPLATE template0 ENCODING 'LATIN1' LOCALE 'C'")
    try:
        with pytest.raises(UnfitServer, match="LATIN1"):
            await opened(psycopg.conninfo.make_conninfo(server_url, dbname="inversion_test_latin1"))
    finally:
        sql(server_url, "DROP DATABASE inversion_test_latin1 WITH (FORCE)")


async def test_synchronous_commit_off_is_said(database_url: str) -> None:
    connection = await opened(f"{database_url} options='-c synchronous_commit=off'")
    assert "synchronous_commit is off" in connection.warnings[0]
    connection.close()


def test_the_names_of_psycopg_that_we_rely_on_are_still_there() -> None:
    used = """connect_start connect_poll consume_input finish flush get_error_message get_result is_busy
        nonblocking notice_handler send_prepare send_query send_query_params send_query_prepared socket
        status"""
    assert [name for name in used.split() if not hasattr(pq.PGconn, name)] == []
    used = "error_field error_message get_value nfields ntuples status"
    assert [name for name in used.split() if not hasattr(pq.PGresult, name)] == []
    assert {"OK", "READING", "WRITING"} <= set(pq.PollingStatus.__members__)
    assert {"SQLSTATE", "SEVERITY_NONLOCALIZED", "MESSAGE_PRIMARY"} <= set(pq.DiagnosticField.__members__)
    assert list(inspect.signature(psycopg.conninfo.make_conninfo).parameters) == ["conninfo", "kwargs"]
