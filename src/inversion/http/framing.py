"""Where one request ends and the next begins; sans-IO.

`HeadParser.parse` takes exactly one head (httptools reads it; field lines that a client repeats byte for
byte, but for the value of its Idempotency-Key, are read once) and `chunks.Chunks` takes what follows when it
is chunked. Both refuse whatever two readers could read differently: after a refusal the connection is
answered once and closed, and no byte behind it is looked at (RFC 9112, sections 6.3 and 11.2).
httptools never sees the bytes of a second request before the first was answered.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final

import attrs
import httptools

from inversion.errors import Code, RequestRefused

#: What h11 and nginx settle on; real heads are under 2 KiB. The blank line counts.
MAX_HEAD_BYTES: Final = 16 << 10
#: Browsers send about 15.
MAX_FIELDS: Final = 100
#: A key of 200 bytes, percent-encoded, is 600.
MAX_TARGET_BYTES: Final = 8 << 10
#: More digits than any body limit needs, few enough never to overflow a reader in front of us.
_MAX_LENGTH_DIGITS: Final = 15

_LINE_END: Final = b"\r\n"
HEAD_END: Final = b"\r\n\r\n"

_HOST = re.compile(rb"(?:[A-Za-z0-9._~!$&'()*+;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]{0,5})?")
#: What may follow known field lines: a strict part of what httptools takes; all else goes to httptools.
_PLAIN_LINE = re.compile(
    rb"(GET|HEAD|POST|PUT|PATCH|DELETE) (/[A-Za-z0-9._~:@!$&'()*+,;=%/-]*)"
    rb"(?:\?([A-Za-z0-9._~:@!$&'()*+,;=%/?-]*))? HTTP/1\.1"
)
#: The value that differs from request to request: nothing in it ends a line or is trimmed.
_KEY_LINE = re.compile(rb"(?i)\r\nidempotency-key:[ \t]*([!-~]+)(?=\r\n)")
_KEY_VALUE = re.compile(rb"[!-~]+")
#: Known field lines are kept for each connection: 10,000 of them must not add up to much.
_MAX_KNOWN_BYTES: Final = 2 << 10
#: Fields that need a look; a head without them is done at once.
_NOTABLE: Final = frozenset(
    (
        b"transfer-encoding",
        b"upgrade",
        b"trailer",
        b"content-encoding",
        b"expect",
        b"connection",
        b"proxy-connection",
    )
)
#: Fields whose repetition could mean two things.
_SINGLE: Final = frozenset(
    (
        b"host",
        b"content-length",
        b"transfer-encoding",
        b"content-encoding",
        b"content-type",
        b"expect",
        b"authorization",
        b"origin",
        b"inversion-timeout",
        b"idempotency-key",
        b"if-match",
    )
)


@attrs.define(slots=True, eq=False)
class HttpRequest:
    """One request as it came. Field names are lower case; repeated fields are joined by ", "."""

    method: bytes
    path: bytes  #: not percent-decoded
    query: bytes | None  #: None: there was no question mark
    fields: Mapping[bytes, bytes]  #: until it is answered: a later request that repeats them changes the key
    body: bytes = b""  #: read after the head, by the connection
    length: int | None = 0  #: bytes of body that the head announced; None: it comes in chunks
    keep_alive: bool = True
    old: bool = False  #: HTTP/1.0
    expects_continue: bool = False
    early: bool = False  #: its head came before a drain began, the last of its body after


def refused(detail: str, code: Code = Code.BAD_REQUEST) -> RequestRefused:
    """What the caller is told before the connection is closed."""
    return RequestRefused(code, detail)


def head_too_large(begin: bytes) -> RequestRefused:
    """Why a head that did not end within its limit is refused."""
    if begin.find(_LINE_END, 0, MAX_TARGET_BYTES + 64) < 0:
        return refused(f"the request target is longer than {MAX_TARGET_BYTES} bytes", Code.TARGET_TOO_LONG)
    return refused(f"the request head is larger than {MAX_HEAD_BYTES} bytes", Code.HEAD_TOO_LARGE)


def body_too_large(body_bytes: int) -> RequestRefused:
    """A body over `limits.body`."""
    return refused(f"the body is larger than {body_bytes} bytes (limits.body)", Code.BODY_TOO_LARGE)


class HeadParser:
    """Reads the heads of one connection, one after another."""

    __slots__ = (
        "_around_key",
        "_body_bytes",
        "_fed",
        "_fields",
        "_known",
        "_known_length",
        "_known_lines",
        "_parser",
        "_repeated",
        "_streamed",
        "_target",
    )

    def __init__(self, body_bytes: int, streamed: bytes | None = None) -> None:
        """`streamed`: a body for a path that begins with this has no limit, and any encoding."""
        self._body_bytes = body_bytes
        self._streamed = streamed
        self._parser = httptools.HttpRequestParser(self)
        self._fields: dict[bytes, bytes] = {}
        self._repeated: list[bytes] = []
        self._target = b""
        self._fed = False  #: httptools has read the current head
        # Of a head whose field lines are known; not the request itself, which gets a body.
        self._known: dict[bytes, bytes] | None = None
        self._known_length: int | None = 0
        self._known_lines = b""
        self._around_key: tuple[bytes, bytes] | None = None  # the same lines before and behind that value

    # What httptools calls; nothing is decided in here.

    def on_url(self, url: bytes) -> None:
        self._target += url

    def on_header(self, name: bytes, value: bytes) -> None:
        name = name.lower()
        value = value.rstrip(b" \t")  # httptools leaves them there; they are no part of it (RFC 9112, 5.1)
        fields = self._fields
        if name in fields:
            self._repeated.append(name)
            value = fields[name] + b", " + value
        fields[name] = value

    def parse(self, head: bytes) -> HttpRequest:
        """One head, its closing blank line included. Raises RequestRefused."""
        line_end = head.find(_LINE_END)
        lines = head[line_end:]
        known = self._known
        if known is not None and line_end <= MAX_TARGET_BYTES:
            fields = known if lines == self._known_lines else self._with_another_key(known, lines)
            line = None if fields is None else _PLAIN_LINE.fullmatch(head, 0, line_end)
            if fields is not None and line is not None:
                self._fed = False
                method, path, query = line.groups()
                return HttpRequest(method, path, query, fields, b"", self._known_length)
        self._fed = True
        request = self._parse(head, line_end)
        if (
            not self.is_streamed(request)  # a known one would not be looked at again
            and request.keep_alive
            and not request.old
            and not request.expects_continue
            and request.length is not None
            and line_end > 0
            and len(lines) <= _MAX_KNOWN_BYTES
        ):
            self._known = self._fields
            self._known_length = request.length
            self._known_lines = lines
            found = _KEY_LINE.search(lines) if b"idempotency-key" in request.fields else None
            self._around_key = None if found is None else (lines[: found.start(1)], lines[found.end(1) :])
        return request

    def is_streamed(self, request: HttpRequest) -> bool:
        """Whether its body goes on as it comes."""
        return self._streamed is not None and request.path.startswith(self._streamed)

    def _with_another_key(self, known: dict[bytes, bytes], lines: bytes) -> dict[bytes, bytes] | None:
        """The fields of lines that differ from the known ones in the value of Idempotency-Key alone."""
        if self._around_key is None or len(lines) > _MAX_KNOWN_BYTES:
            return None
        before, behind = self._around_key
        if not (lines.startswith(before) and lines.endswith(behind)):
            return None
        value = lines[len(before) : -len(behind)]
        if _KEY_VALUE.fullmatch(value) is None:
            return None
        # Not a copy: the request before, which has them too, has been answered.
        known[b"idempotency-key"] = value
        self._known_lines = lines
        return known

    def _parse(self, head: bytes, line_end: int) -> HttpRequest:
        if line_end == 0:  # one empty line before a request is tolerated (RFC 9112, 2.2)
            head = head[2:]
            line_end = head.find(_LINE_END)
        if len(head) > MAX_HEAD_BYTES:
            raise head_too_large(head)
        version = head[line_end - 9 : line_end] if line_end > 9 else b""
        if version == b" HTTP/1.1":
            old = False
        elif version == b" HTTP/1.0":
            old = True
        else:
            raise refused("the first line is not a request of HTTP/1.1 or HTTP/1.0")
        if not head[:1].isalpha():  # httptools passes over a CR
            raise refused("the first line does not begin with a method")
        if head.count(b" ", 0, line_end) != 2:
            raise refused("the request line has more than two spaces: percent-encode those in the target")
        lines = head.count(_LINE_END)
        if head.count(b"\n") != lines:
            raise refused("a line of the head ends with a bare LF")
        if lines - 2 > MAX_FIELDS:
            raise refused(f"the head has more than {MAX_FIELDS} fields", Code.HEAD_TOO_LARGE)

        fields: dict[bytes, bytes] = {}
        self._fields = fields
        self._repeated.clear()
        self._target = b""
        try:
            self._parser.feed_data(head)
        except httptools.HttpParserUpgrade:
            raise refused("neither CONNECT nor Upgrade is offered here") from None
        except httptools.HttpParserInvalidURLError:
            raise refused("the request target holds a byte that must be percent-encoded") from None
        except httptools.HttpParserError as error:
            raise refused(f"not a valid head: {error}") from None

        path, question, query = self._path(fields).partition(b"?")
        request = HttpRequest(head[: head.find(b" ", 0, line_end)], path, query if question else None, fields)
        _check_host(fields, old)
        if self._repeated:
            for name in self._repeated:
                if name in _SINGLE:
                    raise refused(f"the field {name.decode('ascii')} is there more than once")
        self._frame(request, fields, old)
        return request

    def skip(self, body: bytes) -> None:
        """Take the parser over a body of known length, to where the next head begins."""
        if self._fed:
            self._parser.feed_data(body)

    def restart(self) -> None:
        """Forget where the parser stood: the body came in chunks, which it never saw."""
        self._parser = httptools.HttpRequestParser(self)

    def close(self) -> None:
        """Break the cycle between this object and the parser that calls it."""
        del self._parser

    def _path(self, fields: Mapping[bytes, bytes]) -> bytes:
        target = self._target
        if len(target) > MAX_TARGET_BYTES:
            raise refused(f"the request target is longer than {MAX_TARGET_BYTES} bytes", Code.TARGET_TOO_LONG)
        if target[:1] != b"/":
            # The absolute form (RFC 9112, 3.2.2) is taken when it names the host that Host names.
            authority = b"://" + fields.get(b"host", b"") + b"/"
            scheme, found, rest = target.partition(authority)
            if not found or scheme.lower() not in (b"http", b"https"):
                raise refused("the request target is neither a path nor a URL of this host")
            target = b"/" + rest
        if b"#" in target:
            raise refused("the request target holds a fragment")
        return target

    def _frame(self, request: HttpRequest, fields: Mapping[bytes, bytes], old: bool) -> None:
        """How long the body is, by the one reading that everybody shares."""
        length: int | None = 0
        stated = fields.get(b"content-length")
        if stated is not None:
            if not stated.isdigit() or len(stated) > _MAX_LENGTH_DIGITS:
                raise refused("Content-Length is not a plain number")
            length = int(stated)
        expects_continue = False
        keep_alive = not old
        if not _NOTABLE.isdisjoint(fields):
            if b"connection" in fields:
                # Not httptools' should_keep_alive: after a head without a body it has forgotten.
                options = [option.strip() for option in fields[b"connection"].lower().split(b",")]
                keep_alive = b"close" not in options and (not old or b"keep-alive" in options)
            if b"transfer-encoding" in fields:
                if old:
                    raise refused("Transfer-Encoding in HTTP/1.0")
                if stated is not None:
                    raise refused("Transfer-Encoding together with Content-Length")
                if fields[b"transfer-encoding"].lower() != b"chunked":
                    raise refused("the only Transfer-Encoding understood is chunked")
                length = None
            if b"proxy-connection" in fields:
                # httptools takes it for Connection and would read nothing behind a "close".
                self.restart()
                self._fed = False
            if b"upgrade" in fields:
                raise refused("Upgrade is not offered here: send plain HTTP/1.1")
            if b"trailer" in fields:
                raise refused("trailers are not taken")
            encoding = fields.get(b"content-encoding", b"identity").lower()
            if encoding != b"identity" and not self.is_streamed(request):
                raise refused("send the body uncompressed", Code.CONTENT_ENCODING)
            if b"expect" in fields:
                if fields[b"expect"].lower() != b"100-continue":
                    raise refused("the only Expect understood is 100-continue")
                expects_continue = not old
        if length is not None and length > self._body_bytes and not self.is_streamed(request):
            raise body_too_large(self._body_bytes)
        request.length = length
        request.keep_alive = keep_alive
        request.old = old
        request.expects_continue = expects_continue


def _check_host(fields: Mapping[bytes, bytes], old: bool) -> None:
    host = fields.get(b"host")
    if host is None:
        if not old:
            raise refused("HTTP/1.1 without a Host field")
    elif _HOST.fullmatch(host) is None:
        raise refused("the Host field is not one host")
