"""One epoll for the pipes and exits of all children: readiness as plain calls, no task per pipe.

`run` is two trio tasks: one waits for the epoll and calls what was registered for each ready file, the
other calls what was put off with `later` when the loop has run what else was ready. A registered call must
cope with a false alarm: a file number may have been closed and given out again within one round.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable
from typing import Final

import trio

READABLE: Final = select.EPOLLIN
WRITABLE: Final = select.EPOLLOUT
#: Files served in one round; the rest comes in the next.
_MOST_READY: Final = 256


class Watch:
    """Registered files and put-off calls. Everything runs in the loop's thread."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        self._calls: dict[int, Callable[[], None]] = {}
        self._later: list[Callable[[], None]] = []
        self.in_round = False
        self._flusher = trio.lowlevel.ParkingLot()

    def add(self, file: int, call: Callable[[], None], what: int = READABLE) -> None:
        """Call `call` whenever `file` is ready, until it is removed."""
        self._calls[file] = call
        self._epoll.register(file, what)

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
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._flush_for_ever)
            await self._serve_for_ever()

    async def serve_once(self) -> None:
        """Wait for readiness and serve one round: for the end, when `run` is cancelled already."""
        await trio.lowlevel.wait_readable(self._epoll.fileno())
        self._serve_round()

    def close(self) -> None:
        self._epoll.close()

    async def _serve_for_ever(self) -> None:
        epoll_file = self._epoll.fileno()
        while True:
            await trio.lowlevel.wait_readable(epoll_file)
            self._serve_round()

    def _serve_round(self) -> None:
        self.in_round = True
        try:
            for file, _ in self._epoll.poll(0, _MOST_READY):
                call = self._calls.get(file)
                if call is not None:
                    call()
        finally:
            self.in_round = False
        self._flush()

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
