"""The commands that serve: `dev` on a laptop, `serve` in production.

Both turn flags, environment and inversion.toml into a Config and app.Options and hand them to app.serve,
which also minds the signals: the first drains, the second ends it at once.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import attrs
import click

from inversion import open_files, privacy
from inversion.cli.printing import EXIT_ABSENT, EXIT_ANSWER, EXIT_USAGE, fail, json_option, write_table
from inversion.cli.secret import admin_token, database_option
from inversion.config import Config, Mode
from inversion.config_file import FILE_NAME, ConfigError, load

if TYPE_CHECKING:
    from inversion.app import Started
    from inversion.opening import Options
    from inversion.reload.reloader import Origin

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

#: What a shell reports of a program that ended by SIGINT.
_EXIT_INTERRUPTED = 130
_PORT = click.IntRange(0, 65_535)
#: More than any host has cores; each holds memory and database connections of its own.
_MOST_NODES = 256


def _serving_options(command: FunctionT) -> FunctionT:
    options = [
        click.option(
            "--host", envvar="INVERSION_HOST", default="127.0.0.1", show_default=True, help="Ingress."
        ),
        click.option(
            "--port",
            envvar=["INVERSION_PORT", "PORT"],
            type=_PORT,
            default=8080,
            show_default=True,
            help="Ingress.",
        ),
        click.option(
            "--admin-host",
            envvar="INVERSION_ADMIN_HOST",
            default="127.0.0.1",
            show_default=True,
            help="Health, metrics, commands.",
        ),
        click.option(
            "--admin-port",
            envvar="INVERSION_ADMIN_PORT",
            type=_PORT,
            default=9080,
            show_default=True,
            help="Health, metrics, commands.",
        ),
        database_option,
        click.option(
            "--config",
            "config_path",
            envvar="INVERSION_CONFIG",
            metavar="FILE",
            type=click.Path(path_type=Path),
            help=f"Default: ./{FILE_NAME}",
        ),
        click.option(
            "--nodes",
            envvar="INVERSION_NODES",
            type=click.IntRange(1, _MOST_NODES),
            default=1,
            show_default=True,
            help="So many nodes serve the port, each a process of its own; for hosts with more cores.",
        ),
        click.option("--migrate", is_flag=True, help="Apply the migrations that are missing, then start."),
    ]
    for option in reversed(options):
        command = option(command)
    return command


@click.command()
@click.argument("path", required=False, type=click.Path(path_type=Path))
@_serving_options
@click.option(
    "--mode",
    type=click.Choice([each.value for each in Mode]),
    help="How to run one FILE; guessed from its text.",
)
@json_option
def dev(path: Path | None, config_path: Path | None, mode: str | None, as_json: bool, **flags: Any) -> None:
    """Everything on a laptop: an embedded PostgreSQL, migrations, hot reload, readable logs.

    PATH is a folder with inversion.toml (default: this one), or one file that can be run: dev ./counter.py.
    With --database-url or DATABASE_URL that database is used, and migrated only with --migrate.
    """
    if path is not None and config_path is not None:
        raise click.UsageError("give PATH or --config, not both")
    path = path or config_path or Path()
    how = None if mode is None else Mode(mode)
    try:
        config, note = configured(path, how)
    except ConfigError as error:
        fail(str(error), EXIT_USAGE)
    _run(config, source=(path, how), as_json=as_json, note=note, **flags)


@click.command()
@_serving_options
def serve(config_path: Path | None, **flags: Any) -> None:
    """Production: JSON logs on standard output; needs a database URL and a migrated schema.

    The first SIGTERM or SIGINT drains: what was accepted is answered. The second ends it at once.
    """
    if flags["database_url"] is None:
        raise click.UsageError("serve needs a database: --database-url or DATABASE_URL (dev brings its own)")
    try:
        config = load(config_path or Path())
    except ConfigError as error:
        fail(str(error), EXIT_USAGE)
    _run(config, source=None, as_json=True, note=None, **flags)


def origin_of(path: Path, mode: Mode | None) -> Origin:
    """What `dev` watches, and how it reads that again."""
    from inversion.reload.reloader import Origin

    file = path / FILE_NAME if path.is_dir() else path
    return Origin(file.absolute(), lambda: configured(path, mode)[0])


def configured(path: Path, mode: Mode | None) -> tuple[Config, str | None]:
    """The config of a folder, an inversion.toml or one file, and what was guessed. Raises ConfigError."""
    if path.is_dir() or path.suffix == ".toml":
        if mode is not None:
            raise click.UsageError(f"--mode is for one file; {path} says the mode of each function itself")
        return load(path), None
    from inversion.config_guess import guess

    found = guess(path, mode)
    return found.config, found.reason


def _run(
    config: Config,
    *,
    source: tuple[Path, Mode | None] | None,
    as_json: bool,
    note: str | None,
    nodes: int,
    **flags: Any,
) -> None:
    """`source`: for `dev`, where the config came from."""
    from inversion import app
    from inversion.observe import logs
    from inversion.opening import Options

    dev = source is not None
    style = logs.Style.JSON if as_json else logs.Style.READABLE
    logs.configure(style, sys.stdout if as_json else sys.stderr)
    get_ready(config, dev=dev)
    options = Options(dev=dev, admin_token=admin_token(), **flags)
    on_started = partial(_log_started, options) if as_json else partial(_show_started, config, note)
    if nodes == 1:
        reload = None if source is None else origin_of(*source)
        end_as(app.serve, config, attrs.evolve(options, reload=reload), on_started)
    else:
        from inversion.nodes import parent
        from inversion.nodes.charge import Charge, Source

        charge = Charge(
            config=config,
            options=options,
            source=None if source is None else Source(*source),
            listening=(),
            environ=dict(os.environ),
            style=style,
            colour=logs.is_coloured(),
        )
        end_as(parent.serve, charge, nodes, on_started)


def get_ready(config: Config, *, dev: bool) -> None:
    """What a process that serves does to itself."""
    from inversion.observe import logs

    if not dev:  # on a laptop there is no secret, but perhaps a debugger
        privacy.keep_memory_private()
    files = open_files.raise_limit()
    if (lack := open_files.lack(files)) is not None:
        fail(lack, EXIT_ABSENT)
    if files < config.limits.connections:
        logs.get_logger("cli").warning(
            "few open files are allowed: raise `ulimit -n`, or lower limits.connections",
            allowed=files,
            connections=config.limits.connections,
        )


def end_as(serve: Callable[..., Awaitable[bool]], *arguments: object, told: bool = False) -> None:
    """Serve to the end, and end the command with the status that tells how it was.

    `told`: why it cannot start is known already to whoever started it.
    """
    import trio

    from inversion.observe import logs
    from inversion.opening import StartError

    try:
        drained = trio.run(serve, *arguments)
    except StartError as error:
        if told:
            raise SystemExit(EXIT_ABSENT) from None
        fail(str(error), EXIT_ABSENT)
    except KeyboardInterrupt:
        raise SystemExit(_EXIT_INTERRUPTED) from None
    finally:
        logs.flush()
    if not drained:
        raise SystemExit(EXIT_ANSWER)


def _show_started(config: Config, note: str | None, started: Started) -> None:
    """The start of `dev`, for people."""
    from inversion.cli.banner import curl_line

    click.echo(f"\ninversion is up   {click.style(started.url, bold=True)}")
    socket = "" if started.socket_path is None else f"  and  {started.socket_path}"
    click.echo(f"admin             {started.admin_url}{socket}")
    if started.nodes > 1:
        click.echo(f"nodes             {started.nodes}")
    click.echo(f"database          {started.database}\n")
    write_table(started.functions)
    if note is not None:
        click.echo(f"\n  guessed: {note}")
    runs = {name: started.hellos.get(name) for name, ok, _ in started.functions if ok}
    line = curl_line(started.url, config, runs)
    if line is None:
        click.echo("\nno function runs: see above for what each of them needs\n")
    else:
        click.echo(f"\ntry               {click.style(line, bold=True)}")
        click.echo("\nWhat you save is taken up at once. Ctrl-C stops.\n")


def _log_started(options: Options, started: Started) -> None:
    """The start of `serve`, for machines."""
    from inversion.observe import logs

    log = logs.get_logger("cli")
    log.info(
        "started",
        url=started.url,
        admin_url=started.admin_url,
        database=started.database,
        dev=options.dev,
        nodes=started.nodes,
    )
    for name, ok, sentence in started.functions:
        tell = log.info if ok else log.warning
        tell("function", function=name, runs=ok, sentence=sentence)
