"""A message on its way through a process: the `Sent` of transition.py.

It waits in a `WaitingRoom` until a process has room. Then the walk that sent it parks at its `Flight` until
whoever reads the process settles it, once, with the answer or with what went wrong.
"""

from __future__ import annotations

from typing import Final, Protocol

from inversion.errors import Code, RequestRefused
from inversion.gate import DirectGate, Gate, Walk
from inversion.messages import MessageIn, MessageOut, Turn
from inversion.observe.metrics import FunctionCounters

#: States up to this are not counted: limits.queue bounds how many there are.
_SMALL_BYTES: Final = 16 << 10


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


class WaitingRoom(Gate[MessageIn, Flight]):
    """Where messages wait for a process of a function. Their states have been loaded: how much they hold
    together has a limit, but one alone may always wait."""

    def __init__(self, function: str, state_bytes: int, counters: FunctionCounters) -> None:
        super().__init__()
        self._function = function
        self._state_bytes = state_bytes
        self._counters = counters

    def admit(self, message: MessageIn) -> None:
        """Before it waits. Raises RequestRefused."""
        size = len(message.state.value or b"")
        if size <= _SMALL_BYTES or not self.waiting:
            return
        held_bytes = sum(len(walk.item.state.value or b"") for walk in self.waiting)
        if held_bytes + size > self._state_bytes:
            self._counters.states_refused += 1
            raise RequestRefused(
                Code.QUEUE_FULL,
                f"the states of the calls that wait for function {self._function} hold {self._state_bytes} "
                "bytes (limits.in_flight); try again",
                retry_after_s=1,
            )


class Generation(Protocol):
    """A pool as another one of the same function knows it: new code replaces the old while both run."""

    predecessor: Generation | None  #: while it drains

    async def send_message_in(self, message: MessageIn) -> Flight: ...

    def begun_s(self, turn: Turn) -> float | None: ...
