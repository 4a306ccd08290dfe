"""A proxy between a node and PostgreSQL that understands the wire protocol and spoils a chosen commit.

    async with wire_proxy(database_url) as proxy, start_node(toml, database_url=proxy.url) as node:
        spoil = proxy.spoil_next(Trick.CUT, at=SYNC)   # the next commit, at that message
        await spoil.happened.wait()
        tags = await spoil.release()                   # of what was held back: what the server said to it

The node's side is TCP, so that it can be reset; the server's is what its URL says. A statement is
Bind, Describe, Execute, Sync: up to Execute nothing is locked, at Sync it commits.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from enum import Enum

import attrs
import trio
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from inversion.state import sql

BIND, EXECUTE, SYNC = b"B", b"E", b"S"
_READY, _COMPLETE, _ERROR = b"Z", b"C", b"E"
#: The statements that commit, as they are prepared.
_GATHERING = tuple(statement.name for statement in (*sql.SAYING, sql.SEND))
COMMITS = (
    sql.COMMIT.name,
    sql.COMMIT_ONE.name,
    sql.COMMIT_KEYED.name,
    sql.COMMIT_KEYED_EACH.name,
    sql.COMMIT_KEYED_NEW.name,
    *_GATHERING,
)
#: Those of them whose first parameter is an array, one element for each entity.
_GATHERED = tuple(name for name in COMMITS if name != sql.COMMIT_ONE.name)
_SILENTLY = 19  #: TCP_REPAIR: a socket closed under it says nothing to the other side


class Trick(Enum):
    """What becomes of a commit. `at` is a message of it."""

    CUT = "cut before the message was forwarded"
    CUT_REPLY = "cut after the server had answered, and nobody heard it"
    HOLD = "the node is cut off, the message and what follows are held back until `release`"
    DRIP = "from the message on byte by byte, the reply too"
    SWALLOW = "half-open: from the message on nothing passes, and nobody is told"
    SWALLOW_REPLY = "half-open: the server had it all, its reply does not pass, and nobody is told"
    RESET = "both connections reset before the message was forwarded"
    RESET_REPLY = "the node's connection reset after the server had answered"
    HALVE = "the link dies after so many bytes: no goodbye to the server, the node is cut off"


@attrs.define(eq=False)
class Spoil:
    """One commit that is to be spoiled, and later what was done to it."""

    trick: Trick
    at: bytes = SYNC
    members: int = 1  #: a commit of fewer entities is let pass
    entity: str = ""  #: a commit that does not have this key in it is let pass
    first_bytes: int = 0  #: for HALVE
    then_shut: bool = False  #: from then on the proxy is silent
    happened: trio.Event = attrs.field(factory=trio.Event)
    seen_members: int = 0
    statement_bytes: int = 0
    _link: _Link | None = None
    _rest: bytes = b""

    async def release(self) -> list[bytes]:
        """Give the server what was held back; the tags of what it completed for it."""
        assert self._link is not None
        link = self._link
        link.answered = trio.Event()
        link.tags.clear()
        await link.server.send_all(self._rest)
        with trio.fail_after(20):
            await link.answered.wait()
        await trio.aclose_forcefully(link.server)
        return link.tags

    async def drop(self) -> None:
        """The server never gets what was held back: its connection ends."""
        assert self._link is not None
        await trio.aclose_forcefully(self._link.server)


class _Link:
    """One connection of the node and the server's side of it."""

    def __init__(self, client: trio.SocketStream, server: trio.SocketStream) -> None:
        self.client = client
        self.server = server
        self.mute = False  #: no reply passes any more
        self.dripping = False
        self.held = False  #: the server's side lives on after the client's
        self.answered = trio.Event()  #: ReadyForQuery was seen while mute
        self.tags: list[bytes] = []


