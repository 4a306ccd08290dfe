"""The world outside: names that stand for what a test says, and servers that answer as they are told."""

from __future__ import annotations

import socket
import ssl
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Any

import attrs
import h11
import trio


class Names(trio.abc.HostnameResolver):
    """A resolver of a few names; each answer of a list once, the last one for ever."""

    def __init__(self, addresses: Mapping[str, Sequence[Sequence[str]]]) -> None:
        self._answers = {name: list(answers) for name, answers in addresses.items()}
        self.asked: Counter[str] = Counter()

    async def getaddrinfo(
        self, host: Any, port: Any, family: int = 0, type: int = 0, proto: int = 0, flags: int = 0
    ) -> list[Any]:
        await trio.lowlevel.checkpoint()
        name = host.decode() if isinstance(host, bytes) else host
        self.asked[name] += 1
        answers = self._answers.get(name)
        if answers is None:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        found = answers.pop(0) if len(answers) > 1 else answers[0]
        return [
            (socket.AF_INET6 if ":" in each else socket.AF_INET, socket.SOCK_STREAM, 6, "", (each, port))
            for each in found
        ]

    async def getnameinfo(self, sockaddr: Any, flags: int) -> tuple[str, str]:
        raise NotImplementedError


@attrs.frozen
class Heard:
    """A request as the server got it."""

    method: str
    target: str
    fields: dict[str, str]
    body: bytes

    @property
    def key(self) -> str:
        return self.fields["idempotency-key"]


Behaviour = Callable[[Heard, trio.abc.Stream], Awaitable[None]]


@attrs.define
class Outside:
    """A server that listens, and what it has heard."""

    port: int
    heard: list[Heard] = attrs.field(factory=list)
    connections: int = 0


def answer(status: int = 200, body: bytes = b"fine", **fields: str) -> bytes:
    """A plain answer; `retry_after` is the field Retry-After."""
    lines = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in fields.items())
    head = f"HTTP/1.1 {status} Word\r\nContent-Length: {len(body)}\r\n{lines}\r\n"
    return head.encode() + body


def says(*answers: bytes) -> Behaviour:
    """One after the other, the last one for ever."""
    left = list(answers)

    async def behave(_: Heard, stream: trio.abc.Stream) -> None:
        await stream.send_all(left.pop(0) if len(left) > 1 else left[0])

    return behave


@asynccontextmanager
async def outside(
    behave: Behaviour, tls: ssl.SSLContext | None = None, host: str = "127.0.0.1"
) -> AsyncIterator[Outside]:
    """Serve one request a connection."""
    listeners = await trio.open_tcp_listeners(0, host=host)
    server = Outside(listeners[0].socket.getsockname()[1])

    async def serve(stream: trio.abc.Stream) -> None:
        server.connections += 1
        if tls is not None:
            stream = trio.SSLStream(stream, tls, server_side=True, https_compatible=True)
        try:
            heard = await _hear(stream)
            server.heard.append(heard)
            await behave(heard, stream)
        except (trio.BrokenResourceError, ssl.SSLError, h11.RemoteProtocolError):
            pass  # the client went: what it thinks of that is what the test looks at
        finally:
            await trio.aclose_forcefully(stream)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, listeners)
        yield server
        nursery.cancel_scope.cancel()


async def _hear(stream: trio.abc.Stream) -> Heard:
    connection = h11.Connection(h11.SERVER)
    head: h11.Request | None = None
    body = b""
    while True:
        event = connection.next_event()
        match event:
            case h11.NEED_DATA:
                connection.receive_data(bytes(await stream.receive_some(65_536)))
            case h11.Request():
                head = event
            case h11.Data():
                body += event.data
            case h11.EndOfMessage() if head is not None:
                fields = {name.decode(): value.decode() for name, value in head.headers}
                return Heard(head.method.decode(), head.target.decode(), fields, body)
            case _:
                raise trio.BrokenResourceError("no request")
