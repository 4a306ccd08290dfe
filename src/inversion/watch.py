"""One epoll for every pipe, exit and socket on the path of a request: readiness as plain calls.

`run` is two trio tasks: one waits for the epoll and calls what was registered for each ready file, the
other calls what was put off with `later` when the loop has run what else was ready. `Readiness` is how a
walk (gate.py) waits for one file; a trio task per file would cost twice as much as all else it does.
A registered call must cope with a false alarm: a file number may have been closed and given out again
within one round.
"""

from __future__ import annotations

import os
import select
from collections.abc import Awaitable, Callable
from time import perf_counter
from typing import Final

import trio

from inversion.gate import DirectGate, Walk

READABLE: Final = select.EPOLLIN
WRITABLE: Final = select.EPOLLOUT
#: The watch stays at its files: trio's own turn costs as much as two or three requests, and a process,
#: PostgreSQL or the client's next request comes within this...
_NEXT_S: Final = 0.001
#: ...but accepting, deadlines and signals are trio's, and wait no longer than this.
_STAY_S: Final = 0.004
#: While this many answers are due the next is microseconds away, and falling asleep and being woken costs
#: more than to look again for so long. Measured at 16 and 64 connections: 1.07 to 1.1 times the requests.
_MANY: Final = 5
_LOOK_S: Final = 0.000_05
#: Files served in one round; the rest comes in the next.
_MOST_READY: Final = 256


class Watch:
    """Registered files and put-off calls. Everything runs in the loop's thread."""

    def __init__(self) -> None:
        self.expects: Callable[[], int] = lambda: 0  #: how many answers are due; whoever knows sets it
        self._epoll = select.epoll()
        self._calls: dict[int, Callable[[], None]] = {}
        self._later: list[Callable[[], None]] = []
        self.in_round = False
        self._running = False
        self._flusher = trio.lowlevel.ParkingLot()

    def add(self, file: int, call: Callable[[], None], what: int = READABLE) -> None:
        """Call `call` whenever `file` is ready, until it is removed."""
        self._calls[file] = call
        self._epoll.register(file, what)

    def change(self, file: int, what: int) -> None:
        """From now on only this is of interest."""
        self._epoll.modify(file, what)

    def remove(self, file: int) -> None:
        """It stays open and is no longer of interest. A file that is not registered is left alone."""
        if self._calls.pop(file, None) is not None:
            self._epoll.unregister(file)

    def close_file(self, file: int) -> None:
        """Close it, registered or not. The kernel forgets a closed file: no child has ours."""
        self._calls.pop(file, None)
        os.close(file)

    def later(self, call: Callable[[], None]) -> None:
        """Call `call` once, when the rest of this loop pass has run: what it gathers is gathered then."""
        self._later.append(call)
        if not self.in_round:
            self._flusher.unpark()

    async def run(self) -> None:
        """Serve until cancelled."""
        self._running = True
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._flush_for_ever)
                await self._serve_for_ever()
        finally:
            self._running = False

    async def serve_once(self) -> None:
        """Wait for readiness and serve one round: for the end, when `run` is cancelled already."""
        if self._running:
            await trio.lowlevel.checkpoint()  # `run` does it
            return
        await trio.lowlevel.wait_readable(self._epoll.fileno())
        self._serve_round()

    def close(self) -> None:
        self._epoll.close()

    async def _serve_for_ever(self) -> None:
        epoll_file = self._epoll.fileno()
        while True:
            await trio.lowlevel.wait_readable(epoll_file)
            leave_s = perf_counter() + _STAY_S
            while self._serve_round(self.expects(), _NEXT_S) and perf_counter() < leave_s:
                continue

    def _serve_round(self, expected: int = 0, patience_s: float = 0) -> int:
        """Serve what is ready now, or within that time; how much that was."""
        if expected >= _MANY:
            ready = self._look_again() or self._epoll.poll(patience_s, _MOST_READY)
        else:
            ready = self._epoll.poll(patience_s, _MOST_READY)
        self.in_round = True
        try:
            for file, _ in ready:
                call = self._calls.get(file)
                if call is not None:
                    call()
        finally:
            self.in_round = False
        self._flush()
        return len(ready)

    def _look_again(self) -> list[tuple[int, int]]:
        sleep_s = perf_counter() + _LOOK_S
        while not (ready := self._epoll.poll(0, _MOST_READY)) and perf_counter() < sleep_s:
            continue
        return ready

    async def _flush_for_ever(self) -> None:
        while True:
            if self._later:
                await trio.lowlevel.checkpoint()  # a call that put off another has let the loop pass
            else:
                await self._flusher.park()
            self._flush()

    def _flush(self) -> None:
        calls, self._later = self._later, []
        for call in calls:
            call()
        if self._later:
            self._flusher.unpark()


class Interrupted(Exception):
    """The wait was ended from outside: a deadline, or a drain."""


class Readiness:
    """One file that one walk at a time waits for. Registered until `close`, which leaves the file open."""

    __slots__ = ("_file", "_interest", "_walk", "_watch")

    def __init__(self, watch: Watch, file: int) -> None:
        self._watch = watch
        self._file = file
        self._interest = READABLE
        self._walk: Walk[object, None] | None = None
        watch.add(file, self._fire)

    def readable(self) -> Awaitable[None]:
        """Await it: perhaps for a false alarm. Raises Interrupted."""
        if self._interest != READABLE:
            self._want(READABLE)
        return _WAITING.wait(self)

    def writable(self) -> Awaitable[None]:
        """Await it: perhaps for a false alarm. Raises Interrupted."""
        if self._interest != WRITABLE:
            self._want(WRITABLE)
        return _WAITING.wait(self)

    def interrupt(self) -> None:
        """End the wait, if there is one."""
        walk, self._walk = self._walk, None
        if walk is not None:
            walk.throw(Interrupted())

    def close(self) -> None:
        """Before the file is closed. A walk that waits is let go of, unresumed."""
        self._walk = None
        if self._file >= 0:
            self._watch.remove(self._file)
            self._file = -1  # the number may be another's when this is called again

    def board(self, walk: Walk[object, None]) -> None:
        self._walk = walk

    def _want(self, what: int) -> None:
        if self._interest:
            self._watch.change(self._file, what)
        else:
            self._watch.add(self._file, self._fire, what)
        self._interest = what

    def _fire(self) -> None:
        walk, self._walk = self._walk, None
        if walk is None:
            # Nobody waits: ready again and again would keep the loop busy. Not merely of no interest, for
            # epoll tells of a peer that hung up whatever the interest is.
            self._interest = 0
            self._watch.remove(self._file)
        else:
            walk.resume(None)


_WAITING: Final[DirectGate[Readiness, None]] = DirectGate()