class WireProxy:
    """`url` leads to it. `silent`: nothing new of the node passes until `wake`."""

    def __init__(self, url: str) -> None:
        self._server = conninfo_to_dict(url)
        self._listener = trio.socket.socket()
        self.url = url
        self.silent = False
        self.connections = 0
        self._awake = trio.Event()
        self._due: list[Spoil] = []

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        await self._listener.bind(("127.0.0.1", 0))
        self._listener.listen(50)
        port = self._listener.getsockname()[1]
        self.url = make_conninfo(
            **{
                **self._server,
                "host": "127.0.0.1",
                "port": port,
                "sslmode": "disable",
                "gssencmode": "disable",
            }
        )
        await trio.serve_listeners(
            self._serve, [trio.SocketListener(self._listener)], task_status=task_status
        )

    def spoil_next(self, trick: Trick, **how: object) -> Spoil:
        """Spoil the next commit with enough members."""
        spoil = Spoil(trick, **how)  # type: ignore[arg-type]
        self._due.append(spoil)
        return spoil

    def shut(self) -> None:
        """Be silent, until `wake`."""
        self.silent = True
        self._awake = trio.Event()

    def wake(self) -> None:
        self.silent = False
        self._awake.set()

    async def _serve(self, client: trio.SocketStream) -> None:
        self.connections += 1
        if self.silent:
            await self._awake.wait()
        try:
            link = _Link(client, await self._connect())
        except OSError:  # the server is away
            await trio.aclose_forcefully(client)
            return
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._replies, link, nursery.cancel_scope)
                with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                    await self._requests(link)
                if not link.held:
                    nursery.cancel_scope.cancel()
        finally:
            await trio.aclose_forcefully(link.server)
            await trio.aclose_forcefully(client)

    async def _connect(self) -> trio.SocketStream:
        host, port = str(self._server["host"]), int(self._server.get("port") or 5432)
        if host.startswith("/"):
            return await trio.open_unix_socket(f"{host}/.s.PGSQL.{port}")
        return await trio.open_tcp_stream(host, port)

    async def _requests(self, link: _Link) -> None:
        messages = _Messages(begun=False)
        spoil: Spoil | None = None
        statement = b""
        async for chunk in link.client:
            if self.silent:
                await self._awake.wait()
            passing = b""
            for kind, raw in messages.feed(chunk):
                if kind == BIND and self._due:
                    spoil, statement = self._chosen(raw), b""
                if spoil is None:
                    passing += raw
                    continue
                statement += raw
                if spoil.trick is Trick.HALVE:
                    if kind == SYNC:  # all of it is here
                        link.mute = True
                        await link.server.send_all(passing + statement[: spoil.first_bytes])
                        spoil.statement_bytes = len(statement)
                        await self._end(link, spoil)
                        return
                    continue
                if kind == SYNC and spoil.trick in (Trick.CUT_REPLY, Trick.RESET_REPLY, Trick.SWALLOW_REPLY):
                    link.mute, link.held = True, True
                    await link.server.send_all(passing + raw)
                    await link.answered.wait()
                    await self._end(link, spoil)
                    return
                if kind == spoil.at and spoil.trick in (Trick.CUT, Trick.RESET, Trick.HOLD, Trick.SWALLOW):
                    await link.server.send_all(passing)
                    spoil._rest = raw + (await _to_sync(link.client, messages, kind))
                    await self._end(link, spoil)
                    return
                if spoil.trick is Trick.DRIP:
                    link.dripping = link.dripping or kind == spoil.at
                    if link.dripping:
                        await link.server.send_all(passing)
                        passing = b""
                        await _drip(link.server, raw)
                        if kind == SYNC:
                            spoil.happened.set()
                            spoil = None
                        continue
                passing += raw
            await link.server.send_all(passing)

    def _chosen(self, bind: bytes) -> Spoil | None:
        """The spoil that this statement meets, if it is a commit that meets one."""
        members = members_of(bind)
        for spoil in self._due:
            if members >= spoil.members and spoil.entity.encode() in bind:
                self._due.remove(spoil)
                spoil.seen_members = members
                return spoil
        return None

    async def _end(self, link: _Link, spoil: Spoil) -> None:
        """Do to the connections what the trick says. When this returns there are no more requests."""
        spoil._link = link
        if spoil.then_shut:
            self.shut()
        match spoil.trick:
            case Trick.CUT | Trick.CUT_REPLY:
                link.held = False
                await trio.aclose_forcefully(link.client)
            case Trick.RESET | Trick.RESET_REPLY:
                _reset(link.client)
                if spoil.trick is Trick.RESET:
                    _reset(link.server)
                link.held = False
                await trio.aclose_forcefully(link.client)
            case Trick.HOLD:
                link.mute, link.held = True, True
                await trio.aclose_forcefully(link.client)
            case Trick.SWALLOW | Trick.SWALLOW_REPLY:
                link.mute = True
                spoil.happened.set()
                await trio.sleep_forever()
            case Trick.HALVE:
                link.held = False
                await trio.aclose_forcefully(link.client)
                await _part_silently(link.server)
            case _:
                raise AssertionError(spoil.trick)
        spoil.happened.set()

    async def _replies(self, link: _Link, scope: trio.CancelScope) -> None:
        messages = _Messages(begun=True)
        with suppress(trio.BrokenResourceError, trio.ClosedResourceError):
            async for chunk in link.server:
                for kind, raw in messages.feed(chunk):
                    if not link.mute:
                        if link.dripping:
                            await _drip(link.client, raw)
                            link.dripping = kind != _READY
                        else:
                            await link.client.send_all(raw)
                    elif kind == _COMPLETE:
                        link.tags.append(raw[5:-1])
                    elif kind == _ERROR:
                        link.tags.append(raw)
                    elif kind == _READY:
                        link.answered.set()
        scope.cancel()


