"""Where a turn parks until a gatherer resumes it.

A turn is a plain coroutine that trio never sees. `await gate.wait(item)` yields (gate, item) to the `Walk`
that drives the coroutine; the walk is parked at the gate. A gatherer at the other side takes everything
that waits there, does one statement or one write for all of it, and resumes each walk with
`resume(value)` or `throw(error)`. No task and no Event per step; connections and gatherers are walks too.
An item that can be served at once should not be parked: `wait` costs about a microsecond.
"""

from __future__ import annotations

import types
from collections.abc import Awaitable, Callable, Coroutine, Generator
from typing import Any, Generic, Protocol, TypeVar

import trio

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")


class Walk(Generic[ItemT, ResultT]):
    """One coroutine on its way from gate to gate. `ended` is called once, with its error or None."""

    __slots__ = ("_coroutine", "_ended", "_send", "item")

    def __init__(self, coroutine: Coroutine[object, object, None], ended: Callable[[Exception | None], None]):
        self._coroutine = coroutine
        self._send: Callable[[object], object] = coroutine.send
        self._ended = ended
        self.item: ItemT

    def start(self) -> None:
        self.resume(None)  # type: ignore[arg-type]  # what a coroutine is started with

    def resume(self, result: ResultT) -> None:
        """Go on with what the gate's work produced. Called by the gatherer, exactly once per wait."""
        try:
            parked = self._send(result)
        except StopIteration:
            self._ended(None)
        except Exception as error:
            self._ended(error)
        else:
            # `_park`, written out: a call less for each wait of each request.
            if type(parked) is tuple:
                gate, self.item = parked
                gate.park(self)
            else:
                self._park(parked)

    def throw(self, error: Exception) -> None:
        """Go on with a failure, raised where the coroutine waits."""
        try:
            parked = self._coroutine.throw(error)
        except StopIteration:
            self._ended(None)
        except Exception as ending:
            self._ended(ending)
        else:
            self._park(parked)

    def _park(self, parked: object) -> None:
        if type(parked) is tuple:
            gate, self.item = parked
            gate.park(self)
        else:  # anything else that is awaited (a trio function, say) would wait for ever: fail loudly
            self.throw(RuntimeError("a turn may only await a gate, not trio"))


class Gate(Generic[ItemT, ResultT]):
    """A place to wait. `wait` is the turn's side; `take`, `waiting` and `withdraw` the gatherer's."""

    def __init__(self) -> None:
        self.waiting: list[Walk[ItemT, ResultT]] = []

    @types.coroutine
    def wait(self, item: ItemT) -> Generator[object, ResultT, ResultT]:
        """Park the current walk with its item; returns what the gatherer resumes it with."""
        return (yield self, item)  # a bare tuple: the cheapest thing that says both

    def park(self, walk: Walk[ItemT, ResultT]) -> None:
        self.waiting.append(walk)

    def take(self, most: int) -> list[Walk[ItemT, ResultT]]:
        """Take up to `most` walks now, oldest first; perhaps none."""
        if len(self.waiting) <= most:
            taken, self.waiting = self.waiting, []
        else:
            taken, self.waiting = self.waiting[:most], self.waiting[most:]
        return taken

    def withdraw(self, gone: Callable[[ItemT], bool], error: Callable[[], Exception]) -> None:
        """Throw a fresh `error()` into every parked walk whose item is `gone`."""
        leaving = [walk for walk in self.waiting if gone(walk.item)]
        if leaving:
            self.waiting = [walk for walk in self.waiting if not gone(walk.item)]
            for walk in leaving:
                walk.throw(error())


class Boarder(Protocol):
    """An item that keeps the walk that waits with it."""

    def board(self, walk: Walk[Any, Any]) -> None: ...


BoarderT = TypeVar("BoarderT", bound=Boarder)


class DirectGate(Gate[BoarderT, ResultT]):
    """Each item resumes its own walk, in any order, and no list is searched for it."""

    def park(self, walk: Walk[BoarderT, ResultT]) -> None:
        walk.item.board(walk)


class GatheredGate(Gate[ItemT, ResultT]):
    """A gate whose gatherers are walks too. `later` calls something when this loop pass has run the rest."""

    def __init__(self, later: Callable[[Callable[[], None]], None]) -> None:
        super().__init__()
        self._later = later
        self._due = False  #: gatherers will be called
        self._gatherers: Gate[None, None] = Gate()

    def park(self, walk: Walk[ItemT, ResultT]) -> None:
        self.waiting.append(walk)
        self._call_gatherers()

    async def gather(self, most: int) -> list[Walk[ItemT, ResultT]]:
        """Wait until something is parked, then take up to `most` walks; none after `stir`.

        What parks in the same loop pass comes along: no linger timer.
        """
        if not self.waiting:
            await self._gatherers.wait(None)
        taken = self.take(most)
        self._call_gatherers()
        return taken

    def stir(self) -> None:
        """Let the gatherers that wait look after themselves: they get nothing."""
        for gatherer in self._gatherers.take(len(self._gatherers.waiting)):
            gatherer.resume(None)

    def _call_gatherers(self) -> None:
        if self.waiting and self._gatherers.waiting and not self._due:
            self._due = True
            self._later(self._wake)

    def _wake(self) -> None:
        # The one that came last: its connection's server process is still warm.
        self._due = False
        while self.waiting and self._gatherers.waiting:
            self._gatherers.waiting.pop().resume(None)


class Bridge:
    """Lets a walk wait for something that only trio can do: it runs as a task of `nursery`."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery

    async def run(self, function: Callable[..., Awaitable[ResultT]], *args: object) -> ResultT:
        """Await `function(*args)` in a trio task; its result or its exception comes back here."""
        gate: _Crossing[ResultT] = _Crossing(self._nursery, function, args)
        return await gate.wait(None)


class _Crossing(Gate[None, ResultT]):
    def __init__(
        self, nursery: trio.Nursery, function: Callable[..., Awaitable[ResultT]], args: tuple[object, ...]
    ) -> None:
        super().__init__()
        self._nursery = nursery
        self._function = function
        self._args = args

    def park(self, walk: Walk[None, ResultT]) -> None:
        self._nursery.start_soon(self._cross, walk)

    async def _cross(self, walk: Walk[None, ResultT]) -> None:
        try:
            result = await self._function(*self._args)
        except Exception as error:
            walk.throw(error)
        else:
            walk.resume(result)
