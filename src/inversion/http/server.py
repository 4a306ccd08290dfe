"""A listening socket and the connections that come through it.

`open_tcp` and `open_unix` bind (and say what to do when they cannot); `Server.serve` accepts until
`close`, then answers what was read, lets idle clients go and returns when the last connection ended.
After `drain` it still hears everybody, but each answer is the last of its connection.
One sweeper task ends waits whose deadline has passed. Two servers run on a node: ingress and admin.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import stat
from collections.abc import Sequence
from email.utils import formatdate
from functools import partial
from pathlib import Path
from time import monotonic
from typing import Final, Protocol

import attrs
import trio

from inversion.errors import Code, RequestRefused
from inversion.gate import Walk
from inversion.http.connection import Connection
from inversion.http.service import Application, Counters, Deadlines, Held, Phase, Service
from inversion.observe.logs import get_logger
from inversion.watch import Watch

_log = get_logger("http")

#: Connections the kernel keeps while we are busy; it caps this with net.core.somaxconn.
_BACKLOG: Final = 1_024
#: The kernel gives up a client that does not take what we have handed over, also after we closed: inherited
#: by what is accepted. As long as `Deadlines.send_s`.
_USER_TIMEOUT_MS: Final = 30_000
#: Taken in one go before other tasks run.
_ACCEPTS_PER_PASS: Final = 64
#: Where several nodes accept from one socket: the next one is for whoever has time for it.
_SHARED_ACCEPTS_PER_PASS: Final = 1
#: After EMFILE: some descriptor may be free by then, and the loop is not kept busy failing.
_ACCEPT_PAUSE_S: Final = 0.1
_OUT_OF_RESOURCES: Final = frozenset((errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM))
#: sun_path of Linux, less its closing NUL.
_MAX_SOCKET_PATH_BYTES: Final = 107
#: What a connection is in that will give an answer without hearing more than a body.
_ANSWERING: Final = frozenset((Phase.BODY, Phase.CALL, Phase.SEND))
#: How late the sweeper may find a deadline; also how old a Date field may be.
_SWEEP_S: Final = 1.0


class CannotListen(OSError):
    """An address could not be had. The text names it and the remedy."""

    def __str__(self) -> str:
        return self.strerror or ""  # the number says nothing to people


class Accepting(Protocol):
    """A listening socket, or what gives connections in its place."""

    def accept(self) -> tuple[socket.socket, object]: ...

    def fileno(self) -> int: ...

    def close(self) -> None: ...


@attrs.frozen(slots=True, eq=False)
class Listener:
    """Sockets that listen as one: several when a name has several addresses."""

    sockets: Sequence[Accepting]
    path: Path | None = None  #: of a unix socket
    inode: int = 0  #: of its file
    port: int = 0  #: what was really bound: for port 0 the kernel chose it

    def close(self) -> None:
        """Stop listening; a unix socket's file goes too, if it is still this one's."""
        for sock in self.sockets:
            sock.close()
        if self.path is not None:
            with contextlib.suppress(FileNotFoundError):
                if self.path.lstat().st_ino == self.inode:
                    self.path.unlink()


def open_tcp(host: str, port: int, flag: str = "--port") -> Listener:
    """Listen on every address of `host`. `flag` is the option that the remedy names."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    except OSError as error:
        raise CannotListen(
            error.errno, f"cannot listen on {host}: {error.strerror}: correct the host"
        ) from None
    sockets: list[socket.socket] = []
    try:
        for family, kind, protocol, _, (ip, _port, *scope) in dict.fromkeys(found):
            # Port 0: the kernel chooses for the first address, the others follow.
            chosen = sockets[0].getsockname()[1] if sockets else port
            sock = socket.socket(family, kind, protocol)
            sockets.append(sock)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit it
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind((ip, chosen, *scope))
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, _USER_TIMEOUT_MS)
            sock.listen(_BACKLOG)
            sock.setblocking(False)
    except OSError as error:
        for sock in sockets:
            sock.close()
        raise CannotListen(error.errno, _why_not(host, port, flag, error)) from None
    return Listener(sockets, port=sockets[0].getsockname()[1])


def _why_not(host: str, port: int, flag: str, error: OSError) -> str:
    where = f"port {port} on {host}"
    if error.errno == errno.EADDRINUSE:
        return f"{where} is taken by another program: stop it, or choose another port with {flag}"
    if error.errno == errno.EACCES:
        return f"{where} may not be used by this user: choose one from 1024 up with {flag}"
    return f"cannot listen on {where}: {error.strerror}"


def open_unix(path: Path) -> Listener:
    """Listen on a socket file that only this user can open. A stale file is replaced, a live one is not."""
    if len(os.fsencode(path)) > _MAX_SOCKET_PATH_BYTES:
        raise CannotListen(
            errno.ENAMETOOLONG,
            f"the socket path {path} is longer than {_MAX_SOCKET_PATH_BYTES} bytes: use a shorter folder",
        )
    _make_way(path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)  # bind creates the file with these permissions: never a moment open to others
    try:
        sock.bind(os.fspath(path))
        sock.listen(_BACKLOG)
    except OSError as error:
        sock.close()
        raise CannotListen(error.errno, f"cannot listen on {path}: {error.strerror}") from None
    finally:
        os.umask(before)
    sock.setblocking(False)
    return Listener([sock], path, path.lstat().st_ino)


