"""A unix socket between a store and its server that can lose, hold and delay what passes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import trio
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from walking import running

from inversion.config import Limits
from inversion.state import sql
from inversion.state.store import PostgresStore
from inversion.watch import Watch

SOCKET_NAME = ".s.PGSQL.5432"
_BIND = b"B"
#: The statements that commit.
COMMITS = (sql.COMMIT.name, sql.COMMIT_ONE.name)


class Proxy:
    """Forwards bytes. The plans are for the next message that holds a marker; each works once."""

    def __init__(self, url: str, folder: Path, *markers: bytes) -> None:
        server = conninfo_to_dict(url)
        self._server = f"{server['host']}/.s.PGSQL.{server.get('port') or 5432}"
        self._folder = folder
        self._markers = markers
        self.url = make_conninfo(url, host=str(folder), port="5432")
        self.lose_request = False  #: cut before the server has seen it
        self.lose_reply = False  #: the server has done it, nobody hears of it
        self.hold_reply = False  #: the server has done it, nobody hears anything
        self.delay_request = False  #: cut the client off, deliver when `release` is called
        self.refuse_options = False  #: as a pooler does
        self.silent = False  #: accept and say nothing
        self.cuts = 0
        self.happened = trio.Event()
        self._talks = trio.lowlevel.ParkingLot()
        self._held: list[tuple[trio.SocketStream, bytes]] = []

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        listener = trio.socket.socket(trio.socket.AF_UNIX)
        await listener.bind(str(self._folder / SOCKET_NAME))
        listener.listen(20)
        try:
            await trio.serve_listeners(self._serve, [trio.SocketListener(listener)], task_status=task_status)
        finally:
            (self._folder / SOCKET_NAME).unlink()

    def wake(self) -> None:
        """Be silent no more."""
        self.silent = False
        self._talks.unpark_all()

    async def release(self) -> None:
        """Let the server have what was held back; returns when it has answered or closed."""
        for server, request in self._held:
            await server.send_all(request)
            await server.receive_some(65536)
            await server.aclose()
        self._held.clear()

    async def _serve(self, client: trio.SocketStream) -> None:
        if self.silent:
            try:
                await self._talks.park()
            except BaseException:
                await trio.aclose_forcefully(client)
                raise
        server = await trio.open_unix_socket(self._server)
        losing = trio.Event()  # the next reply is not to arrive
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._replies, client, server, losing, nursery.cancel_scope)
                await self._requests(client, server, losing)
                if not losing.is_set():
                    nursery.cancel_scope.cancel()
        finally:
            if all(server is not held for held, _ in self._held):
                await trio.aclose_forcefully(server)
            await trio.aclose_forcefully(client)

    async def _requests(
        self, client: trio.SocketStream, server: trio.SocketStream, losing: trio.Event
    ) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for request in client:
                if self.refuse_options and b"options\0" in request:
                    await client.send_all(_fatal(b"08P01", b"unsupported startup parameter: options"))
                    return
                marked = request[:1] == _BIND and any(marker in request for marker in self._markers)
                if marked and self.lose_request:
                    self.lose_request = False
                    self._cut()
                    return
                if marked and self.delay_request:
                    self.delay_request = False
                    self._held.append((server, request))
                    self._cut()
                    return
                if marked and (self.lose_reply or self.hold_reply):
                    losing.set()
                await server.send_all(request)

    async def _replies(
        self,
        client: trio.SocketStream,
        server: trio.SocketStream,
        losing: trio.Event,
        scope: trio.CancelScope,
    ) -> None:
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for reply in server:
                if losing.is_set() and self.hold_reply:
                    self.hold_reply = False
                    self.happened.set()
                    continue
                if losing.is_set():
                    self.lose_reply = False
                    self._cut()
                    break
                await client.send_all(reply)
        scope.cancel()

    def _cut(self) -> None:
        self.cuts += 1
        self.happened.set()


def _fatal(sqlstate: bytes, message: bytes) -> bytes:
    fields = b"SFATAL\0VFATAL\0C" + sqlstate + b"\0M" + message + b"\0\0"
    return b"E" + (len(fields) + 4).to_bytes(4, "big") + fields


@asynccontextmanager
async def through_proxy(url: str, folder: Path) -> AsyncIterator[tuple[PostgresStore, Proxy]]:
    """A store with one committer behind a proxy that can play its tricks on commits."""
    proxy = Proxy(url, folder, *COMMITS)
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.run)
        async with running(PostgresStore(proxy.url, Limits(), Watch(), committers=1)) as store:
            yield store, proxy
        nursery.cancel_scope.cancel()
