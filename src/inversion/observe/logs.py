"""The only door to structlog: what is logged, in which style, where to.

`get_logger(name)` may be called at import time; `configure` decides later, for all of them, what a line
looks like: "readable" for people, "json" for machines, one event a line. Control characters are
escaped, secrets are masked, and writing never blocks (observe/outlet.py).
Before `configure` lines go to standard error, readable.
"""

from __future__ import annotations

import os
import re
import sys
from collections.abc import Mapping, MutableMapping
from datetime import UTC, datetime
from enum import Enum
from typing import Final, Protocol, TextIO, cast

import structlog

from inversion import json_text
from inversion.observe.outlet import Outlet


class Style(Enum):
    READABLE = "readable"
    JSON = "json"


class Level(Enum):
    """The least level that is shown."""

    DEBUG = 10
    INFO = 20
    WARNING = 30
    ERROR = 40


class Logger(Protocol):
    """An event is a few words in snake_case or a sentence; what varies goes into fields."""

    def debug(self, event: str, **fields: object) -> None: ...

    def info(self, event: str, **fields: object) -> None: ...

    def warning(self, event: str, **fields: object) -> None: ...

    def error(self, event: str, **fields: object) -> None: ...

    def exception(self, event: str, **fields: object) -> None: ...

    def bind(self, **fields: object) -> Logger: ...


#: A function's line is cut here: whole payloads do not belong into logs.
_MOST_TEXT_CHARACTERS: Final = 8_192

_SECRET_NAME = re.compile(r"token|passw|secret|authorization|cookie|api_?key|credential", re.IGNORECASE)
#: The password of a URL (a database's may hold / and @ by mistake), or of a key=value connection string,
#: and what an Authorization field carries.
_SECRET_TEXT = re.compile(
    r"(postgres(?:ql)?://[^/\s:@]*:|://[^/\s:@]*:(?=[^/\s]*@))\S*(?=@)"
    r"|(\w*password\s*=\s*)(?:'(?:[^'\\]|\\.)*'|[^\s&]+)|(\bbearer\s+)\S+",
    re.IGNORECASE,
)
_MASK: Final = "***"
#: What JSON itself leaves as it is: C1 controls, separators that some readers take for a new line, marks that
#: turn the direction of writing, lone surrogates (which are no UTF-8 at all).
_LEFT_BY_JSON: Final = "\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff"
_CONTROLS_IN_JSON = re.compile(f"[{_LEFT_BY_JSON}]")
_CONTROLS = re.compile(f"[\x00-\x1f{_LEFT_BY_JSON}]")
_NEEDS_QUOTES = re.compile(r'[\s"=]|^$')

_DIM, _BOLD, _YELLOW, _RED, _CYAN, _PLAIN = (
    "\x1b[2m",
    "\x1b[1m",
    "\x1b[33m",
    "\x1b[31m",
    "\x1b[36m",
    "\x1b[0m",
)
_COLOURS: Final = {"warning": _YELLOW, "error": _RED, "critical": _RED, "debug": _DIM}


def get_logger(name: str) -> Logger:
    """The logger of one module or part; `name` stands in every line."""
    return cast(Logger, structlog.get_logger().bind(logger=name))


def configure(
    style: Style = Style.READABLE,
    stream: TextIO | None = None,
    *,
    level: Level = Level.INFO,
    colour: bool | None = None,
    node: int | None = None,
) -> None:
    """Decide for every logger, old and new. `colour` None: only on a terminal without NO_COLOR.

    `node` stands in every line.
    """
    stream = sys.stderr if stream is None else stream
    _sink.style = style
    _sink.level = level
    _sink.colour = _is_terminal(stream) if colour is None else colour
    _sink.outlet = Outlet(stream, _sink.dropped_line)
    _sink.always = {} if node is None else {"node": node}


def is_coloured() -> bool:
    """What `configure` has come to."""
    return _sink.colour


def relay(line: str) -> None:
    """A line of another process of ours, as it is: one of its functions may be flooding."""
    _sink.outlet.write(line, may_wait=True)


def flush() -> None:
    """At the very end: give lines that are still kept a short last chance."""
    _sink.outlet.flush(wait_ms=200)


def sweep() -> None:
    """Every 50 ms: hand over what found no room before."""
    _sink.outlet.sweep()


def function_line(function: str, stream: str, text: str) -> None:
    """One line that a function wrote: `stream` is "stderr", or "stdout" for a stray one.

    Not through structlog, which takes as long again: a function may write a thousand lines a second.
    """
    if _sink.level.value <= Level.INFO.value:
        shown = _presentable("text", text)
        fields: dict[str, object] = {"logger": "function", "function": function, "stream": stream}
        line = _sink.line("info", {**fields, "text": shown, "event": "function_line"})
        _sink.outlet.write(line, may_wait=True)


