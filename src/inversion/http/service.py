"""What all connections of one server share: the application that answers, its limits, its counts.

An `Application` turns a request into a response; it is awaited by a walk, so it may wait at gates only.
"""

from __future__ import annotations

import socket
from typing import Protocol

import attrs

from inversion.errors import InversionError
from inversion.gate import Gate, Walk
from inversion.http.framing import HttpRequest
from inversion.watch import Watch


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
    idle_s: float = 75.0  #: between two requests: longer than the 60 s that load balancers keep
    send_s: float = 30.0  #: without taking a byte of the answer
    linger_s: float = 2.0  #: to take the answer after a refusal


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
    counters: Counters = attrs.field(factory=Counters)
    date_line: bytes = b""
    draining: bool = False
    departures: Departures = attrs.field(
        default=attrs.Factory(lambda self: Departures(self.watch), takes_self=True)
    )
