"""CGI/1.1 (RFC 3875) without I/O: what a program is told of a request, and what it says before its body.

`variables` makes the meta-variables; bytes that are no UTF-8 are carried as surrogates, as the environment
takes them. `HeadReader` is fed the program's output until its header lines are complete. Both refuse what
two readers could read differently. An NPH script (its output begins with HTTP/...) is refused by name.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote_to_bytes

import attrs

from inversion.errors import Code, RequestRefused

#: Of all header lines together: as much as servers take from behind a proxy.
MAX_HEAD_BYTES: Final = 64 << 10
#: Local redirects of one request: a browser follows 20, Apache 10.
MAX_HOPS: Final = 10
#: A program's first line, as far as an error repeats it.
_SHOWN_BYTES: Final = 60

#: nginx and Apache leave others out too: `X_Forwarded_For` and `X-Forwarded-For` would be one variable.
_FIELD_NAME = re.compile(rb"[a-z0-9-]+")
#: What of a Host may be SERVER_NAME: programs put it into links and, alas, into shells.
_SERVER_NAME = re.compile(rb"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")
_BAD_PERCENT = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_CONTROL = re.compile(rb"[\x00-\x1f\x7f]")
_DOTS: Final = frozenset((b".", b".."))
#: What concerns one connection, credentials (RFC 3875, 4.1.18), what has a variable of its own, and Proxy,
#: which HTTP libraries would take for the name of a proxy (httpoxy).
_NOT_PASSED: Final = frozenset(
    (
        b"authorization",
        b"connection",
        b"content-length",
        b"content-type",
        b"expect",
        b"keep-alive",
        b"proxy",
        b"proxy-authorization",
        b"proxy-connection",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)

_LINE = re.compile(rb"([!#$%&'*+.^_`|~0-9A-Za-z-]+):([^\x00-\x08\x0a-\x1f\x7f]*)")
_BLANK = re.compile(rb"\n\r?\n")
_STATUS = re.compile(rb"([2-5][0-9]{2})(?:[ \t]+([\t\x20-\x7e]*))?")
_LENGTH = re.compile(rb"[0-9]{1,15}")
_LOCATION = re.compile(rb"[!-~\x80-\xff]+")
#: The server's own: how the body is delimited, when and under which id it was answered.
_NOT_TAKEN: Final = frozenset(
    (
        b"connection",
        b"content-length",
        b"date",
        b"inversion-id",
        b"keep-alive",
        b"location",
        b"proxy-connection",
        b"status",
        b"te",
        b"trailer",
        b"transfer-encoding",
        b"upgrade",
    )
)
#: Said twice they would mean two things.
_SINGLE: Final = frozenset((b"content-length", b"content-type", b"location", b"status"))
_NO_BODY: Final = frozenset((204, 205, 304))


@attrs.frozen(slots=True)
class Asked:
    """A request as a program is told of it."""

    method: bytes
    script: bytes  #: the path that names the function
    path: bytes  #: what follows it, empty or from a slash on; not percent-decoded
    query: bytes | None
    fields: Mapping[bytes, bytes]  #: names in lower case
    length: int | None  #: of the body; None: there is none, or it is not known before its end
    old: bool  #: HTTP/1.0
    client: tuple[str, int]  #: address and port
    server: tuple[str, int]


def variables(asked: Asked, software: str) -> dict[str, str]:
    """The meta-variables. Raises RequestRefused for a path that no program should be given."""
    fields = asked.fields
    path = read_path(asked.path)
    host, port = asked.server
    named = _SERVER_NAME.fullmatch(fields.get(b"host", b""))
    target = asked.script + asked.path
    env = {
        "GATEWAY_INTERFACE": "CGI/1.1",
        "QUERY_STRING": _text(asked.query or b""),
        "REMOTE_ADDR": asked.client[0],
        "REMOTE_HOST": asked.client[0],  # nobody looked for a name
        "REMOTE_PORT": str(asked.client[1]),
        "REQUEST_METHOD": _text(asked.method),
        "REQUEST_URI": _text(target if asked.query is None else b"%b?%b" % (target, asked.query)),
        "SCRIPT_NAME": _text(asked.script),
        "SERVER_NAME": _bracketed(host) if named is None else _text(named[1]),
        "SERVER_PORT": str(port),
        "SERVER_PROTOCOL": "HTTP/1.0" if asked.old else "HTTP/1.1",
        "SERVER_SOFTWARE": software,
    }
    if path:
        env["PATH_INFO"] = _text(path)
    if asked.length is not None:
        env["CONTENT_LENGTH"] = str(asked.length)
    if b"content-type" in fields:
        env["CONTENT_TYPE"] = _text(fields[b"content-type"])
    options = fields.get(b"connection", b"").lower().split(b",")
    of_connection = {option.strip() for option in options}
    for name, value in fields.items():
        if name not in _NOT_PASSED and name not in of_connection and _FIELD_NAME.fullmatch(name):
            env[f"HTTP_{name.decode('ascii').replace('-', '_').upper()}"] = _text(value)
    return env


def read_path(path: bytes) -> bytes:
    """PATH_INFO: decoded once. Raises RequestRefused."""
    if _BAD_PERCENT.search(path) is not None:
        raise _bad_path("holds a % that is not followed by two hexadecimal digits")
    decoded = unquote_to_bytes(path)
    if _CONTROL.search(decoded) is not None:
        raise _bad_path("holds a control character")
    if not _DOTS.isdisjoint(decoded.split(b"/")):
        raise _bad_path("holds a segment . or ..: a program could be led out of its folder")
    return decoded


def _bad_path(why: str) -> RequestRefused:
    return RequestRefused(Code.BAD_REQUEST, f"the path behind the function's name {why}")


def _text(value: bytes) -> str:
    return value.decode("utf-8", "surrogateescape")


def _bracketed(host: str) -> str:
    return f"[{host}]" if ":" in host else host


class BadAnswer(Exception):
    """A program's output is no CGI response; the text ends a sentence that begins with `it`."""


