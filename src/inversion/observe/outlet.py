"""Lines to a stream, without ever blocking the loop.

A log that nobody reads (a full pipe, a stopped terminal) or that finds its disk full must not stop the
node: `write` hands over what the stream takes now and keeps the rest, up to a bound; past it lines are
dropped and counted, and the count is told once there is room again. `sweep` looks whether there is;
`flush` gives the rest a last bounded chance at the end.
A pipe that polls writable takes PIPE_BUF bytes at once, so chunks are of that size. Lines that come thick
wait for the sweep and go together: each write wakes whoever reads. The descriptor's own
flags are left alone: standard error is shared with whoever started us.
"""

from __future__ import annotations

import errno
import select
from collections import deque
from collections.abc import Callable
from io import UnsupportedOperation
from os import write as write_descriptor
from typing import Final, TextIO

_CHUNK_BYTES: Final = select.PIPE_BUF
#: About a second of a node that logs as fast as it can.
_MOST_KEPT_BYTES: Final = 4 << 20
#: Handed over at once between two sweeps, line by line: what a person writes to see, or a traceback.
_AT_ONCE: Final = 20
#: Of a disk: somebody will make room.
_FULL: Final = frozenset((errno.ENOSPC, errno.EDQUOT))


class Outlet:
    """One stream that lines go to; `dropped` counts those that found no room."""

    def __init__(self, stream: TextIO, tell_dropped: Callable[[int], str]) -> None:
        self._stream = stream
        self._tell_dropped = tell_dropped
        self._kept: deque[bytes] = deque()
        self._kept_bytes = 0
        self._untold = 0
        self._since_sweep = 0
        self.dropped = 0
        try:
            self._descriptor: int | None = stream.fileno()
        except (UnsupportedOperation, AttributeError, ValueError):
            self._descriptor = None  # a stream in memory
        else:
            self._poll = select.poll()
            self._poll.register(self._descriptor, select.POLLOUT)

    def write(self, line: str, *, may_wait: bool = False) -> None:
        """Write one line (without its newline), or keep it for later, or drop and count it.

        One that `may_wait` is kept for the sweep when there have been many since the last.
        """
        if self._descriptor is None:
            self._stream.write(line + "\n")
            return
        data = line.encode("utf-8", "backslashreplace") + b"\n"
        if self._kept_bytes + len(data) > _MOST_KEPT_BYTES:
            self.flush()
        if self._kept_bytes + len(data) > _MOST_KEPT_BYTES:
            self.dropped += 1
            self._untold += 1
            return
        if self._untold:
            self._tell()
        self._keep(data)
        self._since_sweep += 1
        if not may_wait or self._since_sweep <= _AT_ONCE:
            self.flush()

    def sweep(self) -> None:
        """Every 50 ms: the reader may be back, or the disk have room."""
        self._since_sweep = 0
        if self._kept:
            self.flush()
        if self._untold and not self._kept:
            self._tell()
            self.flush()

    def flush(self, wait_ms: int = 0) -> None:
        """Hand over what is kept; each chunk may wait `wait_ms` for the stream."""
        while self._kept and self._descriptor is not None:
            try:
                events = self._poll.poll(wait_ms)
                if not events:
                    return
                data = self._gather()
                count = write_descriptor(self._descriptor, data[:_CHUNK_BYTES])
            except BlockingIOError:
                return  # somebody else filled the pipe between the two calls
            except OSError as error:
                if error.errno not in _FULL:
                    self._forget()  # the reader is gone: there is nobody left to tell
                return
            self._kept_bytes -= count
            if count == len(data):
                self._kept.popleft()
            else:
                self._kept[0] = data[count:]

    def _gather(self) -> bytes:
        """The oldest lines that fit into one chunk, as the first of `_kept`."""
        lines = [self._kept.popleft()]
        room = _CHUNK_BYTES - len(lines[0])
        while self._kept and len(self._kept[0]) <= room:
            lines.append(self._kept.popleft())
            room -= len(lines[-1])
        self._kept.appendleft(b"".join(lines))
        return self._kept[0]

    def _tell(self) -> None:
        told = self._tell_dropped(self._untold).encode() + b"\n"
        self._untold = 0
        self._keep(told)

    def _keep(self, data: bytes) -> None:
        self._kept.append(data)
        self._kept_bytes += len(data)

    def _forget(self) -> None:
        self.dropped += sum(data.count(b"\n") for data in self._kept)
        self._kept.clear()
        self._kept_bytes = 0
