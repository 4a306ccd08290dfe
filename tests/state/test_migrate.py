"""Migrations: applied once, by whoever comes first; checked by everybody else."""

from __future__ import annotations

import pytest
import trio
from walking import a_store, load, put, running, sql

from inversion.config import Limits
from inversion.state import migrate
from inversion.state import sql as statements
from inversion.state.postgres import Connection, StatementFailed
from inversion.state.store import PostgresStore
from inversion.watch import Watch

NAMES = [migration.name for migration in statements.MIGRATIONS]
KNOWN = statements.MIGRATIONS[-1].number

#: Everything that makes the schema what it is, but for the bookkeeping.
CATALOG = """
SELECT c.relname, c.relkind::text, c.reloptions::text, a.attname, format_type(a.atttypid, a.atttypmod),
       a.attnotnull, a.attstorage::text, a.attcompression::text, l.collname,
       col_description(c.oid, a.attnum),
       CASE c.relkind WHEN 'v' THEN pg_get_viewdef(c.oid) WHEN 'i' THEN pg_get_indexdef(c.oid) END
  FROM pg_class AS c
  JOIN pg_attribute AS a ON a.attrelid = c.oid AND a.attnum > 0
  LEFT JOIN pg_collation AS l ON l.oid = a.attcollation
 WHERE c.relnamespace = 'inversion'::regnamespace AND c.relname NOT LIKE 'migration%'
 ORDER BY c.relname, a.attnum
"""


async def test_a_second_migration_has_nothing_to_do(empty_database_url: str) -> None:
    with trio.fail_after(10):
        assert await migrate.pending(empty_database_url) == NAMES
        assert await migrate.migrate(empty_database_url) == NAMES
        assert await migrate.migrate(empty_database_url) == []
        assert await migrate.pending(empty_database_url) == []


async def test_several_nodes_migrate_at_once_and_each_migration_is_applied_by_one(
    empty_database_url: str,
) -> None:
    applied: list[str] = []

    async def one_node() -> None:
        applied.extend(await migrate.migrate(empty_database_url))

    with trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            for _ in range(5):
                nursery.start_soon(one_node)
    assert applied == NAMES


async def test_pending_and_check_change_nothing(empty_database_url: str) -> None:
    with trio.fail_after(10):
        await migrate.pending(empty_database_url)
        connection = await Connection.open(empty_database_url)
        with pytest.raises(migrate.NotMigrated, match=NAMES[0]):
            await migrate.check(connection)
        connection.close()
    assert sql(empty_database_url, "SELECT 1 FROM pg_namespace WHERE nspname = 'inversion'") == []


def migrate_with_a_newer_release(url: str, needs: int | str) -> None:
    sql(
        url,
        f"INSERT INTO inversion.migration (number, name, checksum, needs) VALUES (9999, 'x', 'y', {needs})",
    )


@pytest.mark.parametrize("needs", [1, KNOWN])
async def test_a_newer_schema_is_served_where_its_migrations_bear_this_release(
    database_url: str, needs: int
) -> None:
    migrate_with_a_newer_release(database_url, needs)
    said: list[str] = []
    store = PostgresStore(database_url, Limits(), Watch(), log=said.append)
    async with running(store):
        assert (await put(store, "k", b"1")).versions == [1]
        assert (await load(store, "k")).value == b"1"
    assert said == ["the database has migration x of a newer inversion: this one may serve it"]
    with trio.fail_after(10):
        assert await migrate.migrate(database_url) == []


@pytest.mark.parametrize("needs", [KNOWN + 1, 9999, "NULL"])
async def test_a_newer_schema_that_needs_what_this_release_does_not_know_is_refused(
    database_url: str, needs: int | str
) -> None:
    migrate_with_a_newer_release(database_url, needs)
    with trio.fail_after(10):
        with pytest.raises(
            migrate.SchemaTooNew, match=f"x, which .* {str(needs).replace('NULL', '9999')} may"
        ):
            await a_store(database_url).run()
        with pytest.raises(migrate.SchemaTooNew, match=f"this one knows {KNOWN}: run a newer one"):
            await migrate.migrate(database_url)


def test_a_migration_says_what_must_be_known_beside_it_or_needs_itself() -> None:
    assert statements.Migration(7, "0007_x", "CREATE TABLE x ();\n").needs == 7
    bearing = statements.Migration(7, "0007_x", "-- needs: 3\nCREATE TABLE x ();\n")
    assert bearing.needs == 3
    assert "'0007_x', '" in bearing.for_psql
    assert bearing.for_psql.endswith(", 3);")


def go_back_to_older_books(url: str) -> None:
    """The bookkeeping as it was before migrations said what they need, with one of them applied."""
    newer = sql(
        url,
        "SELECT relname FROM pg_class WHERE relnamespace = 'inversion'::regnamespace AND relkind = 'r'"
        " AND relname <> 'entity' AND relname NOT LIKE 'migration%'",
    )
    sql(url, f"DROP TABLE {', '.join(f'inversion.{name}' for (name,) in newer)}")
    sql(url, "ALTER TABLE inversion.migration DROP COLUMN needs")
    sql(url, "DELETE FROM inversion.migration WHERE number > 1")


