"""A chunked body (RFC 9112, section 7.1); sans-IO, and as strict as framing.py."""

from __future__ import annotations

import re
from typing import Final

from inversion.http.framing import body_too_large, refused

#: All extensions of one body together: nobody sends them, and they are not counted as body.
MAX_EXTENSION_BYTES: Final = 256
#: 2^32 - 1 in hexadecimal.
_MAX_SIZE_DIGITS: Final = 8
_MAX_CHUNK_LINE_BYTES: Final = MAX_EXTENSION_BYTES + _MAX_SIZE_DIGITS + 2
_LINE_END: Final = b"\r\n"
_CHUNK_LINE = re.compile(rb"([0-9A-Fa-f]+)(;[\t\x20-\x7e\x80-\xff]*)?")


class Chunks:
    """A chunked body in the making: `feed` it until it returns what lies behind, `take` what is there."""

    __slots__ = ("_body", "_body_bytes", "_closing", "_due", "_extension_bytes", "_last", "_left")

    def __init__(self, body_bytes: float) -> None:
        self._body_bytes = body_bytes  #: not yet taken, at most
        self._body = bytearray()
        self._left = bytearray()  #: read, not yet understood
        self._due = 0  #: bytes of the current chunk still to come
        self._closing = False  #: the CRLF behind a chunk's bytes is due
        self._last = False
        self._extension_bytes = 0

    @property
    def body(self) -> bytes:
        return bytes(self._body)

    @property
    def untaken_bytes(self) -> int:
        return len(self._body)

    def take(self) -> bytes:
        """What is there of the body, and is forgotten here."""
        body = bytes(self._body)
        self._body.clear()
        return body

    def feed(self, data: bytes) -> bytes | None:
        """None: there is more to come. Else the bytes after the body. Raises RequestRefused."""
        left = self._left
        left += data
        position = 0
        while True:
            if self._due:
                part = left[position : position + self._due]
                self._body += part
                position += len(part)
                self._due -= len(part)
                if self._due:
                    break
                self._closing = True
            if self._closing:
                ending = left[position : position + 2]
                if not _LINE_END.startswith(ending):
                    raise refused("a chunk is longer than its size")
                if len(ending) < 2:
                    break
                position += 2
                self._closing = False
            line_end = left.find(b"\n", position)
            if line_end < 0:
                if len(left) - position > _MAX_CHUNK_LINE_BYTES:
                    raise refused("a chunk size line is too long")
                break
            if line_end == position or left[line_end - 1] != 0x0D:
                raise refused("a line between chunks ends with a bare LF")
            line = bytes(left[position : line_end - 1])
            position = line_end + 1
            if self._last:
                if line:
                    raise refused("trailers are not taken")
                return bytes(left[position:])
            self._begin(line)
        del left[:position]
        return None

    def _begin(self, line: bytes) -> None:
        match = _CHUNK_LINE.fullmatch(line)
        if match is None or len(match[1]) > _MAX_SIZE_DIGITS:
            raise refused("a chunk does not begin with its size")
        if match[2] is not None:
            self._extension_bytes += len(match[2])
            if self._extension_bytes > MAX_EXTENSION_BYTES:
                raise refused(f"chunk extensions are longer than {MAX_EXTENSION_BYTES} bytes")
        self._due = int(match[1], 16)
        self._last = self._due == 0
        if len(self._body) + self._due > self._body_bytes:
            raise body_too_large(int(self._body_bytes))
