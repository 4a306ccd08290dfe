"""The schema's migrations: numbered SQL, applied once, several nodes at once are fine.

The bookkeeping tables first, then one transaction: a lock on a *row* (an advisory lock would not survive a
pooler), what is missing, a record with a checksum for each. `check` is what `serve` asks; it changes
nothing. A release runs on a newer schema too, unless a migration that it does not know forbids it.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

import attrs

from inversion.state import sql
from inversion.state.dialing import Settings
from inversion.state.postgres import Connection, StatementFailed

#: Another node may be at a long migration: wait for it, but not for ever.
_SETTINGS: Final = Settings(lock_timeout_s=60.0, statement_timeout_s=600.0, reply_timeout_s=660.0)
#: Two nodes that make the bookkeeping at the same moment: `IF NOT EXISTS` does not keep them apart.
_RACED: Final = ("23505", "42P06", "42P07", "40001", "40P01")
_TRIES: Final = 20
_KNOWN: Final = {migration.number: migration for migration in sql.MIGRATIONS}


class SchemaError(Exception):
    """The database's schema is not the one of this program."""


class NotMigrated(SchemaError):
    """Migrations are missing."""


class SchemaTooNew(SchemaError):
    """A newer inversion migrated this database, and says that this one cannot serve it any more."""


class SchemaChanged(SchemaError):
    """A migration was applied from another text than the one of this program."""


@attrs.frozen(slots=True)
class _Entry:
    """A migration as the database has it; one that says nothing of `needs` needs itself."""

    number: int
    name: str
    checksum: str
    needs: int


async def migrate(conninfo: str) -> list[str]:
    """Apply what is missing; the names of what this call applied, in order."""
    connection = await Connection.open(conninfo, _SETTINGS)
    try:
        await _keep_books(connection)
        await connection.run_script("BEGIN")
        await connection.execute(sql.CLAIM)
        missing = _missing(await _applied(connection))
        if missing:
            await apply_schema(connection, sql.BOOKKEEPING_NEEDS)
        for migration in missing:
            await apply_schema(connection, migration.text)
            number, needs = (struct.pack(">i", each) for each in (migration.number, migration.needs))
            await connection.execute(
                sql.RECORD, [number, migration.name.encode(), migration.checksum.encode(), needs]
            )
        await connection.run_script("COMMIT")
        return [migration.name for migration in missing]
    finally:
        connection.close()


async def pending(conninfo: str) -> list[str]:
    """The names of the migrations that are missing; changes nothing."""
    connection = await Connection.open(conninfo, _SETTINGS)
    try:
        applied = await _applied(connection)
    finally:
        connection.close()
    return [migration.name for migration in _missing(applied)]


async def check(connection: Connection) -> Sequence[str]:
    """The names of newer migrations, beside which this program may serve.

    Raises NotMigrated, SchemaTooNew or SchemaChanged if it may not.
    """
    applied = await _applied(connection)
    missing = [migration.name for migration in _missing(applied)]
    if missing:
        raise NotMigrated(
            f"the database lacks {', '.join(missing)}: run `inversion migrate`, "
            "or give a DBA what `inversion migrate --print` prints"
        )
    return [entry.name for entry in _newer(applied)]


def script(names: Sequence[str] | None = None) -> str:
    """The SQL of these migrations (None: of all) for psql, as one transaction, bookkeeping included."""
    chosen = [m.for_psql for m in sql.MIGRATIONS if names is None or m.name in names]
    begin = ["\\set ON_ERROR_STOP on", "BEGIN;", sql.BOOKKEEPING.strip(), f"{sql.CLAIM.text.decode()};"]
    needs = [step.for_psql for step in sql.steps(sql.BOOKKEEPING_NEEDS)]
    return "\n\n".join([*begin, *needs, *chosen, "COMMIT;", ""])


async def apply_schema(connection: Connection, text: str) -> None:
    """Run a script of ours step by step, conditional steps only where they hold."""
    for step in sql.steps(text):
        condition = step.condition
        if condition is not None and (await connection.execute(condition)).texts() != [("true",)]:
            continue
        await connection.run_script(step.text)


async def _keep_books(connection: Connection) -> None:
    for _ in range(_TRIES):
        if await _has_books(connection):
            return
        try:
            await connection.run_script(sql.BOOKKEEPING)
        except StatementFailed as failure:
            if failure.sqlstate not in _RACED:
                raise


async def _has_books(connection: Connection) -> bool:
    return (await connection.execute(sql.HAS_BOOKKEEPING)).texts() == [("true",)]


async def _applied(connection: Connection) -> Sequence[_Entry]:
    if not await _has_books(connection):
        return []
    rows = (await connection.execute(sql.APPLIED)).texts()
    return [
        _Entry(int(number or 0), name or "", checksum or "", int(needs or number or 0))
        for number, name, checksum, needs in rows
    ]


def _newer(applied: Sequence[_Entry]) -> Sequence[_Entry]:
    """Those that this program does not know."""
    return [entry for entry in applied if entry.number not in _KNOWN]


def _missing(applied: Sequence[_Entry]) -> list[sql.Migration]:
    for entry in _newer(applied):
        if entry.needs > max(_KNOWN):
            raise SchemaTooNew(
                f"the database has migration {entry.name}, which only an inversion that knows migration "
                f"{entry.needs} may serve; this one knows {max(_KNOWN)}: run a newer one"
            )
    for entry in applied:
        known = _KNOWN.get(entry.number)
        if known is not None and known.checksum != entry.checksum:
            raise SchemaChanged(
                f"migration {known.name} was applied from another text than this inversion's: "
                "was the file or the table inversion.migration edited?"
            )
    return [migration for number, migration in _KNOWN.items() if number not in {e.number for e in applied}]
