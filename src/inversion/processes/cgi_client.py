"""What the two sides of a CGI call know of each other.

The process asks its `Client` for the body and gives it the answer, cut into pieces by a `Framing`; whoever
serves the client waits for a `Pending`. Nothing in here waits for a socket or a pipe.
"""

from __future__ import annotations

from typing import Generic, Protocol, TypeVar

from inversion.gate import DirectGate, Walk

ResultT = TypeVar("ResultT")


class ClientGone(OSError):
    """The client has left, or was cut off."""


class Client(Protocol):
    """The side of the socket. What it is asked for never waits."""

    @property
    def file(self) -> int:
        """What the watch looks at."""

    @property
    def body_done(self) -> bool:
        """No more of the request is to come."""

    def receive(self) -> bytes:
        """What has come of the body; perhaps nothing. Raises ClientGone or RequestRefused."""

    def send(self, data: memoryview) -> int:
        """How many bytes were taken. Raises ClientGone."""

    def left(self) -> bool:
        """Whether it has hung up."""


class Framing(Protocol):
    """How the client is told where the body ends."""

    @property
    def complete(self) -> bool:
        """It has been told already: nothing that follows counts."""

    def frame(self, data: bytes) -> bytes:
        """A piece of the body as it is sent."""

    def end(self) -> bytes | None:
        """What is sent behind the last piece; None: pieces are missing."""


class Pending(Generic[ResultT]):
    """Something one walk waits for."""

    __slots__ = ("_result", "_walk", "settled")

    def __init__(self) -> None:
        self._walk: Walk[Pending[ResultT], ResultT] | None = None
        self._result: list[ResultT | Exception] = []
        self.settled = False

    async def wait(self) -> ResultT:
        if self._result:
            result = self._result.pop()
            if isinstance(result, Exception):
                raise result
            return result
        gate: DirectGate[Pending[ResultT], ResultT] = DirectGate()
        return await gate.wait(self)

    def settle(self, result: ResultT | Exception) -> None:
        """Once; later ones are dropped."""
        if self.settled:
            return
        self.settled = True
        walk, self._walk = self._walk, None
        if walk is None:
            self._result.append(result)
        elif isinstance(result, Exception):
            walk.throw(result)
        else:
            walk.resume(result)

    def board(self, walk: Walk[Pending[ResultT], ResultT]) -> None:
        self._walk = walk
