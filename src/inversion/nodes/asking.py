"""One request to one node: what came to the parent's admin door, over a connection that was handed over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import trio

from inversion.errors import Code, InversionError, Outcome
from inversion.http.framing import HEAD_END, HttpRequest
from inversion.http.service import HttpResponse

#: What is between two neighbours only, and what we say ourselves.
_OF_THIS_HOP: Final = frozenset(
    (b"connection", b"keep-alive", b"transfer-encoding", b"content-length", b"expect", b"date")
)
_READ_BYTES: Final = 1 << 16


def get(path: bytes) -> HttpRequest:
    """A question of the parent's own."""
    return HttpRequest(b"GET", path, None, {b"host": b"localhost"})


async def ask(stream: trio.SocketStream, request: HttpRequest) -> HttpResponse:
    """The node's answer, as if it had been asked directly. Raises InversionError: it ended meanwhile."""
    async with stream:
        try:
            await stream.send_all(_rendered(request))
            return await _answer(stream, request.method == b"HEAD")
        except (trio.BrokenResourceError, EOFError):
            raise InversionError(
                Code.DEADLINE,
                "the node that had this request ended before it answered: ask for the state, or ask again "
                "with the same Idempotency-Key",
                outcome=Outcome.UNKNOWN,
            ) from None


def _rendered(request: HttpRequest) -> bytes:
    target = request.path if request.query is None else b"%b?%b" % (request.path, request.query)
    lines = [b"%b %b HTTP/1.1" % (request.method, target)]
    lines += [b"%b: %b" % field for field in _passed_on(request.fields)]
    lines += [b"content-length: %d" % len(request.body), b"connection: close"]
    return b"\r\n".join(lines) + HEAD_END + request.body


def _passed_on(fields: Mapping[bytes, bytes]) -> list[tuple[bytes, bytes]]:
    return [(name, value) for name, value in fields.items() if name.lower() not in _OF_THIS_HOP]


async def _answer(stream: trio.SocketStream, of_head: bool) -> HttpResponse:
    data = b""
    while (end := data.find(HEAD_END)) < 0:
        data += await _some(stream)
    status_line, *lines = data[:end].split(b"\r\n")
    body = data[end + len(HEAD_END) :]
    fields, length = b"", 0
    for line in lines:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
        elif name.lower() not in _OF_THIS_HOP:
            fields += line + b"\r\n"
    while len(body) < length and not of_head:
        body += await _some(stream)
    return HttpResponse(int(status_line.split()[1]), fields, body)


async def _some(stream: trio.SocketStream) -> bytes:
    data = await stream.receive_some(_READ_BYTES)
    if not data:
        raise EOFError
    return bytes(data)