@asynccontextmanager
async def wire_proxy(url: str) -> AsyncIterator[WireProxy]:
    proxy = WireProxy(url)
    async with trio.open_nursery() as nursery:
        await nursery.start(proxy.run)
        yield proxy
        nursery.cancel_scope.cancel()


def members_of(bind: bytes) -> int:
    """How many entities a Bind message commits; 0: it is of no commit."""
    _portal, name, rest = bind[5:].split(b"\0", 2)
    if name not in COMMITS:
        return 0
    if name not in _GATHERED:
        return 1
    (formats,) = struct.unpack_from(">H", rest)
    dimensions, _flags, _type, size = struct.unpack_from(">iiIi", rest, 2 + 2 * formats + 2 + 4)
    return size if dimensions else 1  # no entity: the record of a stateless call


class _Messages:
    """Cuts a stream of one direction into messages; the frontend's first one has no type."""

    def __init__(self, *, begun: bool) -> None:
        self._begun = begun
        self._left = b""

    def feed(self, chunk: bytes) -> Iterator[tuple[bytes, bytes]]:
        self._left += chunk
        while True:
            type_bytes = 1 if self._begun else 0
            if len(self._left) < type_bytes + 4:
                return
            (length,) = struct.unpack_from(">i", self._left, type_bytes)
            end = type_bytes + length
            if len(self._left) < end:
                return
            raw, self._left = self._left[:end], self._left[end:]
            self._begun = True
            yield (raw[:1] if type_bytes else b""), raw


async def _to_sync(client: trio.SocketStream, messages: _Messages, kind: bytes) -> bytes:
    """The rest of a statement, up to its Sync."""
    rest = b""
    chunk = b""
    while kind != SYNC:
        for kind, raw in messages.feed(chunk):  # noqa: B007 (looked at in the loop's head)
            rest += raw
        if kind != SYNC and not (chunk := await client.receive_some(65536)):
            break
    return rest


async def _drip(stream: trio.SocketStream, raw: bytes) -> None:
    for place in range(len(raw)):
        await stream.send_all(raw[place : place + 1])


def _reset(stream: trio.SocketStream) -> None:
    """Closing it now sends RST."""
    if stream.socket.family != socket.AF_UNIX:
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


async def _part_silently(stream: trio.SocketStream) -> None:
    """Close it without FIN or RST, when the other side has acknowledged all: its next probe learns it."""
    while _unacknowledged(stream):  # noqa: ASYNC110 (the kernel sets no Event)
        await trio.sleep(0.005)
    stream.socket.setsockopt(socket.IPPROTO_TCP, _SILENTLY, 1)
    stream.socket.close()


def _unacknowledged(stream: trio.SocketStream) -> int:
    """Segments under way: tcpi_unacked of struct tcp_info."""
    info = stream.socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 104)
    return int(struct.unpack_from("I", info, 24)[0])