@attrs.frozen(slots=True)
class AnswerHead:
    """What a program said before its body."""

    status: int
    reason: bytes  #: empty: the usual one
    fields: bytes  #: whole lines
    length: int | None  #: of the body, if it said so
    local: bytes | None = None  #: path and query of a local redirect: nothing else counts then

    def has_body(self, method: bytes) -> bool:
        """Whether what follows is for the client (RFC 9110, 6.4.1)."""
        return method != b"HEAD" and self.status not in _NO_BODY


class HeadReader:
    """Takes a program's output until its header lines end; what lies behind them is `rest`."""

    def __init__(self) -> None:
        self._read = b""
        self._first_is_fine = False
        self.rest = b""

    @property
    def begun(self) -> bool:
        """Whether the program has said anything."""
        return bool(self._read)

    def feed(self, data: bytes) -> AnswerHead | None:
        """None: there is more to come. Raises BadAnswer."""
        searched = max(0, len(self._read) - 2)
        self._read += data
        if not self._first_is_fine:
            self._look_at_first()
        end = _BLANK.search(self._read, searched)
        if end is None and len(self._read) <= MAX_HEAD_BYTES:
            return None
        if end is None or end.start() > MAX_HEAD_BYTES:
            raise BadAnswer(f"printed more than {MAX_HEAD_BYTES} bytes of header lines without an empty line")
        self.rest = self._read[end.end() :]
        lines = self._read[: end.start()].split(b"\n")
        return _answer_head([line.removesuffix(b"\r") for line in lines])

    def _look_at_first(self) -> None:
        """Whoever prints no header at all is told at once, and of the first line."""
        line_end = self._read.find(b"\n")
        if line_end >= 0:
            _read_line(self._read[:line_end].removesuffix(b"\r"))
            self._first_is_fine = True


def _read_line(line: bytes) -> tuple[bytes, bytes]:
    if line.startswith(b"HTTP/"):
        raise BadAnswer(
            "printed a status line (HTTP/...), as an NPH script does: those are not run here, "
            "let it print `Status: 200 OK` in its place"
        )
    match = _LINE.fullmatch(line)
    if match is None:
        shown = line[:_SHOWN_BYTES].decode("utf-8", "replace")
        raise BadAnswer(
            f"printed {shown!r} where a header line is due: a CGI program prints lines such as "
            "`Content-Type: text/html`, an empty line, and then its body"
        )
    return match[1], match[2].strip(b" \t")


def _answer_head(lines: list[bytes]) -> AnswerHead:
    cgi: dict[bytes, bytes] = {}
    passed: list[bytes] = []
    for line in lines:
        name, value = _read_line(line)
        low = name.lower()
        if low in _SINGLE:
            if low in cgi:
                raise BadAnswer(f"printed {low.decode('ascii')} twice")
            cgi[low] = value
        if low not in _NOT_TAKEN and not low.startswith(b"x-cgi-"):
            passed.append(b"%b: %b\r\n" % (name, value))
    status, reason = _read_status(cgi.get(b"status"))
    length = cgi.get(b"content-length")
    if length is not None and _LENGTH.fullmatch(length) is None:
        raise BadAnswer("printed a Content-Length that is no number")
    location = cgi.get(b"location")
    if location is not None:
        if _LOCATION.fullmatch(location) is None:
            raise BadAnswer("printed a Location that is no URL")
        if location.startswith(b"/") and not location.startswith(b"//") and status in (None, 200):
            return AnswerHead(200, b"", b"", None, local=location.partition(b"#")[0])
        passed.append(b"Location: %b\r\n" % location)
        if status is None:
            status = 302
    return AnswerHead(status or 200, reason, b"".join(passed), None if length is None else int(length))


def _read_status(value: bytes | None) -> tuple[int | None, bytes]:
    if value is None:
        return None, b""
    match = _STATUS.fullmatch(value)
    if match is None:
        raise BadAnswer("printed a Status that is not three digits from 200 to 599 and some words")
    return int(match[1]), match[2] or b""
