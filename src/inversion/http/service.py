"""What all connections of one server share: the application that answers, its limits, its counts.

An `Application` turns a request into a response; it is awaited by a walk, so it may wait at gates only.
"""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from enum import Enum
from http import HTTPStatus
from math import inf
from typing import Final, Protocol

import attrs

from inversion.errors import Code, InversionError, RequestRefused
from inversion.gate import Gate, Walk
from inversion.http.framing import MAX_HEAD_BYTES, HttpRequest
from inversion.watch import Watch

#: What each connection may hold of its request; a longer one counts (`Held`). Heads may be as long, and
#: nearly all bodies are shorter: 10,000 connections may hold 160 MiB in this way.
UNCOUNTED_BYTES: Final = MAX_HEAD_BYTES


#: One read: a head, or a good piece of a body. Also what one client can make us hold ahead of its turn.
READ_BYTES: Final = 64 << 10
#: What is read and thrown away after a refusal, so that the answer is not lost to a reset (RFC 9112, 9.6).
LINGER_BYTES: Final = 4 << 20
#: SO_LINGER on, zero seconds: close sends a reset.
RESET: Final = struct.pack("ii", 1, 0)

CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
CLOSE: Final = b"Connection: close\r\n"
KEEP_ALIVE: Final = b"Connection: keep-alive\r\n"
STATUS_LINES: Final = {
    status.value: f"HTTP/1.1 {status.value} {status.phrase}\r\n".encode("ascii") for status in HTTPStatus
}


class Phase(Enum):
    """What a connection waits for."""

    IDLE = "idle"
    HEAD = "head"
    BODY = "body"
    CALL = "call"
    SEND = "send"
    LINGER = "linger"


@attrs.define(slots=True, eq=False)
class HttpResponse:
    """One answer. `fields` are whole lines; Content-Length, Date and Connection are added on the way out."""

    status: int
    fields: bytes
    body: bytes


class Application(Protocol):
    """What answers requests: the ingress, or the admin door."""

    async def answer(self, request: HttpRequest) -> HttpResponse:
        """Answer one request; raises InversionError, or anything else for a bug (500)."""
        ...

    def refuse(self, error: InversionError) -> HttpResponse:
        """Put an error into words."""
        ...


@attrs.frozen(slots=True)
class Deadlines:
    """How long a client may take. None of it counts while an answer is awaited."""

    head_s: float = 10.0  #: from a request's first byte to the end of its head
    body_s: float = 60.0  #: for the whole body
    body_begin_s: float = 10.0  #: for a body that does not come at all...
    body_bytes_per_s: int = 1 << 10  #: ...and a second more for each KiB: no modem was slower
    collect_s: float = 1.0  #: for a chunked body whose length somebody wants to know
    idle_s: float = 75.0  #: between two requests: longer than the 60 s that load balancers keep
    send_s: float = 30.0  #: without taking a byte of the answer
    send_bytes_per_s: int = 16 << 10  #: and this much on average: a byte now and then is not enough
    linger_s: float = 2.0  #: to take the answer after a refusal

    @property
    def shortest_s(self) -> float:
        return min(self.head_s, self.body_s, self.body_begin_s, self.idle_s, self.send_s, self.linger_s)

    def of_body(self, begun_s: float, come_bytes: int) -> float:
        """When the next piece of a body is due, or its end."""
        return begun_s + min(self.body_s, self.body_begin_s + come_bytes / self.body_bytes_per_s)

    def of_answer(self, begun_s: float, answer_bytes: int) -> float:
        """When the last byte of an answer must have been taken."""
        return begun_s + self.send_s + answer_bytes / self.send_bytes_per_s


@attrs.define(slots=True, eq=False)
class Held:
    """What all connections of a node hold in memory beyond the little that each may have.

    Requests that would hold more are refused. For answers it is too late to refuse anything: whose client
    has been taking one for the longest time loses it.
    """

    limit_bytes: float = inf  #: of requests, and again of answers
    request_bytes: int = 0
    answer_bytes: int = 0
    requests_refused: int = 0
    answers_dropped: int = 0
    _takers: dict[Callable[[], None], None] = attrs.field(factory=dict, init=False)  #: the oldest first

    def hold_request(self, more_bytes: int, own_bytes: int) -> None:
        """A request that holds `own_bytes` would hold more. One alone always may.

        Raises RequestRefused.
        """
        held_bytes = self.request_bytes + more_bytes
        if held_bytes > self.limit_bytes and self.request_bytes > own_bytes:
            self.requests_refused += 1
            raise RequestRefused(
                Code.QUEUE_FULL,
                f"the requests at this node hold {self.limit_bytes} bytes (limits.in_flight); try again",
                retry_after_s=1,
            )
        self.request_bytes = held_bytes

    def hold_answer(self, answer_bytes: int, interrupt: Callable[[], None]) -> None:
        """It waits to be taken. Interrupts others if there is no room; one answer alone always has it."""
        self.answer_bytes += answer_bytes
        self._takers[interrupt] = None
        while self.answer_bytes > self.limit_bytes:
            oldest = next(iter(self._takers))
            if oldest == interrupt:
                break
            del self._takers[oldest]
            self.answers_dropped += 1
            oldest()  # it ends now, and lets go

    def let_answer_go(self, answer_bytes: int, interrupt: Callable[[], None]) -> None:
        self.answer_bytes -= answer_bytes
        self._takers.pop(interrupt, None)


@attrs.define(slots=True, eq=False)
class Counters:
    """Plain integers that the metrics read."""

    connections_open: int = 0
    connections_total: int = 0
    connections_refused: int = 0  #: over limits.connections
    requests_by_class: list[int] = attrs.field(factory=lambda: [0] * 6)  #: answers; index = status // 100
    framing_refused: int = 0
    clients_gone: int = 0  #: reset, or gone before they took their answer
    timeouts: int = 0
    accept_failures: int = 0


class Departures(Gate[tuple[socket.socket, bytes], int]):
    """Answers leave together when a round has made them, one right after the other.

    A client's process is woken for the first and finds the rest; one by one it would be woken for each,
    which costs us more than anything else that a request does.
    """

    def __init__(self, watch: Watch) -> None:
        super().__init__()
        self._watch = watch

    def park(self, walk: Walk[tuple[socket.socket, bytes], int]) -> None:
        self.waiting.append(walk)
        if len(self.waiting) == 1:
            self._watch.later(self._send)

    def _send(self) -> None:
        """Resume each walk with how many bytes its socket took, or throw the socket's error."""
        walks, self.waiting = self.waiting, []
        results: list[int | OSError] = []
        for walk in walks:
            sock, data = walk.item
            try:
                results.append(sock.send(data))
            except BlockingIOError:
                results.append(0)
            except OSError as error:
                results.append(error)
        for walk, result in zip(walks, results, strict=True):
            if isinstance(result, OSError):
                walk.throw(result)
            else:
                walk.resume(result)


@attrs.define(slots=True, eq=False)
class Service:
    """What all connections of one server share."""

    application: Application
    watch: Watch
    body_bytes: int
    deadlines: Deadlines
    held: Held
    counters: Counters = attrs.field(factory=Counters)
    streamed: bytes | None = None  #: a body for a path that begins with this goes on as it comes
    date_line: bytes = b""
    draining: bool = False
    departures: Departures = attrs.field(
        default=attrs.Factory(lambda self: Departures(self.watch), takes_self=True)
    )