async def test_books_of_before_the_needs_are_read_and_brought_up_to_date(database_url: str) -> None:
    go_back_to_older_books(database_url)
    with trio.fail_after(10):
        assert await migrate.pending(database_url) == NAMES[1:]
        assert await migrate.migrate(database_url) == NAMES[1:]
    needs = "SELECT number, needs FROM inversion.migration ORDER BY number"
    assert sql(database_url, needs) == [(1, None), *((m.number, m.needs) for m in statements.MIGRATIONS[1:])]


async def test_books_of_before_the_needs_with_nothing_missing_stay_as_they_are(database_url: str) -> None:
    sql(database_url, "ALTER TABLE inversion.migration DROP COLUMN needs")
    with trio.fail_after(10):
        assert await migrate.migrate(database_url) == []
    async with running(a_store(database_url)):
        pass


@pytest.mark.toolchain("psql")
async def test_the_script_for_a_dba_brings_older_books_up_to_date(database_url: str) -> None:
    go_back_to_older_books(database_url)
    script = migrate.script(NAMES[1:])
    with trio.fail_after(20):
        await trio.run_process(["psql", "-qX", database_url], stdin=script.encode())
        assert await migrate.pending(database_url) == []
    assert sql(database_url, "SELECT needs FROM inversion.migration WHERE number = 2") == [(2,)]


async def test_a_migration_that_was_edited_after_it_was_applied_is_found_out(database_url: str) -> None:
    sql(database_url, "UPDATE inversion.migration SET checksum = 'other'")
    with trio.fail_after(10), pytest.raises(migrate.SchemaChanged, match=NAMES[0]):
        await a_store(database_url).run()


async def test_a_migration_that_fails_leaves_nothing_behind(empty_database_url: str) -> None:
    sql(empty_database_url, "CREATE SCHEMA inversion CREATE TABLE entity ()")
    with trio.fail_after(60), pytest.raises(StatementFailed, match="already exists"):
        await migrate.migrate(empty_database_url)
    assert sql(empty_database_url, "SELECT count(*) FROM inversion.migration") == [(0,)]
    assert sql(empty_database_url, "SELECT to_regclass('inversion.entity_json')") == [(None,)]


async def test_schema_sql_is_what_all_migrations_make(database_url: str, empty_database_url: str) -> None:
    with trio.fail_after(10):
        connection = await Connection.open(empty_database_url)
        await connection.run_script("CREATE SCHEMA inversion")
        await migrate.apply_schema(connection, statements.schema())
        connection.close()
    migrated = sql(database_url, CATALOG)
    assert len(migrated) > 10
    assert sql(empty_database_url, CATALOG) == migrated


async def test_the_state_is_compressed_with_lz4_where_the_server_has_it(database_url: str) -> None:
    ((has_lz4,),) = sql(
        database_url,
        "SELECT 'lz4' = ANY (enumvals) FROM pg_settings WHERE name = 'default_toast_compression'",
    )
    ((compression,),) = sql(
        database_url,
        "SELECT attcompression::text FROM pg_attribute"
        " WHERE attrelid = 'inversion.entity'::regclass AND attname = 'state'",
    )
    assert compression == ("l" if has_lz4 else "")


@pytest.mark.toolchain("psql")
async def test_the_script_for_a_dba_does_what_migrate_does(
    database_url: str, empty_database_url: str
) -> None:
    script = migrate.script()
    assert script == migrate.script(NAMES)
    assert NAMES[0] not in migrate.script([])
    with trio.fail_after(20):
        await trio.run_process(["psql", "-qX", empty_database_url], stdin=script.encode())
    assert sql(empty_database_url, CATALOG) == sql(database_url, CATALOG)
    records = "SELECT number, name, checksum, needs FROM inversion.migration"
    assert sql(empty_database_url, records) == sql(database_url, records)


def test_the_view_shows_json_and_leaves_what_json_operators_refuse_as_text(database_url: str) -> None:
    sql(
        database_url,
        r"""INSERT INTO inversion.entity (function, key, version, turn, state, updated_at)
            SELECT 'f', key, 1, gen_random_uuid(), state, now()
              FROM (VALUES ('a', '{"n":1E5}'), ('b', '{"n":"\u0000"}'), ('c', NULL)) AS t (key, state)""",
    )
    assert sql(
        database_url, "SELECT key, state ->> 'n', state_text, deleted FROM inversion.entity_json ORDER BY key"
    ) == [
        ("a", "1E5", '{"n":1E5}', False),
        ("b", None, '{"n":"\\u0000"}', False),
        ("c", None, None, True),
    ]


@pytest.mark.parametrize(
    "change", ["DELETE FROM inversion.entity_json", "UPDATE inversion.entity_json SET version = 9"]
)
def test_the_view_is_read_only(database_url: str, change: str) -> None:
    with pytest.raises(Exception, match="not automatically updatable"):
        sql(database_url, change)


def test_the_schema_keeps_to_what_other_databases_of_the_family_have() -> None:
    banned = [
        "REFERENCES",
        "TRIGGER",
        "SEQUENCE",
        "SERIAL",
        "IDENTITY",
        "ENUM",
        "ADVISORY",
        "NOTIFY",
        "PLPGSQL",
    ]
    text = statements.schema().upper() + "".join(m.text.upper() for m in statements.MIGRATIONS)
    assert [word for word in banned if f" {word}" in text] == []
