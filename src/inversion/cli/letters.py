"""`inversion messages`: what waits and what died, and what is to become of it."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import urlencode

import click

from inversion.cli.asking import ask, body, door_option, end
from inversion.cli.door import Reply, target
from inversion.cli.printing import is_terminal, json_option, write_bytes

#: Facts of `show`, in this order, where there are any.
_FACTS: Final = (
    ("kind", "kind"),
    ("name", "timer"),
    ("handler", "handler"),
    ("sender", "sent by"),
    ("reply_to", "reply to"),
    ("answers", "answer to"),
    ("attempts", "attempts"),
    ("failures", "failures"),
    ("born_at", "born"),
    ("due_at", "due"),
    ("owner", "held by node"),
    ("died_at", "died"),
)
_HEADINGS: Final = ("FUNCTION", "KEY", "ID", "KIND", "WHEN", "ATTEMPTS", "LAST ERROR", "HELD BY")


@click.group()
def messages() -> None:
    """Messages that wait, and dead letters: those that were given up."""


@messages.command("list")
@click.argument("function", required=False)
@click.argument("key", required=False)
@click.option("--dead", is_flag=True, help="Dead letters, not messages and timers that wait.")
@click.option("--limit", type=click.IntRange(1, 1_000), default=100, show_default=True, help="So many.")
@click.option("--after", metavar="PLACE", help="Go on where the list before ended.")
@door_option
@json_option
def list_(
    function: str | None,
    key: str | None,
    dead: bool,
    limit: int,
    after: str | None,
    admin_url: str | None,
    as_json: bool,
) -> None:
    """List what waits for FUNCTION (for its entity KEY), by the time when it is due; a - is no key."""
    asked = {
        "function": function,
        "key": key,
        "dead": "true" if dead else None,
        "limit": limit,
        "after": after,
    }
    query = urlencode({name: value for name, value in asked.items() if value is not None})
    reply = ask(admin_url, "GET", f"/v1/messages?{query}")
    if as_json:
        write_bytes(reply.body + b"\n")
    end(reply, quiet=as_json)
    if as_json:
        return
    page = json.loads(reply.body)
    _write_rows([_row(letter) for letter in page["messages"]])
    if page["next"] is not None:
        click.echo(f"there are more: --after {page['next']}", err=True)


@messages.command()
@click.argument("function")
@click.argument("key")
@click.argument("id")
@door_option
@json_option
def show(function: str, key: str, id: str, admin_url: str | None, as_json: bool) -> None:
    """Show one message, timer or dead letter of FUNCTION and KEY (- for none) with its body."""
    reply = ask(admin_url, "GET", target("v1", "messages", function, key, id))
    if as_json:
        write_bytes(reply.body + b"\n")
    end(reply, quiet=as_json)
    if as_json:
        return
    letter = json.loads(reply.body)
    for name, words in _FACTS:
        if letter[name] is not None:
            click.echo(f"{words + ':':<13} {letter[name]}")
    error = letter["error"] or {}
    for name, value in error.items():
        text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        indented = text.replace("\n", "\n" + " " * 14)
        click.echo(f"{name.replace('_', ' ') + ':':<13} {indented}")
    click.echo(f"{'body:':<13} {json.dumps(letter['body'], ensure_ascii=False)}")


@messages.command()
@click.argument("function")
@click.argument("key", required=False)
@click.argument("id", required=False)
@click.option("--all", "whole", is_flag=True, help="All dead letters of FUNCTION, or of its entity KEY.")
@door_option
@json_option
def retry(
    function: str, key: str | None, id: str | None, whole: bool, admin_url: str | None, as_json: bool
) -> None:
    """Make a dead letter a message again: FUNCTION KEY ID, or FUNCTION [KEY] --all.

    It goes before what its sender has waiting for the same entity, and is tried as often as a new one. Who
    waits for its answer gets it, although the error was said before.
    """
    _decide("retry", function, key, id, whole, admin_url, as_json)


@messages.command()
@click.argument("function")
@click.argument("key", required=False)
@click.argument("id", required=False)
@click.option("--all", "whole", is_flag=True, help="All dead letters of FUNCTION, or of its entity KEY.")
@door_option
@json_option
def drop(
    function: str, key: str | None, id: str | None, whole: bool, admin_url: str | None, as_json: bool
) -> None:
    """Delete a dead letter: FUNCTION KEY ID, or FUNCTION [KEY] --all."""
    _decide("drop", function, key, id, whole, admin_url, as_json)


@messages.command()
@click.argument("function")
@click.argument("key")
@click.argument("id")
@click.option("-d", "--data", metavar="BODY", help="The new body; @FILE reads a file, @- standard input.")
@door_option
@json_option
def edit(function: str, key: str, id: str, data: str | None, admin_url: str | None, as_json: bool) -> None:
    """Make a dead letter a message again, with another body: JSON, checked before anything is done.

    The body is -d, or what stands on standard input; on a terminal the old one is opened in $EDITOR.
    """
    path = target("v1", "messages", function, key, id)
    if data is None and sys.stdin is not None and sys.stdin.isatty():
        reply = ask(admin_url, "GET", path)
        end(reply, quiet=False)
        old = json.dumps(json.loads(reply.body)["body"], ensure_ascii=False, indent=2)
        text = click.edit(old, extension=".json")
        if text is None:
            raise click.UsageError("nothing was changed, so nothing is done; `retry` tries it as it is")
        new = text.encode()
    else:
        new = body(data)
    if not new.strip():
        raise click.UsageError("there is no body: JSON is wanted, null is one")
    _tell(ask(admin_url, "POST", f"{path}/retry", new), "retry", as_json)


def _decide(
    verb: str,
    function: str,
    key: str | None,
    id: str | None,
    whole: bool,
    admin_url: str | None,
    as_json: bool,
) -> None:
    if whole == (id is not None):
        raise click.UsageError("which one? FUNCTION KEY ID, or FUNCTION [KEY] --all")
    if key is not None and id is not None:
        path = target("v1", "messages", function, key, id)
        if verb == "retry":
            _tell(ask(admin_url, "POST", f"{path}/retry", b""), verb, as_json)
        else:
            _tell(ask(admin_url, "DELETE", path), verb, as_json)
        return
    asked, count, more = {"function": function} | ({} if key is None else {"key": key}), 0, True
    while more:
        reply = ask(admin_url, "POST", f"/v1/messages/{verb}?{urlencode(asked)}", b"")
        if as_json and reply.status != 200:
            write_bytes(reply.body + b"\n")
        end(reply, quiet=as_json)
        said = json.loads(reply.body)
        count += said[_DONE[verb]]
        more, asked["before"] = said["more"], said["before"]
    _write_count(verb, count, as_json)


def _tell(reply: Reply, verb: str, as_json: bool) -> None:
    if as_json and reply.status != 200:
        write_bytes(reply.body + b"\n")
    end(reply, quiet=as_json)
    _write_count(verb, 1, as_json)


_DONE: Final = {"retry": "retried", "drop": "dropped"}


def _write_count(verb: str, count: int, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({_DONE[verb]: count}))
    else:
        click.echo(f"{count} dead letter{'' if count == 1 else 's'} {_DONE[verb]}")


def _row(letter: Mapping[str, object]) -> Sequence[str]:
    error = letter["error"]
    words = f"{error.get('code')}: {error.get('message')}" if isinstance(error, dict) else ""
    when = letter["died_at"] or letter["due_at"]
    kind = letter["kind"] if letter["name"] is None else f"timer {letter['name']}"
    shown = (
        letter["function"],
        letter["key"] or "-",
        letter["id"],
        kind,
        str(when)[:19] + "Z",
        letter["attempts"],
        words.replace("\n", " ")[:60],
        str(letter["owner"] or "")[:8],
    )
    return [str(value) for value in shown]


def _write_rows(rows: Sequence[Sequence[str]]) -> None:
    if is_terminal():
        from rich.console import Console
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, padding=(0, 2, 0, 0))
        for heading in _HEADINGS:
            table.add_column(heading, overflow="fold", no_wrap=heading in ("ID", "WHEN"))
        for row in rows:
            table.add_row(*map(Text, row))
        Console().print(table)
        return
    widths = [max(map(len, column)) for column in zip(_HEADINGS, *rows, strict=True)]
    for row in (_HEADINGS, *rows):
        click.echo("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
