"""What a child writes that is no answer may cost the loop a small share of its time.

`Noise` is a bucket of loop time for one pipe. When it is empty the pipe is left alone until a sweep: its
writer waits at a full pipe, everybody else is served. `LogPipe` is a pipe that nothing but log lines come
from. Always read on, never faster than that; a stream that says little never notices.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from time import perf_counter
from typing import Final

from inversion.processes.log_lines import LogLines
from inversion.watch import Watch

#: Of the loop's time, for each pipe: a neighbour's p99 must not show it.
SHARE: Final = 0.02
#: May be used up at once: the traceback and the greeting of an honest program are not held back.
BURST_S: Final = 0.02
#: Each answer earns so much: a program that prints some lines for each call is not held back, at any rate.
ANSWER_S: Final = 0.000_1
#: What one pass may cost, roughly. Others wait for it, several times during one call.
PASS_S: Final = 0.000_02
#: An overdraft is forgiven beyond that: the clock also counts what the machine did meanwhile.
_OVERDRAFT_S: Final = 0.002
#: Read at a time. Most lines are shorter than a tenth of it; more would cost more than a pass may.
_READ_BYTES: Final = 2 << 10
#: Where short lines are logged, each of them work, it becomes less.
_LEAST_READ_BYTES: Final = 64


class Noise:
    """A pipe's bucket. Whoever reads the pipe tells what that cost."""

    __slots__ = ("_file", "_paused", "_swept_s", "_watch", "left_s")

    def __init__(self, watch: Watch, file: int) -> None:
        self._watch = watch
        self._file = file
        self.left_s = BURST_S  #: whoever reads may add ANSWER_S for each answer
        self._swept_s = perf_counter()
        self._paused = False

    def spend(self, took_s: float) -> None:
        """So long the loop was busy with it. Perhaps the pipe is not read any more for now."""
        self.left_s = max(self.left_s - took_s, -_OVERDRAFT_S)
        if self.left_s <= 0 and not self._paused:
            self._paused = True
            self._watch.remove(self._file)

    def sweep(self, now_s: float, call: Callable[[], None]) -> None:
        """Time has passed: `call` reads the pipe again, if it was left alone and there is some share."""
        self.left_s = min(self.left_s + SHARE * (now_s - self._swept_s), BURST_S)
        self._swept_s = now_s
        if self._paused and self.left_s > 0:
            self._paused = False
            self._watch.add(self._file, call)

    def stop(self) -> None:
        """The pipe's end, or ours: it is not registered again."""
        self._paused = False


class LogPipe:
    """Reads a pipe into log lines until it ends. Whoever opened it closes it, after `stop`."""

    def __init__(self, watch: Watch, file: int, lines: LogLines) -> None:
        self._watch = watch
        self._file = file
        self._lines = lines
        self._read_bytes = _READ_BYTES
        self._noise = Noise(watch, file)
        self.stop = self._noise.stop
        watch.add(file, self._read)

    def sweep(self, now_s: float) -> None:
        self._noise.sweep(now_s, self._read)
        self._lines.sweep(now_s)

    def _read(self) -> None:
        now_s = perf_counter()
        try:
            data = os.read(self._file, self._read_bytes)
        except BlockingIOError:
            return
        if not data:
            self._watch.remove(self._file)
            return
        self._lines.feed(data, now_s)
        took_s = perf_counter() - now_s
        self._noise.spend(took_s)
        self._read_bytes = min(max(int(len(data) * PASS_S / took_s), _LEAST_READ_BYTES), _READ_BYTES)
