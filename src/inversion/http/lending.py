"""A socket that is lent to a program for one request: its body in, the answer out, both as they come.

Whoever answers a request with a `Takeover` gets a `Lent`: nothing of it waits, the watch tells when it is
ready. The connection has its socket back when `Takeover.talk` returns. A body that is longer than what came
with its head makes the answer the last of its connection.
"""

from __future__ import annotations

import contextlib
import select
import socket
from collections.abc import Awaitable, Callable
from math import inf
from typing import Final

import attrs

from inversion.http.chunks import Chunks
from inversion.http.framing import HttpRequest
from inversion.http.service import CLOSE, CONTINUE, KEEP_ALIVE, STATUS_LINES, HttpResponse, Service
from inversion.processes.cgi_client import ClientGone, Framing
from inversion.watch import Interrupted

#: Read at a time from a client; also what is held of its body.
_READ_BYTES: Final = 256 << 10
_GONE: Final = select.POLLRDHUP | select.POLLHUP | select.POLLERR


@attrs.define(slots=True, eq=False)
class Takeover(HttpResponse):
    """In the place of an answer: `talk` is given the socket. What it returns, or raises, is then answered;
    after `Lent.begin` it returns None."""

    talk: Callable[[Lent], Awaitable[HttpResponse | None]]


def take_over(talk: Callable[[Lent], Awaitable[HttpResponse | None]]) -> Takeover:
    return Takeover(0, b"", b"", talk)


@attrs.define(slots=True, eq=False)
class Upload:
    """A body of which a part has come."""

    first: bytes  #: that part
    due: float  #: bytes to come: infinite while nobody knows
    chunks: Chunks | None = None  #: how they are cut
    behind: bytes = b""  #: what came after the body

    @staticmethod
    async def of(
        head: HttpRequest, ahead: bytes, collected_bytes: int, read: Callable[[], Awaitable[bytes]]
    ) -> Upload:
        """RFC 3875 wants to know the length. So of a chunked body as much is read beforehand as fits and
        comes before `read` is interrupted: if that is all of it, it has a length. Raises RequestRefused."""
        if head.length is not None:
            return Upload(ahead, head.length - len(ahead))
        chunks = Chunks(inf)
        behind = chunks.feed(ahead)
        with contextlib.suppress(Interrupted):  # it takes its time: it goes on without a length
            while behind is None and chunks.untaken_bytes < collected_bytes:
                behind = chunks.feed(await read())
        if behind is None:
            return Upload(chunks.take(), inf, chunks)
        return Upload(chunks.take(), 0, None, behind)

    def take(self, data: bytes) -> bytes:
        """What has come, as the program is to see it. Raises RequestRefused."""
        if self.chunks is None:
            self.due -= len(data)
            return data
        if self.chunks.feed(data) is not None:
            self.due = 0
        return self.chunks.take()


class Lent:
    """The socket of one connection. Satisfies processes.cgi_client.Client."""

    def __init__(self, sock: socket.socket, service: Service, request: HttpRequest, upload: Upload) -> None:
        self.request = request
        self.ended: Callable[[], None] = _nothing  #: told when the connection is closed meanwhile
        self.framing: Framing | None = None  #: None: nothing was sent yet
        self.keep_alive = False
        self.whole = False  #: the client was told all
        self._socket = sock
        self._service = service
        self._upload = upload

    @property
    def file(self) -> int:
        return self._socket.fileno()

    @property
    def client(self) -> tuple[str, int]:
        """Address and port; of a unix socket there is none. Raises ClientGone."""
        try:
            return _address(self._socket.getpeername())
        except OSError as error:
            raise ClientGone(error.errno, error.strerror) from None

    @property
    def server(self) -> tuple[str, int]:
        return _address(self._socket.getsockname())

    @property
    def body_done(self) -> bool:
        return not self._upload.due and not self._upload.first

    @property
    def length(self) -> int | None:
        """Of the body; None: there is none, or it is not known."""
        announced = b"content-length" in self.request.fields or b"transfer-encoding" in self.request.fields
        return self.request.length if announced else None

    def receive(self) -> bytes:
        upload = self._upload
        if upload.first:
            data, upload.first = upload.first, b""
            return data
        try:
            if self.request.expects_continue and upload.due:
                self.request.expects_continue = False
                self._socket.send(CONTINUE)
            data = self._socket.recv(int(min(_READ_BYTES, upload.due)))
        except BlockingIOError:
            return b""
        except OSError as error:
            raise ClientGone(error.errno, error.strerror) from None
        if not data:
            raise ClientGone
        return upload.take(data)

    def send(self, data: memoryview) -> int:
        try:
            return self._socket.send(data)
        except BlockingIOError:
            return 0
        except OSError as error:
            raise ClientGone(error.errno, error.strerror) from None

    def left(self) -> bool:
        poll = select.poll()
        poll.register(self._socket, select.POLLRDHUP)
        return any(event & _GONE for _, event in poll.poll(0))

    def begin(
        self, status: int, reason: bytes, fields: bytes, *, has_body: bool, length: int | None
    ) -> tuple[bytes, Framing]:
        """The head of an answer, and how its body is to be sent. From now on there is no other answer."""
        service, old = self._service, self.request.old
        framing: Framing
        delimiter = b""
        if not has_body:
            framing = _NoBody()
            if length is not None:
                delimiter = b"Content-Length: %d\r\n" % length
            elif status == 205:
                delimiter = b"Content-Length: 0\r\n"
        elif length is not None:
            framing = _Sized(length)
            delimiter = b"Content-Length: %d\r\n" % length
        elif old:
            framing = _ToTheEnd()
        else:
            framing = _Chunked()
            delimiter = b"Transfer-Encoding: chunked\r\n"
        self.framing = framing
        self.keep_alive = (
            self.request.keep_alive
            and self.body_done
            and not service.draining
            and not isinstance(framing, _ToTheEnd)
        )
        service.counters.requests_by_class[status // 100] += 1
        head = b"%b%b%b%b%b\r\n" % (
            b"HTTP/1.1 %d %b\r\n" % (status, reason)
            if reason
            else STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status,
            service.date_line,
            (KEEP_ALIVE if old else b"") if self.keep_alive else CLOSE,
            fields,
            delimiter,
        )
        return head, framing

    @property
    def is_cut_by_reset(self) -> bool:
        """Whether a client could take an answer that was cut for a whole one."""
        return isinstance(self.framing, _ToTheEnd)


class _NoBody:
    complete = True

    def frame(self, data: bytes) -> bytes:
        return b""

    def end(self) -> bytes | None:
        return b""


class _Sized:
    """What is over is dropped."""

    def __init__(self, length: int) -> None:
        self._left_bytes = length

    @property
    def complete(self) -> bool:
        return not self._left_bytes

    def frame(self, data: bytes) -> bytes:
        data = data[: self._left_bytes]
        self._left_bytes -= len(data)
        return data

    def end(self) -> bytes | None:
        return None if self._left_bytes else b""


class _Chunked:
    complete = False

    def frame(self, data: bytes) -> bytes:
        return b"%x\r\n%b\r\n" % (len(data), data) if data else b""

    def end(self) -> bytes | None:
        return b"0\r\n\r\n"


class _ToTheEnd:
    """HTTP/1.0 without a length."""

    complete = False

    def frame(self, data: bytes) -> bytes:
        return data

    def end(self) -> bytes | None:
        return b""


def _address(name: object) -> tuple[str, int]:
    if isinstance(name, tuple):
        return name[0].partition("%")[0], name[1]
    return "127.0.0.1", 0


def _nothing() -> None:
    """Nobody has to be told."""