def escape(text: str) -> str:
    """`text` on one line, its control characters visible."""
    return _CONTROLS.sub(_escaped, text)


def mask(text: str) -> str:
    """`text` without the passwords of the URLs and connection strings in it, and without bearer tokens."""
    if "://" in text or "password" in (lower := text.lower()) or "bearer" in lower:
        return _SECRET_TEXT.sub(lambda match: f"{match[1] or match[2] or match[3]}{_MASK}", text)
    return text


def _escaped(match: re.Match[str]) -> str:
    point = ord(match[0])
    named = {9: "\\t", 10: "\\n", 13: "\\r"}.get(point)
    return named or (f"\\x{point:02x}" if point < 256 else f"\\u{point:04x}")


def _is_terminal(stream: TextIO) -> bool:
    return "NO_COLOR" not in os.environ and stream.isatty()


class _Sink:
    """What every logger ends in. One per process, as standard error is."""

    def __init__(self) -> None:
        self.style = Style.READABLE
        self.level = Level.INFO
        self.colour = False
        self.always: Mapping[str, object] = {}
        self.outlet = Outlet(sys.stderr, self.dropped_line)

    def process(self, _: object, method: str, event: MutableMapping[str, object]) -> str:
        """The last structlog processor: an event becomes a line, or is not wanted."""
        if Level[method.upper()].value < self.level.value:
            raise structlog.DropEvent
        return self.line(method, {name: _presentable(name, value) for name, value in event.items()})

    def write(self, line: str) -> None:
        """What structlog calls a logger's method: all levels go the same way."""
        self.outlet.write(line)

    debug = info = warning = error = write

    def line(self, level: str, fields: dict[str, object]) -> str:
        now = datetime.now(UTC)
        if self.always:
            fields = {**fields, **self.always}
        if self.style is Style.JSON:
            time = now.isoformat(timespec="milliseconds").replace("+00:00", "Z")
            event = {name: _in_json(value) for name, value in fields.items()}
            return json_text.encode({"time": time, "level": level, **event}).decode()
        return self._readable(now, level, fields)

    def dropped_line(self, count: int) -> str:
        return self.line("warning", {"event": "log_lines_dropped", "logger": "logs", "count": count})

    def _readable(self, now: datetime, level: str, fields: Mapping[str, object]) -> str:
        rest = dict(fields)
        time = self._paint(_DIM, now.astimezone().strftime("%H:%M:%S"))
        event = str(rest.pop("event"))
        name = str(rest.pop("logger", ""))
        if event == "function_line":
            function = self._paint(_CYAN, str(rest.pop("function")))
            sign = "|" if rest.pop("stream") == "stderr" else ">"
            text = escape(str(rest.pop("text")))
            return " ".join([time, function, sign, text, *self._pairs(rest)])
        shown = "" if level == "info" else self._paint(_COLOURS.get(level, ""), level) + " "
        trace = str(rest.pop("exception", "")).splitlines()
        head = [time, f"{shown}{self._paint(_DIM, name)}", self._paint(_BOLD, escape(event))]
        # Only our own tracebacks take more than one line, and only for people.
        return "\n    ".join([" ".join([*head, *self._pairs(rest)]), *map(escape, trace)])

    def _pairs(self, fields: Mapping[str, object]) -> list[str]:
        return [f"{self._paint(_DIM, name + '=')}{_quoted(value)}" for name, value in fields.items()]

    def _paint(self, colour: str, text: str) -> str:
        return f"{colour}{text}{_PLAIN}" if self.colour and colour else text


def _presentable(name: str, value: object) -> object:
    """A field as both styles can show it: plain, bounded, no secret."""
    if _SECRET_NAME.search(name):
        return _MASK
    if value is None or isinstance(value, bool | int | float):
        return value if not isinstance(value, int) or -(2**63) <= value < 2**64 else str(value)
    text = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
    if len(text) > _MOST_TEXT_CHARACTERS:
        text = f"{text[:_MOST_TEXT_CHARACTERS]}... ({len(text) - _MOST_TEXT_CHARACTERS} more)"
    return mask(text)


def _in_json(value: object) -> object:
    return _CONTROLS_IN_JSON.sub(_escaped, value) if isinstance(value, str) else value


def _quoted(value: object) -> str:
    text = escape(str(value))
    return '"' + text.replace('"', '\\"') + '"' if _NEEDS_QUOTES.search(text) else text


_sink: Final = _Sink()

structlog.configure(
    processors=[structlog.processors.format_exc_info, _sink.process],
    wrapper_class=structlog.make_filtering_bound_logger(Level.DEBUG.value),
    logger_factory=lambda *_: _sink,
    cache_logger_on_first_use=True,
)
