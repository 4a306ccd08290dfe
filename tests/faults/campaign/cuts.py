"""Between a node and its PostgreSQL: forwards bytes, and cuts connections at commits and at leases.

It learns from Parse messages which prepared statements write entities, whatever they are called, which of
those leave no record of a key and consume nothing, and which change only who has a message. A cut is planned
for the next ones that pass whole: lost before the server saw it, at once or after a while; lost after the
server did it, a while later; delivered after the client was cut off and has moved on; cut while the server is
at work on it; or held, so that the client hears nothing.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from enum import Enum
from pathlib import Path
from typing import Final

import psycopg
import trio
from psycopg.conninfo import conninfo_to_dict, make_conninfo

SOCKET: Final = ".s.PGSQL.5432"
_SYNC: Final = b"S\0\0\0\x04"
_PARSE: Final = re.compile(rb"P....(inversion_\w+)\0([^\0]*)\0", re.DOTALL)
_WRITES: Final = (b"INSERT INTO inversion.entity", b"UPDATE inversion.entity")
#: What can be found again when the entity has moved on, by its record or by what it consumed.
_TRACES: Final = (b"inversion.request", b"inversion.message")
_LEASES: Final = (b"UPDATE inversion.message", b"UPDATE inversion.timer")
BYTES: Final = 1 << 16
#: Somebody holds the table for so long: less than what a commit waits for a lock.
AT_WORK_S: Final = (0.05, 0.25)
#: Those who ask another node have written twice meanwhile; less than most callers wait.
OTHERS_S: Final = (0.6, 2.0)
_LOCK: Final = "SET lock_timeout = 250; LOCK TABLE inversion.entity IN SHARE MODE"


class Kind(Enum):
    """Of what passes."""

    COMMIT = "commit"
    PLAIN_COMMIT = "commit that leaves no trace but the entity"
    LEASE = "lease"


class Cut(Enum):
    REQUEST_LOST = "commit lost before the server saw it"
    SWALLOWED = "commit held, then lost before the server saw it"
    REPLY_LOST = "commit lost after the server did it"
    DELAYED = "commit delivered after the cut"
    AT_WORK = "commit cut while the server is at work on it"
    HELD = "commit's reply held"
    PLAIN_REPLY_LOST = "commit without a trace lost after the server did it, and others go on"
    LEASE_REPLY_LOST = "lease lost after the server did it"
    LEASE_DELAYED = "lease delivered after the cut"

    @property
    def of(self) -> Kind:
        match self:
            case Cut.LEASE_REPLY_LOST | Cut.LEASE_DELAYED:
                return Kind.LEASE  # of messages: claimed, renewed, given back
            case Cut.PLAIN_REPLY_LOST:
                return Kind.PLAIN_COMMIT
            case _:
                return Kind.COMMIT


class Wire:
    """One node's way to the database."""

    def __init__(self, url: str, folder: Path, roll: Callable[[float, float], float]) -> None:
        self._direct = url
        server = conninfo_to_dict(url)
        self._server = f"{server['host']}/.s.PGSQL.{server.get('port') or 5432}"
        self._socket = folder / SOCKET
        self._roll = roll
        self._names: dict[Kind, set[bytes]] = {kind: set() for kind in Kind}
        self.url = make_conninfo(url, host=str(folder), port="5432")
        self.planned: Cut | None = None
        self.left = 0
        self.cuts: Counter[Cut] = Counter()
        self._nursery: trio.Nursery

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        listener = trio.socket.socket(trio.socket.AF_UNIX)
        await listener.bind(str(self._socket))
        listener.listen(50)
        async with trio.open_nursery() as self._nursery:
            await trio.serve_listeners(self._serve, [trio.SocketListener(listener)], task_status=task_status)

    def plan(self, cut: Cut, times: int) -> None:
        self.planned, self.left = cut, times

    def _take(self, request: bytes) -> Cut | None:
        """The cut for what is about to pass."""
        self._learn(request)
        if self.left == 0 or self.planned is None or not self._is_whole(request, self.planned.of):
            return None
        self.left -= 1
        self.cuts[self.planned] += 1
        return self.planned

    async def _serve(self, client: trio.SocketStream) -> None:
        try:
            server = await trio.open_unix_socket(self._server)
        except OSError:
            await trio.aclose_forcefully(client)
            return
        delivered_later = False
        try:
            async with trio.open_nursery() as nursery:
                replies = trio.CancelScope()
                nursery.start_soon(self._forward_replies, server, client, replies, nursery.cancel_scope)
                delivered_later = await self._forward_requests(client, server, replies)
                nursery.cancel_scope.cancel()
        finally:  # no await: the first would end it all when everything is cancelled
            client.socket.close()
            if not delivered_later:
                server.socket.close()

    async def _forward_requests(
        self, client: trio.SocketStream, server: trio.SocketStream, replies: trio.CancelScope
    ) -> bool:
        """Until the client ends or is cut off. True: the server has still to get something."""
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for request in client:
                match self._take(request):
                    case None:
                        await server.send_all(request)
                    case Cut.REQUEST_LOST:
                        return False
                    case Cut.SWALLOWED:
                        await trio.sleep(self._roll(0.1, 1.8))
                        return False
                    case Cut.REPLY_LOST | Cut.LEASE_REPLY_LOST:
                        replies.cancel()
                        await server.send_all(request)
                        with trio.move_on_after(5):
                            await server.receive_some(BYTES)
                        await trio.sleep(self._roll(0.0, 1.2) ** 2)  # the entity may move on meanwhile
                        return False
                    case Cut.PLAIN_REPLY_LOST:
                        replies.cancel()
                        await server.send_all(request)
                        await trio.sleep(self._roll(*OTHERS_S))
                        return False
                    case Cut.HELD:
                        replies.cancel()
                        await server.send_all(request)
                        await trio.sleep(self._roll(0.5, 8.0))
                        return False
                    case Cut.DELAYED | Cut.LEASE_DELAYED:
                        replies.cancel()
                        self._nursery.start_soon(_deliver, server, request, self._roll(0.01, 1.5))
                        return True
                    case Cut.AT_WORK:
                        replies.cancel()
                        await self._nursery.start(self._lock, self._roll(*AT_WORK_S))
                        self._nursery.start_soon(_deliver, server, request, 0.0)
                        return True
        return False

    async def _forward_replies(
        self,
        server: trio.SocketStream,
        client: trio.SocketStream,
        replies: trio.CancelScope,
        connection: trio.CancelScope,
    ) -> None:
        with replies, suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for reply in server:
                await client.send_all(reply)
        if not replies.cancelled_caught:
            connection.cancel()  # the server has ended it

    async def _lock(
        self, hold_s: float, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED
    ) -> None:
        """Let nobody write entities for so long."""
        try:
            lock = await trio.to_thread.run_sync(_locked, self._direct)
        except psycopg.Error:  # the server is away, or somebody else is at it
            task_status.started()
            return
        task_status.started()
        try:
            await trio.sleep(hold_s)
        finally:
            lock.close()

    def _learn(self, request: bytes) -> None:
        for name, text in _PARSE.findall(request):
            if any(write in text for write in _WRITES):
                self._names[Kind.COMMIT].add(name)
                if not any(trace in text for trace in _TRACES):
                    self._names[Kind.PLAIN_COMMIT].add(name)
            elif any(write in text for write in _LEASES):
                self._names[Kind.LEASE].add(name)

    def _is_whole(self, request: bytes, kind: Kind) -> bool:
        """Whether these bytes are a whole one of that kind."""
        names = self._names[kind]
        return request.endswith(_SYNC) and any(b"\0" + name + b"\0" in request for name in names)


def _locked(url: str) -> psycopg.Connection:
    connection = psycopg.connect(url, connect_timeout=5)
    try:
        connection.execute(_LOCK)
    except psycopg.Error:
        connection.close()
        raise
    return connection


async def _deliver(server: trio.SocketStream, request: bytes, after_s: float) -> None:
    """What was under way in the network when the client was cut off."""
    try:
        await trio.sleep(after_s)
        with trio.move_on_after(5), suppress(trio.BrokenResourceError):
            await server.send_all(request)
            await server.receive_some(BYTES)
    finally:
        await trio.aclose_forcefully(server)
