"""The command that brings a database's schema up to date, or prints how."""

from __future__ import annotations

import click

from inversion import json_text
from inversion.cli.printing import EXIT_ABSENT, EXIT_ANSWER, fail, json_option
from inversion.cli.secret import database_option


@click.command()
@database_option
@click.option("--print", "print_only", is_flag=True, help="Print the SQL, for a DBA; touches no database.")
@json_option
def migrate(database_url: str | None, print_only: bool, as_json: bool) -> None:
    """Apply the schema migrations that are missing; several at once do no harm."""
    from inversion.state import migrate as migrations

    if print_only:
        script = migrations.script()
        click.echo(json_text.encode({"sql": script}).decode() if as_json else script)
        return
    if database_url is None:
        raise click.UsageError("which database? Give --database-url or set DATABASE_URL")
    import trio

    from inversion.state.dialing import ConnectionLost, UnfitServer
    from inversion.state.postgres import StatementFailed

    try:
        applied = trio.run(migrations.migrate, database_url)
    except migrations.SchemaError as error:
        fail(str(error), EXIT_ANSWER)
    except (ConnectionLost, StatementFailed, UnfitServer) as error:
        fail(f"the database does not let us in: {error}", EXIT_ABSENT)
    if as_json:
        click.echo(json_text.encode({"applied": applied}).decode())
    else:
        click.echo(f"applied {', '.join(applied)}" if applied else "nothing to do: the schema is up to date")
