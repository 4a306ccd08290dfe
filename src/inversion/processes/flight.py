"""A message on its way through a process: the `Sent` of transition.py.

The walk that sent it parks here until whoever reads the process settles it, once, with the answer or with
what went wrong.
"""

from __future__ import annotations

from typing import Final, Protocol

from inversion.gate import DirectGate, Walk
from inversion.messages import MessageIn, MessageOut, Turn


class Flight:
    """One message in one process."""

    __slots__ = ("_result", "_walk", "message")

    def __init__(self, message: MessageIn) -> None:
        self.message = message
        self._walk: Walk[Flight, MessageOut] | None = None
        self._result: MessageOut | Exception | None = None

    async def receive_message_out(self) -> MessageOut:
        """Wait for the answer. Raises what the message failed with."""
        result, self._result = self._result, None
        if result is None:
            return await _DESK.wait(self)
        if isinstance(result, Exception):
            raise result
        return result

    def settle(self, result: MessageOut | Exception) -> None:
        """Resume the walk, or keep the result until it asks."""
        walk, self._walk = self._walk, None  # the two hold each other: freed by count, not by collection
        if walk is None:
            self._result = result
        elif isinstance(result, Exception):
            walk.throw(result)
        else:
            walk.resume(result)

    def board(self, walk: Walk[Flight, MessageOut]) -> None:
        self._walk = walk


_DESK: Final[DirectGate[Flight, MessageOut]] = DirectGate()


class Generation(Protocol):
    """A pool as another one of the same function knows it: new code replaces the old while both run."""

    predecessor: Generation | None  #: while it drains

    async def send_message_in(self, message: MessageIn) -> Flight: ...

    def begun_s(self, turn: Turn) -> float | None: ...