def _make_way(path: Path) -> None:
    try:
        mode = path.lstat().st_mode
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(mode):
        raise CannotListen(errno.EEXIST, f"{path} exists and is not a socket: move it away")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(os.fspath(path))
        except (ConnectionRefusedError, FileNotFoundError):
            path.unlink(missing_ok=True)
            return
        except OSError as error:
            raise CannotListen(error.errno, f"cannot tell who uses {path}: {error.strerror}") from None
    raise CannotListen(errno.EADDRINUSE, f"another inversion listens on {path}: stop it first")


class Server:
    """Serves one application through one listener."""

    def __init__(
        self,
        application: Application,
        *,
        watch: Watch,
        body_bytes: int,
        connections: int,
        deadlines: Deadlines | None = None,
        held: Held | None = None,
        shares: bool = False,
        streamed: bytes | None = None,
    ) -> None:
        """`held` is shared by the servers of a node. `shares`: other nodes accept from the same socket.
        `streamed`: what the paths begin with whose bodies go on as they come."""
        self._most = connections
        self._most_accepts = _SHARED_ACCEPTS_PER_PASS if shares else _ACCEPTS_PER_PASS
        self._service = Service(application, watch, body_bytes, deadlines or Deadlines(), held or Held())
        self._service.streamed = streamed
        self._connections: set[Connection] = set()
        self._gone = trio.Event()  #: the last connection has ended
        self._accepting = trio.CancelScope()
        self._is_short = False  #: of files or memory, since the last accept; said once
        self._sweep_s = min(_SWEEP_S, self._service.deadlines.shortest_s / 4)

    @property
    def counters(self) -> Counters:
        """For the metrics. Live, not a copy."""
        return self._service.counters

    @property
    def answering(self) -> bool:
        """Whether some client is owed an answer."""
        return any(connection.phase in _ANSWERING for connection in self._connections)

    async def serve(
        self, listener: Listener, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Accept and answer until `close`; returns when nobody is left. Closes the listener."""
        self._set_date()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._sweep)
                with self._accepting:
                    async with trio.open_nursery() as acceptors:
                        for sock in listener.sockets:
                            acceptors.start_soon(self._accept, sock)
                        task_status.started()
                for sock in listener.sockets:
                    self._accept_waiting(sock)  # closing the listener would reset them
                listener.close()
                for connection in tuple(self._connections):
                    if connection.phase is Phase.IDLE:
                        connection.interrupt()
                while self._connections:
                    self._gone = trio.Event()
                    await self._gone.wait()
                nursery.cancel_scope.cancel()
        finally:
            listener.close()
            for connection in tuple(self._connections):  # one whose socket is lent ends its walk
                connection.close()

    def drain(self) -> None:
        """From now on answer with `Connection: close`; whoever comes is still heard."""
        self._service.draining = True

    def close(self) -> None:
        """Accept no more, let idle clients go, answer the rest with `Connection: close`."""
        self._service.draining = True
        self._accepting.cancel()

    async def _accept(self, listening: Accepting) -> None:
        while True:
            await trio.lowlevel.wait_readable(listening)
            if not self._accept_waiting(listening):
                await trio.sleep(_ACCEPT_PAUSE_S)

    def _accept_waiting(self, listening: Accepting) -> bool:
        """Take those who have come, not too many in one go. False: something to take them with is short."""
        for _ in range(self._most_accepts):
            try:
                sock, _address = listening.accept()
            except BlockingIOError:
                break
            except OSError as error:
                if error.errno not in _OUT_OF_RESOURCES:
                    continue  # this client gave up while it was queued
                self.counters.accept_failures += 1
                if not self._is_short:
                    _log.warning("cannot accept connections; trying again", reason=error.strerror)
                self._is_short = True
                return False
            self._is_short = False
            sock.setblocking(False)
            if len(self._connections) >= self._most:
                self._turn_away(sock)
            else:
                self._begin(Connection(sock, self._service))
        return True

    def _begin(self, connection: Connection) -> None:
        self._connections.add(connection)
        self.counters.connections_total += 1
        self.counters.connections_open += 1
        walk: Walk[object, object] = Walk(connection.run(), partial(self._ended, connection))
        walk.start()

    def _ended(self, connection: Connection, error: Exception | None) -> None:
        if error is not None:
            _log.error("a connection ended with a bug", exc_info=error)
        self.counters.connections_open -= 1
        self._connections.discard(connection)
        if not self._connections:
            self._gone.set()

    def _turn_away(self, sock: socket.socket) -> None:
        """Over the limit: one answer, as far as it fits, and no walk."""
        self.counters.connections_refused += 1
        error = RequestRefused(
            Code.QUEUE_FULL,
            f"this door has {self._most} connections (limits.connections); try again",
            retry_after_s=1,
        )
        Connection(sock, self._service).turn_away(error)

    async def _sweep(self) -> None:
        """Find the connections whose deadline has passed, and keep the Date field young."""
        while True:
            await trio.sleep(self._sweep_s)
            self._set_date()
            now_s = monotonic()
            late = [connection for connection in self._connections if connection.deadline_s < now_s]
            for connection in late:
                connection.interrupt()

    def _set_date(self) -> None:
        self._service.date_line = f"Date: {formatdate(usegmt=True)}\r\n".encode("ascii")
