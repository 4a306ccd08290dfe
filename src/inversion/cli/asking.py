"""Commands that ask a running server: invoke, send, state get, health."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar
from urllib.parse import quote

import click

from inversion import json_text
from inversion.cli.door import Door, NoServer, Reply, target
from inversion.cli.printing import EXIT_ABSENT, EXIT_ANSWER, fail, json_option, write_bytes
from inversion.cli.secret import admin_token

FunctionT = TypeVar("FunctionT", bound=Callable[..., Any])

#: A probe that has to wait this long has its answer.
_HEALTH_TIMEOUT_S = 5.0
#: The answer to a message that is durable and will be delivered.
_SENT: Final = 202


def door_option(command: FunctionT) -> FunctionT:
    """Where the server is, for every command that asks one."""
    return click.option(
        "--admin-url",
        envvar="INVERSION_ADMIN_URL",
        metavar="URL",
        help="The server's admin door; default: the socket .inversion/admin.sock here or above. "
        "The token comes from INVERSION_ADMIN_TOKEN or INVERSION_ADMIN_TOKEN_FILE.",
    )(command)


@click.command()
@click.argument("function")
@click.argument("key", required=False)
@click.argument("handler", required=False)
@click.option("-d", "--data", metavar="BODY", help="The body; @FILE reads a file, @- standard input.")
@click.option(
    "--idempotency-key", metavar="K", help="The same key again gets the same answer; it is applied once."
)
@door_option
@json_option
def invoke(
    function: str,
    key: str | None,
    handler: str | None,
    data: str | None,
    idempotency_key: str | None,
    admin_url: str | None,
    as_json: bool,
) -> None:
    """Call FUNCTION, with the state of KEY, at HANDLER (default: call).

    The body is -d, or what stands on standard input. A function with `state = false` has no key: its
    handler comes right after its name.
    """
    path = target("v1", "call", *(part for part in (function, key, handler) if part is not None))
    headers = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
    reply = ask(admin_url, "POST", path, body(data), headers)
    if as_json:
        _write_json(reply, "response")
    elif reply.status == 200:
        write_bytes(reply.body)
    end(reply, quiet=as_json)


@click.command()
@click.argument("function")
@click.argument("key", required=False)
@click.argument("handler", required=False)
@click.option("-d", "--data", metavar="BODY", help="The body, JSON; @FILE reads a file, @- standard input.")
@click.option("--delay", metavar="DURATION", help="Not before so long from now: 500ms, 10s, 24h.")
@click.option("--at", metavar="TIME", help="Not before then: 2026-11-24T02:11:00Z.")
@click.option("--idempotency-key", metavar="K", help="The same key again is the same message.")
@door_option
@json_option
def send(
    function: str,
    key: str | None,
    handler: str | None,
    data: str | None,
    delay: str | None,
    at: str | None,
    idempotency_key: str | None,
    admin_url: str | None,
    as_json: bool,
) -> None:
    """Send FUNCTION, with the state of KEY, at HANDLER (default: call) a message, and do not wait.

    It is durable when the command ends; what is printed is where its answer will be. The body is -d, or what
    stands on standard input.
    """
    if delay is not None and at is not None:
        raise click.UsageError("--delay and --at: one of them says when")
    path = target("v1", "send", *(part for part in (function, key, handler) if part is not None))
    for name, value in (("delay", delay), ("at", at)):
        if value is not None:
            path += f"?{name}={quote(value, safe='')}"
    headers = {} if idempotency_key is None else {"Idempotency-Key": idempotency_key}
    reply = ask(admin_url, "POST", path, body(data), headers)
    if as_json:
        _write_json(reply, "sent")
    elif reply.status == _SENT:
        click.echo(reply.headers.get("location", ""))
    end(reply, quiet=as_json)


@click.group()
def state() -> None:
    """Look at the states of entities."""


@state.command("get")
@click.argument("function")
@click.argument("key")
@door_option
@json_option
def state_get(function: str, key: str, admin_url: str | None, as_json: bool) -> None:
    """Print the state of FUNCTION's entity KEY."""
    reply = ask(admin_url, "GET", target("v1", "state", function, key))
    if as_json:
        _write_json(reply, "state")
    elif reply.status == 200:
        write_bytes(reply.body)
    end(reply, quiet=as_json)


@click.command()
@door_option
@json_option
def health(admin_url: str | None, as_json: bool) -> None:
    """Exit with 0 when the server is ready, 1 when it is not, 3 when there is none."""
    door = Door.find(admin_url, None, Path.cwd())
    try:
        reply = door.request("GET", "/readyz", timeout_s=_HEALTH_TIMEOUT_S)
    except NoServer as error:
        fail(str(error), EXIT_ABSENT)
    ready = reply.status == 200
    if as_json:
        click.echo(json_text.encode({"ready": ready, "door": door.place, "status": reply.status}).decode())
    else:
        said = reply.body.decode("utf-8", "replace").strip()
        click.echo(f"{'ready' if ready else 'not ready'}: {door.place}" + ("" if ready else f": {said}"))
    sys.exit(0 if ready else EXIT_ANSWER)


def body(data: str | None) -> bytes:
    """What -d says; without it, what stands on standard input."""
    if data is None:
        return b"" if sys.stdin is None or sys.stdin.isatty() else sys.stdin.buffer.read()
    if data == "@-":
        return sys.stdin.buffer.read()
    if not data.startswith("@"):
        return os.fsencode(data)
    try:
        return Path(data[1:]).read_bytes()
    except OSError as error:
        raise click.UsageError(f"-d {data}: {error.strerror}") from None


def ask(
    admin_url: str | None,
    method: str,
    path: str,
    body: bytes | None = None,
    headers: Mapping[str, str] | None = None,
) -> Reply:
    """One question to the server; without one the command ends."""
    try:
        return Door.find(admin_url, admin_token(), Path.cwd()).request(method, path, body, headers=headers)
    except NoServer as error:
        fail(str(error), EXIT_ABSENT)


def _write_json(reply: Reply, name: str) -> None:
    """One object: what the headers say, and the body under `name`, or under `error`."""
    told: dict[str, object] = {"status": reply.status}
    told["id"] = reply.headers.get("inversion-id")
    told["outcome"] = reply.headers.get("inversion-outcome")
    version = reply.headers.get("etag", "").strip('"')
    told["version"] = int(version) if version.isdigit() else None
    head = json_text.encode(told)
    if "json" in reply.headers.get("content-type", ""):
        body = reply.body or b"null"
    else:
        body = json_text.encode(reply.body.decode("utf-8", "replace"))
    name = name if reply.status in (200, _SENT) else "error"
    write_bytes(b'%b,"%b":%b}\n' % (head[:-1], name.encode(), body))


def end(reply: Reply, *, quiet: bool) -> None:
    """The command ends here if the answer is an error, with its words unless they were printed."""
    if reply.status in (200, _SENT):
        return
    if quiet:
        sys.exit(EXIT_ANSWER)
    problem = _problem(reply)
    if problem is None:
        fail(f"status {reply.status}: {reply.body.decode('utf-8', 'replace').strip()}", EXIT_ANSWER)
    about = f"status {reply.status}, outcome {problem.get('outcome')}, id {problem.get('id')}"
    fail(f"{problem['code']}: {problem.get('detail')} ({about})", EXIT_ANSWER)


def _problem(reply: Reply) -> Mapping[str, object] | None:
    """The members of a problem body; None: something else answered."""
    try:
        problem = json.loads(reply.body)
    except ValueError:
        return None
    return problem if isinstance(problem, dict) and "code" in problem else None
