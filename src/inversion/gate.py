"""Where a turn parks until a gatherer resumes it.

A turn is a plain coroutine that trio never sees. `await gate.wait(item)` yields (gate, item) to the
`Walk` that drives the coroutine; the walk is parked at the gate. A gatherer (a trio task at the other
side) takes everything that waits there, does one statement or one write for all of it, and resumes each
walk with `resume(value)` or `throw(error)`. No task and no Event per step.
An item that can be served at once should not be parked at all: `wait` costs about a microsecond.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Coroutine, Generator
from typing import Generic, TypeVar

import trio

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class Walk(Generic[ItemT, ResultT]):
    """One coroutine on its way from gate to gate. `ended` is called once, with its error or None."""

    __slots__ = ("_coroutine", "_ended", "item")

    def __init__(self, coroutine: Coroutine[object, object, None], ended: Callable[[Exception | None], None]):
        self._coroutine = coroutine
        self._ended = ended
        self.item: ItemT

    def start(self) -> None:
        self._advance(self._coroutine.send, None)

    def resume(self, result: ResultT) -> None:
        """Go on with what the gate's work produced. Called by the gatherer, exactly once per wait."""
        self._advance(self._coroutine.send, result)

    def throw(self, error: Exception) -> None:
        """Go on with a failure, raised where the coroutine waits."""
        self._advance(self._coroutine.throw, error)

    def _advance(self, move: Callable[..., object], argument: object) -> None:
        try:
            parked = move(argument)
        except StopIteration:
            self._ended(None)
        except Exception as error:
            self._ended(error)
        else:
            # Anything else that is awaited (a trio function, say) would wait for ever: fail loudly.
            if not isinstance(parked, _Parking):
                self.throw(RuntimeError("a turn may only await a gate, not trio"))
                return
            self.item = parked.item  # type: ignore[assignment]  # the gate and its item are a pair
            parked.gate.park(self)  # type: ignore[arg-type]


class _Parking:
    __slots__ = ("gate", "item")

    def __init__(self, gate: Gate[ItemT, ResultT], item: ItemT):
        self.gate: Gate[object, object] = gate  # type: ignore[assignment]
        self.item: object = item


class Gate(Generic[ItemT, ResultT]):
    """A place to wait. `wait` is the turn's side; `gather`, `take` and `waiting` the gatherer's."""

    def __init__(self) -> None:
        self.waiting: list[Walk[ItemT, ResultT]] = []
        self._gatherers = trio.lowlevel.ParkingLot()

    @types.coroutine
    def wait(self, item: ItemT) -> Generator[object, ResultT, ResultT]:
        """Park the current walk with its item; returns what the gatherer resumes it with."""
        return (yield _Parking(self, item))

    def park(self, walk: Walk[ItemT, ResultT]) -> None:
        self.waiting.append(walk)
        if self._gatherers:
            self._gatherers.unpark()

    async def gather(self, most: int) -> list[Walk[ItemT, ResultT]]:
        """Wait until something is parked, then take up to `most` walks, oldest first.

        What parks between the wake-up and the task's turn to run comes along: no linger timer.
        """
        while not self.waiting:
            await self._gatherers.park()
        return self.take(most)

    def take(self, most: int) -> list[Walk[ItemT, ResultT]]:
        """Take up to `most` walks now, perhaps none."""
        if len(self.waiting) <= most:
            taken, self.waiting = self.waiting, []
        else:
            taken, self.waiting = self.waiting[:most], self.waiting[most:]
            if self._gatherers:
                self._gatherers.unpark()
        return taken

    def withdraw(self, gone: Callable[[ItemT], bool], error: Callable[[], Exception]) -> None:
        """Throw a fresh `error()` into every parked walk whose item is `gone`."""
        leaving = [walk for walk in self.waiting if gone(walk.item)]
        if leaving:
            self.waiting = [walk for walk in self.waiting if not gone(walk.item)]
            for walk in leaving:
                walk.throw(error())
