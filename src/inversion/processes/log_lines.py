"""What a child prints that is no frame, as log lines: always drained, capped, its tail kept for errors.

A line is cut at 8 KiB and a second's worth at 64 KiB; what is over is counted and told once a second.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

#: (function, stream, text): observe.logs in the server, a list in a test.
LogLine = Callable[[str, str, str], None]

#: Longer lines are rarely read and fill disks.
LINE_BYTES: Final = 8 << 10
#: A function that prints in a loop must not become the node's main work.
SECOND_BYTES: Final = 64 << 10
#: What the shortest line counts for: a log line takes more room and work than its text.
_LEAST_BYTES: Final = 64
#: Enough for a traceback's end in a problem body.
TAIL_BYTES: Final = 4 << 10


class LogLines:
    """One stream of one child."""

    def __init__(self, function: str, stream: str, log_line: LogLine) -> None:
        self._function = function
        self._stream = stream
        self._log_line = log_line
        self._tail = b""
        self._partial = b""
        self._cut = False  # the rest of the present line is dropped
        self._second_began_s = 0.0
        self._second_bytes = 0
        self._dropped_bytes = 0

    @property
    def tail(self) -> str:
        """The last 4 KiB."""
        return self._tail.decode(errors="replace").strip()

    def feed(self, data: bytes, now_s: float) -> None:
        """Bytes as they were read."""
        self._tail = (self._tail + data)[-TAIL_BYTES:]
        self._turn_second(now_s)
        if self._second_bytes >= SECOND_BYTES:
            self._drop(data)
            return
        *lines, rest = data.split(b"\n")
        for number, line in enumerate(lines):
            self._end_line(line)
            if self._second_bytes >= SECOND_BYTES:
                self._drop(b"\n".join((*lines[number + 1 :], rest)))
                return
        self._grow(rest)

    def lines(self, texts: Sequence[bytes], now_s: float) -> None:
        """Whole lines that were found among frames."""
        self._turn_second(now_s)
        for number, text in enumerate(texts):
            if self._second_bytes >= SECOND_BYTES:
                self._dropped_bytes += sum(map(len, texts[number:]))
                return
            self._emit(text)

    def sweep(self, now_s: float) -> None:
        """Time has passed: what was dropped is told though nothing more may come."""
        if self._dropped_bytes:
            self._turn_second(now_s)

    def end(self) -> None:
        """The stream is over: what has no newline is a line too."""
        if self._partial:
            self._end_line(b"")
        self._tell_dropped()

    def _turn_second(self, now_s: float) -> None:
        if now_s - self._second_began_s >= 1.0:
            self._second_began_s = now_s
            self._second_bytes = 0
            self._tell_dropped()

    def _tell_dropped(self) -> None:
        if self._dropped_bytes:
            text = f"[{self._dropped_bytes} bytes dropped: more than {SECOND_BYTES >> 10} KiB in a second]"
            self._log_line(self._function, self._stream, text)
            self._dropped_bytes = 0

    def _drop(self, data: bytes) -> None:
        self._dropped_bytes += len(data) + len(self._partial)
        self._partial = b""
        self._cut = bool(data) and not data.endswith(b"\n")

    def _grow(self, piece: bytes) -> None:
        if self._cut or not piece:
            return
        self._partial += piece
        if len(self._partial) > LINE_BYTES:
            self._emit(self._partial)
            self._partial = b""
            self._cut = True

    def _end_line(self, piece: bytes) -> None:
        if self._cut:
            self._cut = False
        elif self._partial:
            line, self._partial = self._partial + piece, b""
            self._emit(line)
        else:
            self._emit(piece)

    def _emit(self, line: bytes) -> None:
        self._second_bytes += max(min(len(line), LINE_BYTES) + 1, _LEAST_BYTES)
        text = line[:LINE_BYTES].decode(errors="replace").rstrip("\r")
        if len(line) > LINE_BYTES:
            text += f" [cut at {LINE_BYTES} bytes]"
        self._log_line(self._function, self._stream, text)
