"""What stands before anything is served: the options, the doors and the database.

A port that is taken must not cost an initdb, so the doors come first. Used by one node (app.py) and by the
parent of several (nodes/parent.py).
"""

from __future__ import annotations

import contextlib
import errno
from collections.abc import Sequence
from functools import partial
from typing import Final

import attrs
import trio

from inversion.config import Config
from inversion.embedded import EmbeddedPostgres, EmbeddedUnavailable
from inversion.http.server import CannotListen, Listener, open_tcp, open_unix
from inversion.observe import logs
from inversion.reload.reloader import Origin
from inversion.state.dialing import ConnectionLost, UnfitServer
from inversion.state.migrate import SchemaError, migrate
from inversion.state.postgres import StatementFailed

#: A root or a folder that is read-only, or somebody else's.
_NOT_WRITABLE: Final = frozenset((errno.EROFS, errno.EACCES, errno.EPERM))

_log = logs.get_logger("node")


class StartError(Exception):
    """The node cannot start; the message says why and what to do."""


@attrs.frozen(slots=True)
class Options:
    """What the command line and the environment decide."""

    host: str = "127.0.0.1"
    port: int = 8080
    admin_host: str = "127.0.0.1"
    admin_port: int = 9080
    database_url: str | None = attrs.field(default=None, repr=False)  #: None: the embedded PostgreSQL
    dev: bool = False
    migrate: bool = False
    admin_token: str | None = attrs.field(default=None, repr=False)
    reload: Origin | None = None  #: watch this config and its code, and take up what changes
    doors: Sequence[Listener] | None = None  #: of a parent: its port, and what it asks this node


@attrs.frozen(slots=True)
class Database:
    """Where the states lie."""

    conninfo: str = attrs.field(repr=False)
    sentence: str  #: for people
    embedded: EmbeddedPostgres | None = None


def listen(config: Config, options: Options, closing: contextlib.ExitStack) -> Sequence[Listener]:
    """The ingress, the admin port and, where its folder can be written, the socket of commands here."""
    listeners = []
    for open_door in (
        partial(open_tcp, options.host, options.port),
        partial(open_tcp, options.admin_host, options.admin_port, "--admin-port"),
        partial(_open_socket, config, options),
    ):
        if (listener := open_door()) is not None:
            listeners.append(listener)
            closing.callback(listener.close)
    return listeners


def _open_socket(config: Config, options: Options) -> Listener | None:
    """For commands on this host. None: the folder cannot be written, so they ask over TCP."""
    path = config.folder / ".inversion" / "admin.sock"
    try:
        path.parent.mkdir(mode=0o700, exist_ok=True)
        return open_unix(path)
    except OSError as error:
        if isinstance(error, CannotListen) and error.errno not in _NOT_WRITABLE:
            raise
        if options.database_url is None:
            raise StartError(
                f"{path.parent} cannot be used ({error.strerror}), and the embedded database lies there: "
                "give the folder to this user, move away what is in its place, or give --database-url"
            ) from None
        _log.info(
            "no admin socket: commands on this host ask over TCP", path=str(path), reason=error.strerror
        )
        return None


async def open_database(config: Config, options: Options, nursery: trio.Nursery) -> Database:
    """The database that the options name, or the embedded one, which `nursery` then runs."""
    url = options.database_url
    if url is not None:
        if options.migrate:
            for name in await migrate(url):
                _log.info("migrated", migration=name)
        return Database(url, logs.mask(url))
    embedded = EmbeddedPostgres(config.folder / ".inversion", log=_log.warning)
    conninfo: str = await nursery.start(embedded.run)
    await migrate(conninfo)
    return Database(conninfo, f"embedded, {embedded.place}", embedded)


def url_of(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


#: What may go wrong at start and is no bug: the message says what to do.
_START_FAILURES: Final = (
    StartError,
    CannotListen,
    EmbeddedUnavailable,
    SchemaError,
    UnfitServer,
    ConnectionLost,
    StatementFailed,
)


def start_error(group: BaseExceptionGroup[BaseException]) -> StartError | None:
    """The one failure in a nursery's group that a person can act on, if that is what it is."""
    found, rest = group.split(_START_FAILURES)
    if rest is not None:  # it may have been cancelled in the same moment
        rest = rest.split(trio.Cancelled)[1]
    if found is None or rest is not None:
        return None
    error: BaseException = found
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return StartError(logs.mask(str(error)))
