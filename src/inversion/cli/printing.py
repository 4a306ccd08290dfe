"""What the commands print, and how they end when something is wrong.

People get sentences (on a terminal with colours from rich, imported only then, never with NO_COLOR),
machines get `--json`. Answers go to standard output, complaints to standard error.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn, TypeVar

import click

#: The answer was an error.
EXIT_ANSWER: Final = 1
#: Wrong usage, a wrong inversion.toml included. click ends with it as well.
EXIT_USAGE: Final = 2
#: No server, or no database.
EXIT_ABSENT: Final = 3

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])


def json_option(command: FunctionT) -> FunctionT:
    """The `--json` that every printing command has."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")(command)


def fail(sentence: str, code: int) -> NoReturn:
    """End the command with a complaint and an exit code."""
    for line in sentence.splitlines():
        click.echo(f"inversion: {line}", err=True)
    sys.exit(code)


def is_terminal() -> bool:
    """Whether colours are welcome on standard output."""
    return sys.stdout.isatty() and "NO_COLOR" not in os.environ


def write_bytes(data: bytes) -> None:
    """An answer as it came; on a terminal the prompt gets a line of its own."""
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()
    if sys.stdout.isatty() and not data.endswith(b"\n"):
        click.echo()


def write_findings(findings: Sequence[tuple[str, str, str, str | None]]) -> None:
    """What `doctor` found: name, verdict, a sentence, and a remedy where one is needed."""
    if is_terminal():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        colours = {"ok": "green", "warn": "yellow", "fail": "bold red"}
        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        for name, verdict, sentence, remedy in findings:
            text = Text(sentence)
            if remedy is not None:
                text.append(f"\n-> {remedy}", "italic")
            table.add_row(Text(f"  {verdict}", colours[verdict]), Text(name, "bold"), text)
        Console().print(table)
        return
    width = max((len(name) for name, *_ in findings), default=0)
    for name, verdict, sentence, remedy in findings:
        click.echo(f"  {verdict:<4}  {name:<{width}}  {sentence}")
        if remedy is not None:
            click.echo(f"  {'':<4}  {'':<{width}}  -> {remedy}")


def write_table(rows: Sequence[tuple[str, bool, str]]) -> None:
    """Functions: name, whether it runs, a sentence."""
    if is_terminal():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        for name, runs, sentence in rows:
            style = "green" if runs else "red"
            table.add_row(
                Text(f"  {name}", "bold"), Text("runs" if runs else "does not run", style), Text(sentence)
            )
        Console().print(table)
        return
    width = max((len(name) for name, _, _ in rows), default=0)
    for name, runs, sentence in rows:
        click.echo(f"  {name:<{width}}  {'runs' if runs else 'does not run':<12}  {sentence}")
