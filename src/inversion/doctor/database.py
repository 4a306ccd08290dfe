"""The database: the embedded PostgreSQL that `dev` would start, or the one that a URL names."""

from __future__ import annotations

import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

from inversion.doctor.finding import Finding, fail, ok, warn
from inversion.embedded import EmbeddedUnavailable, find_binaries
from inversion.embedded.place import STATE_FOLDER, UNPRIVILEGED_USER, namespaces_work
from inversion.observe import logs
from inversion.state import sql
from inversion.state.dialing import ConnectionLost, Settings, UnfitServer
from inversion.state.migrate import NotMigrated, SchemaError, check
from inversion.state.postgres import Connection, StatementFailed

#: A node opens four; people, migrations and a second node during a deploy want some as well.
_SPARE_CONNECTIONS = 10


def examine_embedded(folder: Path) -> Iterator[Finding]:
    """What `dev` would find in `.inversion` and on this host."""
    try:
        found = find_binaries()
    except EmbeddedUnavailable as error:
        yield fail("postgresql", "none to embed was found", str(error))
        return
    yield ok("postgresql", f"{found.version}, {found.source.value}: {found.folder}")
    mark = folder / ".inversion" / "postgres" / "PG_VERSION"
    if mark.exists() and (made_by := mark.read_text().strip()) != str(found.major):
        yield fail(
            "data folder",
            f"{mark.parent} was made by PostgreSQL {made_by}",
            f"set INVERSION_PG_BIN to the bin folder of a PostgreSQL {made_by}, or move the folder away",
        )
    if os.geteuid() == 0:
        if namespaces_work(found):
            yield ok("root", "PostgreSQL refuses uid 0 and runs in a user namespace")
        else:
            yield warn(
                "root",
                f"user namespaces are refused: PostgreSQL runs as {UNPRIVILEGED_USER}, below {STATE_FOLDER}",
                "start as an ordinary user, or allow them (sysctl kernel.unprivileged_userns_clone=1, "
                "user.max_user_namespaces)",
            )


async def examine(url: str) -> list[Finding]:
    """What `serve` would find at this URL. Changes nothing."""
    settings = Settings()
    try:
        connection = await Connection.open(url, settings, explain=True)
    except ConnectionLost as error:
        remedy = (
            "correct the user, its password or the database in the URL, or let it in (pg_hba.conf)"
            if error.unwelcome
            else "start it, correct the URL, or open the way to it; it must be a primary"
        )
        return [fail("database", f"{logs.mask(url)}: {logs.mask(str(error))}", remedy)]
    except UnfitServer as error:
        return [fail("database", f"{logs.mask(url)}: {logs.mask(str(error))}", "change that, or use another")]
    try:
        return [each async for each in _findings(connection, settings, logs.mask(url))]
    except (ConnectionLost, StatementFailed) as error:
        remedy = f"if the role lacks rights: {sql.grant_all('ROLE')}; else look at the server's log"
        return [fail("database", f"{logs.mask(url)}: {error}", remedy)]
    finally:
        connection.close()


async def _findings(connection: Connection, settings: Settings, shown: str) -> AsyncIterator[Finding]:
    (row,) = (await connection.execute(sql.DIAGNOSIS)).texts()
    version, role, most, used, synchronous_commit = (value or "" for value in row)
    yield ok("database", f"{shown}: PostgreSQL {version}, fsync on, UTF8, a primary; role {role}")
    if synchronous_commit == "off":
        yield warn(
            "durability",
            "synchronous_commit is off: a crash of the server may lose the last acknowledged changes",
            sql.alter_role(role, {"synchronous_commit": "on"}),
        )
    else:
        yield ok("durability", f"fsync is on, synchronous_commit is {synchronous_commit}")
    if connection.pooler:
        yield warn(
            "pooler",
            "something between us refuses startup options: statements are sent unnamed, without time limits",
            f"set them for the role: {sql.alter_role(role, settings.values)}",
        )
    spare = int(most) - int(used)
    sentence = f"{used} of {most} are in use"
    if spare < _SPARE_CONNECTIONS:
        yield warn("connections", sentence, "raise max_connections, or put a pooler in front")
    else:
        yield ok("connections", sentence)
    try:
        newer = await check(connection)
    except NotMigrated as error:
        yield fail("schema", str(error).partition(":")[0], "run `inversion migrate`")
        return
    except SchemaError as error:
        yield fail("schema", str(error), "run the inversion that fits, or restore the schema")
        return
    (answer,) = (await connection.execute(sql.MAY_WRITE)).texts()
    if answer != ("true",):
        yield fail("schema", f"role {role} may not write its tables", sql.grant_all(role))
        return
    yield ok(
        "schema", f"is newer, this inversion may serve it: {', '.join(newer)}" if newer else "is up to date"
    )
