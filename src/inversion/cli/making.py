"""The command that makes a new function which runs at once."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import tomllib
from pathlib import Path

import click

from inversion import json_text, templates
from inversion.cli.printing import EXIT_ANSWER, EXIT_USAGE, fail, json_option
from inversion.config_file import FILE_NAME, ConfigError, load
from inversion.names import NAME


@click.command()
@click.argument("name")
@click.option("--lang", "language_name", default="python", metavar="LANGUAGE", show_default=True)
@json_option
def init(name: str, language_name: str, as_json: bool) -> None:
    """A new function: a folder NAME with a counter and its shim, yours to change.

    Beside an inversion.toml it becomes one more function of that project, else the folder is a project.
    """
    known = templates.languages()
    if (language := known.get(language_name)) is None:
        raise click.UsageError(f"no language {language_name!r}; there are {', '.join(known)}")
    if NAME.fullmatch(name) is None:
        raise click.UsageError(f"{name!r} is no function's name: [a-z][a-z0-9_-]*, at most 63")
    folder, config = Path(name), Path(FILE_NAME)
    if folder.exists():
        fail(f"{name} is here already; nothing was changed", EXIT_USAGE)
    made = templates.made(language, name, name if config.exists() else "")
    text = _extended(config, name, made.section) if config.exists() else made.section
    try:
        folder.mkdir()
        for file, content in made.files.items():
            (folder / file).write_bytes(content)
        (config if config.exists() else folder / FILE_NAME).write_text(text, encoding="utf-8")
    except OSError as error:
        fail(f"{error.filename or name} cannot be written: {error.strerror}", EXIT_ANSWER)
    missing = [program for program in language.needs if shutil.which(program) is None]
    built = made.build is None or (not missing and _build(made.build, folder, as_json))
    if as_json:
        told = {
            "folder": name,
            "files": sorted(made.files),
            "language": language.name,
            "build": made.build,
            "test": made.test,
            "built": built,
            "missing": missing,
        }
        click.echo(json_text.encode(told).decode())
    else:
        _tell(name, language, made, missing, beside=not (folder / FILE_NAME).exists())
    if not built and not missing:
        fail(f"the build did not succeed; in {name}: {made.build}", EXIT_ANSWER)


def _extended(config: Path, name: str, section: str) -> str:
    """The text of inversion.toml with one more function; nothing is written when it would not do."""
    try:
        before = config.read_text(encoding="utf-8")
        if "functions" in tomllib.loads(before) and name in load(config).functions:
            fail(f"{FILE_NAME} has a function {name} already; nothing was changed", EXIT_USAGE)
    except (ConfigError, ValueError, OSError) as error:
        fail(f"{FILE_NAME}: {error}; nothing was changed", EXIT_USAGE)
    text = f"{before.rstrip()}\n\n{section}" if before.strip() else section
    try:
        tomllib.loads(text)
    except tomllib.TOMLDecodeError:
        fail(f"{FILE_NAME} cannot be continued with a table; write it so:\n{section.rstrip()}", EXIT_USAGE)
    return text


def _build(line: str, folder: Path, quiet: bool) -> bool:
    """Run the build as a user would. What it prints goes to standard error."""
    if not quiet:
        click.echo(f"building: {line}")
    done = subprocess.run(["sh", "-c", line], cwd=folder, stdout=2, check=False)
    return done.returncode == 0


def _tell(
    name: str, language: templates.Language, made: templates.Made, missing: list[str], *, beside: bool
) -> None:
    click.echo(f"made {name}/ ({language.title}): {', '.join(sorted(made.files))}")
    if missing:
        click.echo(f"it needs {', '.join(missing)}, which is not on PATH")
    within = f"cd {shlex.quote(name)} && "
    if missing and made.build is not None:
        click.echo(f"build it: ({within}{made.build})")
    if made.test is not None:
        click.echo(f"test it:  ({within}{made.test})")
    click.echo(f"run it:   {'' if beside else within}inversion dev")
    click.echo(f"call it:  curl -d 2 http://127.0.0.1:8080/v1/call/{name}/tea/add")
