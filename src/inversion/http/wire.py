"""The socket of one connection, read and written under deadlines.

Every wait is one of a walk for this socket. The server's sweeper ends it (`interrupt`) when `deadline_s` has
passed; what is held of requests and answers counts among that of all connections of the node.
"""

from __future__ import annotations

import contextlib
import socket
from math import inf
from time import monotonic

from inversion.http.service import LINGER_BYTES, READ_BYTES, Phase, Service
from inversion.watch import Interrupted, Readiness


class Wire:
    """What a connection does to its socket, whatever is said on it."""

    __slots__ = ("_held_bytes", "_ready", "_service", "_socket", "deadline_s", "phase")

    def __init__(self, sock: socket.socket, service: Service) -> None:
        self._socket = sock  #: non-blocking, ours to close
        self._service = service
        self._ready = Readiness(service.watch, sock.fileno())
        self._held_bytes = 0  #: of the request; they count among those of all
        self.phase = Phase.IDLE
        self.deadline_s = inf  #: monotonic

    def interrupt(self) -> None:
        """End the wait for the socket, if the walk is in one: its deadline passed, or the server drains."""
        self._ready.interrupt()

    def _hold(self, more_bytes: int) -> None:
        """Raises RequestRefused when all requests together would hold too much."""
        self._service.held.hold_request(more_bytes, self._held_bytes)
        self._held_bytes += more_bytes

    def _let_go(self) -> None:
        self._service.held.request_bytes -= self._held_bytes
        self._held_bytes = 0

    async def _read(self, most: int) -> bytes:
        """Wait first: rarely is something there already, and a flooding client must not hold the loop."""
        while True:
            try:
                await self._ready.readable()
                return self._socket.recv(most)
            except BlockingIOError:
                continue
            except Interrupted:
                data = self._just_in_time(most)
                if not data:
                    raise
                return data

    def _just_in_time(self, most: int) -> bytes:
        """What came before the interruption was heard."""
        with contextlib.suppress(BlockingIOError):
            return self._socket.recv(most)
        return b""

    async def _send_rest(self, data: bytes, sent: int = 0) -> None:
        """Send it all; while the client's window is full wait: a bounded time for each piece, and for all."""
        phase, deadline_s = self.phase, self.deadline_s
        deadlines, held = self._service.deadlines, self._service.held
        rest = memoryview(data)[sent:]
        held_bytes, end_s = 0, inf
        try:
            while rest:
                try:
                    rest = rest[self._socket.send(rest) :]
                except BlockingIOError:
                    now_s = monotonic()
                    if end_s == inf:
                        self.phase = Phase.SEND
                        end_s = deadlines.of_answer(now_s, len(rest))
                        held_bytes = len(data)
                        held.hold_answer(held_bytes, self.interrupt)
                    self.deadline_s = min(now_s + deadlines.send_s, end_s)
                    await self._ready.writable()
        finally:
            if held_bytes:
                held.let_answer_go(held_bytes, self.interrupt)
        self.phase, self.deadline_s = phase, deadline_s

    async def _linger(self) -> None:
        """Let the client take the answer before the connection is closed: unread bytes would reset it."""
        self.phase = Phase.LINGER
        self.deadline_s = monotonic() + self._service.deadlines.linger_s
        self._socket.shutdown(socket.SHUT_WR)
        left = LINGER_BYTES
        while left > 0:
            data = await self._read(READ_BYTES)
            if not data:
                return
            left -= len(data)
