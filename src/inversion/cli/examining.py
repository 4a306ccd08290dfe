"""The command that says what holds on this host, before anything is started."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from inversion import json_text, open_files
from inversion.cli.printing import EXIT_ANSWER, json_option, write_findings
from inversion.config import Config
from inversion.config_file import FILE_NAME, ConfigError, load
from inversion.config_guess import guess

if TYPE_CHECKING:
    from inversion.doctor.finding import Finding


@click.command()
@click.argument("path", default=Path(), type=click.Path(path_type=Path))
@click.option(
    "--database-url",
    envvar=["INVERSION_DATABASE_URL", "DATABASE_URL"],
    metavar="URL",
    help="Look at this database, not at the embedded one. [env: DATABASE_URL]",
)
@click.option("--host", envvar="INVERSION_HOST", default="127.0.0.1", show_default=True)
@click.option("--port", envvar=["INVERSION_PORT", "PORT"], type=click.IntRange(0, 65_535), default=8080)
@click.option("--admin-host", envvar="INVERSION_ADMIN_HOST", default="127.0.0.1", show_default=True)
@click.option("--admin-port", envvar="INVERSION_ADMIN_PORT", type=click.IntRange(0, 65_535), default=9080)
@json_option
def doctor(
    path: Path,
    database_url: str | None,
    host: str,
    port: int,
    admin_host: str,
    admin_port: int,
    as_json: bool,
) -> None:
    """What holds on this host: PostgreSQL, sandbox, limits, ports, and whether functions run.

    PATH is a folder with inversion.toml (default: this one), or one file that can be run. Each line is ok,
    warn or fail, with a remedy. Exit code 1 when something fails.
    """
    import trio

    from inversion.doctor import host as doctor_host
    from inversion.doctor.finding import Finding, Verdict
    from inversion.observe import logs

    logs.configure(logs.Style.READABLE, sys.stderr, level=logs.Level.ERROR)
    open_files.raise_limit()
    read = _config(path)
    config = Config(folder=path if path.is_dir() else path.parent) if isinstance(read, Finding) else read
    findings = doctor_host.examine(
        config.folder.absolute(),
        config.limits,
        {"--port": (host, port), "--admin-port": (admin_host, admin_port)},
        embedded=database_url is None,
    )
    findings += _database(config, database_url)
    if isinstance(read, Finding):
        findings.append(read)
    else:
        from inversion.doctor import functions

        findings += trio.run(functions.examine, config)
    well = all(finding.verdict is not Verdict.FAIL for finding in findings)
    if as_json:
        click.echo(json_text.encode({"ok": well, "findings": [_as_json(each) for each in findings]}).decode())
    else:
        write_findings(
            [
                (
                    each.name,
                    each.verdict.value,
                    logs.escape(each.sentence),
                    each.remedy and logs.escape(each.remedy),
                )
                for each in findings
            ]
        )
    sys.exit(0 if well else EXIT_ANSWER)


def _config(path: Path) -> Config | Finding:
    from inversion.doctor.finding import fail, warn

    file = path / FILE_NAME if path.is_dir() else path
    if not file.exists() and path == Path():
        return warn(
            "functions",
            f"there is no {FILE_NAME} in this folder: no function was tried",
            "name the folder: inversion doctor PATH",
        )
    try:
        return load(path) if path.is_dir() or path.suffix == ".toml" else guess(path).config
    except ConfigError as error:
        return fail("functions", "; ".join(error.faults), f"correct {file}")


def _database(config: Config, url: str | None) -> list[Finding]:
    import trio

    from inversion.doctor import database

    if url is None:
        return list(database.examine_embedded(config.folder))
    return trio.run(database.examine, url)


def _as_json(finding: Finding) -> dict[str, object]:
    return {
        "name": finding.name,
        "verdict": finding.verdict.value,
        "sentence": finding.sentence,
        "remedy": finding.remedy,
    }
