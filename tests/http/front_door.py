"""A real server on a real socket, with calls that are answered by a double, and a raw client."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import attrs
import h11
import trio

from inversion import config
from inversion.errors import Code, RequestRefused
from inversion.gate import Bridge
from inversion.http.routes import Ingress
from inversion.http.server import Listener, Server, open_tcp
from inversion.http.service import Application, Deadlines, Held
from inversion.messages import Condition, Idempotency, Response, State
from inversion.watch import Watch

BODY_BYTES = 1_000

Answering = Callable[["Seen"], Awaitable[Response]]


@attrs.frozen
class Seen:
    """One call, as the double got it."""

    function: str
    key: str | None
    handler: str
    body: bytes
    content_type: str
    timeout_s: float | None
    trace: str | None
    once: Idempotency | None = None
    condition: Condition | None = None
    arguments: tuple[str, ...] = ()


async def echo(seen: Seen) -> Response:
    return Response(body=seen.body or b"null", version=7 if seen.key is not None else None)


class CallsDouble:
    """Remembers what was called; `answering` decides what comes back."""

    def __init__(self, answering: Answering = echo) -> None:
        self.answering = answering  #: under trio: it may wait for what the test does
        self.bridge: Bridge | None = None
        self.seen: list[Seen] = []
        self.finished = 0
        self.draining = False
        self.states: dict[tuple[str, str], State] = {}

    async def call(
        self,
        function: str,
        key: str | None,
        handler: str,
        body: bytes,
        *,
        content_type: str,
        timeout_s: float | None,
        trace: str | None,
        once: Idempotency | None = None,
        condition: Condition | None = None,
        arguments: tuple[str, ...] = (),
    ) -> tuple[str, Response]:
        seen = Seen(function, key, handler, body, content_type, timeout_s, trace, once, condition, arguments)
        self.seen.append(seen)
        assert self.bridge is not None
        response = await self.bridge.run(self.answering, seen)
        self.finished += 1
        return f"id-{len(self.seen)}", response

    async def read_state(self, function: str, key: str) -> State:
        return self.states.get((function, key), State(value=None, version=0, turn=None))

    def function(self, name: str) -> config.Function:
        if name not in ("cart", "pure"):
            raise RequestRefused(Code.NO_FUNCTION, f"no function is named {name!r}: did you mean cart?")
        return config.Function(name, ("true",), Path(), state=name == "cart")


@attrs.define
class Door:
    """A running server."""

    server: Server
    listener: Listener
    calls: CallsDouble
    clients: list[Client] = attrs.field(factory=list)

    async def connect(self) -> Client:
        stream = await trio.open_tcp_stream("127.0.0.1", self.listener.port)
        self.clients.append(Client(stream))
        return self.clients[-1]

    async def exchange(self, raw: bytes) -> list[Answer]:
        """Send bytes on a new connection and end it: every answer that comes back."""
        client = await self.connect()
        await client.send(raw)
        await client.send_eof()
        return await client.answers_to_the_end()

    async def is_well(self) -> bool:
        """Does it still answer others?"""
        (answer,) = await self.exchange(post(b"/v1/call/cart/well", b"1"))
        self.calls.seen.pop()
        return answer.status == 200


@asynccontextmanager
async def open_door(
    calls: CallsDouble | None = None,
    *,
    application: Application | None = None,
    listener: Listener | None = None,
    connections: int = 100,
    body_bytes: int = BODY_BYTES,
    deadlines: Deadlines | None = None,
    held: Held | None = None,
    read_state: bool = True,
    within_s: float = 10.0,
) -> AsyncIterator[Door]:
    calls = calls or CallsDouble()
    listener = listener or open_tcp("127.0.0.1", 0)
    watch = Watch()
    server = Server(
        application or Ingress(calls, read_state=read_state),
        watch=watch,
        body_bytes=body_bytes,
        connections=connections,
        deadlines=deadlines,
        held=held,
    )
    with trio.fail_after(within_s):
        async with trio.open_nursery() as nursery:
            calls.bridge = Bridge(nursery)
            nursery.start_soon(watch.run)
            await nursery.start(server.serve, listener)
            door = Door(server, listener, calls)
            try:
                yield door
            finally:
                for client in door.clients:
                    client.stream.socket.close()
            nursery.cancel_scope.cancel()
    watch.close()


def post(target: bytes, body: bytes = b"", *lines: bytes) -> bytes:
    """A well-formed POST with extra field lines."""
    head = [
        b"POST %b HTTP/1.1" % target,
        b"Host: localhost",
        b"Content-Length: %d" % len(body),
        *lines,
    ]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


def get(target: bytes, *lines: bytes) -> bytes:
    return b"\r\n".join([b"GET %b HTTP/1.1" % target, b"Host: localhost", *lines]) + b"\r\n\r\n"


@attrs.frozen
class Answer:
    status: int
    fields: dict[str, str]
    body: bytes


class Client:
    """Sends bytes as they are; h11 reads what comes back, strictly."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._read_ahead = b""

    async def send(self, raw: bytes) -> None:
        with suppress(trio.BrokenResourceError):  # the server has heard enough
            await self.stream.send_all(raw)

    async def send_eof(self) -> None:
        self.stream.socket.shutdown(socket.SHUT_WR)

    async def answer(self, method: str = "GET") -> Answer:
        """The next answer, whole."""
        reader = h11.Connection(h11.CLIENT)
        reader.send(h11.Request(method=method, target="/", headers=[("Host", "x")]))
        reader.send(h11.EndOfMessage())
        reader.receive_data(self._read_ahead or await self._receive())
        head: h11.Response | None = None
        body = b""
        while True:
            event = reader.next_event()
            if event is h11.NEED_DATA:
                reader.receive_data(await self._receive())
            elif isinstance(event, h11.InformationalResponse):
                self._read_ahead = reader.trailing_data[0]
                return Answer(event.status_code, {}, b"")
            elif isinstance(event, h11.Response):
                head = event
            elif isinstance(event, h11.Data):
                body += event.data
            else:
                assert isinstance(event, h11.EndOfMessage)
                assert head is not None
                self._read_ahead = reader.trailing_data[0]
                fields = {name.decode(): value.decode() for name, value in head.headers}
                return Answer(head.status_code, fields, body)

    async def _receive(self) -> bytes:
        data = await self.stream.receive_some(65_536)
        if not data:
            raise EndOfAnswers
        return data

    async def answers_to_the_end(self) -> list[Answer]:
        answers = []
        while True:
            try:
                answers.append(await self.answer())
            except EndOfAnswers:
                return answers
            if answers[-1].fields.get("connection") == "close":
                assert await self.at_end()
                return answers

    async def at_end(self) -> bool:
        """Has the server closed, with nothing more to say?"""
        try:
            return await self.stream.receive_some(1) == b""
        except trio.BrokenResourceError:
            return True

    async def aclose(self) -> None:
        await trio.aclose_forcefully(self.stream)


class EndOfAnswers(Exception):
    """The server closed the connection between two answers."""
