"""One connection: a socket, one walk, requests answered in order.

Read a request, answer it, read the next: nothing is read while an answer is awaited, so what a client
pipelines waits in the kernel. The walk waits for its socket through the watch, or at a gate for an answer;
trio has no task for it. The server's sweeper ends a *wait* for the socket (`interrupt`) when `deadline_s`
has passed, a drain does when the connection is idle. A walk that waits for an answer instead is not
touched: a call that was begun goes on although its client went away.
"""

from __future__ import annotations

import contextlib
import socket
from math import inf
from time import monotonic
from typing import Final

from inversion.errors import Code, InversionError, Outcome, RequestRefused
from inversion.http.chunks import Chunks
from inversion.http.framing import HEAD_END, MAX_HEAD_BYTES, HeadParser, HttpRequest, head_too_large, refused
from inversion.http.lending import Lent, Takeover, Upload
from inversion.http.service import (
    CLOSE,
    CONTINUE,
    KEEP_ALIVE,
    READ_BYTES,
    RESET,
    STATUS_LINES,
    UNCOUNTED_BYTES,
    HttpResponse,
    Phase,
    Service,
)
from inversion.http.wire import Wire
from inversion.observe.logs import get_logger
from inversion.processes.cgi_client import ClientGone
from inversion.watch import Interrupted, Readiness

_log = get_logger("http")

#: Pipelined requests may be refused without any wait: so many, then the others have their turn.
_MOST_IN_A_ROW: Final = 16

#: Members of an Enum are looked up slowly, and these three are for each request.
_IDLE, _HEAD, _CALL = Phase.IDLE, Phase.HEAD, Phase.CALL


class Connection(Wire):
    """See the module. `run` is the walk; the server uses the rest."""

    __slots__ = ("_buffer", "_heads", "_lent", "_position", "_upload")

    def __init__(self, sock: socket.socket, service: Service) -> None:
        super().__init__(sock, service)
        self._heads = HeadParser(service.body_bytes, service.streamed)
        self._buffer = b""  #: what was read; requests before `_position` are done
        self._position = 0
        self._upload: Upload | None = None  #: of a body that goes on as it comes
        self._lent: Lent | None = None

    async def run(self) -> None:
        """Serve until one side has had enough. Raises nothing."""
        try:
            await self._converse()
        except Interrupted:
            self._say_too_slow()
        except OSError:
            # The client is gone; what it asked for has been done, or was never complete.
            self._service.counters.clients_gone += 1
        except Exception:
            _log.exception("a connection met a bug")
        finally:
            self.close()

    def close(self) -> None:
        """The end, at once; a walk that waits is not resumed any more."""
        self._ready.close()  # lets go of the walk, whose own end calls this again
        if (lent := self._lent) is not None:
            self._lent = None
            lent.ended()
        if self._socket.fileno() >= 0:
            self._socket.close()
            self._heads.close()
            self._let_go()

    def turn_away(self, error: InversionError) -> None:
        """In place of `run`: one answer, as far as it fits into the socket, and the end."""
        with contextlib.suppress(OSError):
            self._send_now(self._service.application.refuse(error))
            self._socket.shutdown(socket.SHUT_WR)
            self._socket.recv(READ_BYTES)  # left unread, it would reset the connection
        self.close()

    async def _converse(self) -> None:
        service = self._service
        application = service.application
        in_a_row = 0
        while True:
            if self._buffer:
                in_a_row += 1
                if in_a_row == _MOST_IN_A_ROW:
                    in_a_row = 0
                    await self._ready.writable()  # it is: the others have their turn meanwhile
            try:
                head = await self._receive()
            except RequestRefused as error:
                service.counters.framing_refused += error.code is not Code.QUEUE_FULL
                self.deadline_s = inf
                error.__traceback__ = None  # it holds what had been read of the body
                self._buffer = b""
                self._let_go()
                await self._send_rest(self._render(application.refuse(error), keep_alive=False))
                await self._linger()
                return
            if head is None:
                return
            self.phase = _CALL
            self.deadline_s = inf
            try:
                response = await application.answer(head)
                if type(response) is Takeover:
                    told = await self._lend(head, response)
                    if told is True:
                        continue
                    if told is False:
                        return
                    response = told
            except InversionError as error:
                response = application.refuse(error)
            except ClientGone:
                raise
            except Exception:
                _log.exception("a request met a bug")
                response = application.refuse(_internal())
            keep_alive = head.keep_alive and not service.draining
            data = self._render(response, keep_alive, head.old, head.method == b"HEAD")
            if self._held_bytes:
                self._let_go()
            del head, response  # or an idle connection would keep what was said last
            sent = await service.departures.wait((self._socket, data))
            if sent < len(data):
                await self._send_rest(data, sent)
            del data
            if not keep_alive:
                await self._linger()
                return

    async def _lend(self, head: HttpRequest, takeover: Takeover) -> HttpResponse | bool:
        """Let another use the socket: an answer still to be sent, or whether the connection goes on."""
        upload, self._upload = self._upload or Upload(head.body, 0), None
        head.body = b""
        self._ready.close()
        self._lent = lent = Lent(self._socket, self._service, head, upload)
        try:
            answer = await takeover.talk(lent)
        finally:
            self._lent = None
            if self._socket.fileno() >= 0:
                self._ready = Readiness(self._service.watch, self._socket.fileno())
        if answer is not None:
            return answer
        self._let_go()
        if lent.whole and not lent.keep_alive:
            await self._linger()
        elif lent.is_cut_by_reset and not lent.whole:
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        return lent.whole and lent.keep_alive

    # Reading. `_buffer[_position:]` is what has been read ahead.

    async def _receive(self) -> HttpRequest | None:
        """The next request, or None at the end. Raises RequestRefused: then nothing may follow."""
        head_end = self._buffer.find(HEAD_END, self._position)
        if head_end < 0:
            head_end = await self._read_head()
            if head_end < 0:
                return None
        if len(self._buffer) > UNCOUNTED_BYTES:
            self._hold(len(self._buffer))
        begin = self._position
        body_begin = head_end + 4
        head = self._heads.parse(self._buffer[begin:body_begin])
        self._position = body_begin
        length = head.length
        if length == 0:
            self._trim()
            return head
        if length is not None and len(self._buffer) - body_begin >= length:
            self._position = body_begin + length
            head.body = body = self._buffer[body_begin : self._position]
            self._heads.skip(body)
            self._trim()
            return head
        if self._heads.is_streamed(head):
            await self._begin_upload(head)
        else:
            await self._read_body(head)
        return head

    def _trim(self) -> None:
        if self._position == len(self._buffer):
            self._buffer = b""
            self._position = 0

    async def _read_head(self) -> int:
        """Read until a head is complete; where its blank line begins. -1: the client said goodbye."""
        deadlines = self._service.deadlines
        buffer = self._buffer[self._position :] if self._position else self._buffer
        self._position = 0
        if buffer:
            self.phase = _HEAD
            self.deadline_s = monotonic() + deadlines.head_s
        else:
            self.phase = _IDLE
            self.deadline_s = monotonic() + deadlines.idle_s
        searched = 0
        while True:
            if len(buffer) > MAX_HEAD_BYTES:
                raise head_too_large(buffer)
            try:
                await self._ready.readable()
                data = self._socket.recv(READ_BYTES)
            except BlockingIOError:
                continue
            except Interrupted:
                data = self._just_in_time(READ_BYTES)
                if not data:
                    if self.phase is _IDLE:
                        return -1
                    raise
            if not data:
                if buffer.strip(b"\r\n"):
                    raise refused("the connection ended within a head")
                return -1
            buffer = buffer + data if buffer else data
            head_end = buffer.find(HEAD_END, searched)
            if head_end >= 0:
                self._buffer = buffer
                return head_end
            searched = max(0, len(buffer) - 3)
            if self.phase is _IDLE:
                self.phase = _HEAD
                self.deadline_s = monotonic() + deadlines.head_s

    async def _read_body(self, head: HttpRequest) -> None:
        """Read the part of a body that did not come along with its head."""
        draining = self._service.draining
        deadlines = self._service.deadlines
        self.phase = Phase.BODY
        begun_s = monotonic()
        self.deadline_s = deadlines.of_body(begun_s, 0)
        ahead = self._buffer[self._position :]
        self._buffer = b""
        self._position = 0
        if head.length is None:
            chunks = Chunks(self._service.body_bytes)
            rest = chunks.feed(ahead)
            if rest is None and head.expects_continue and not ahead:
                await self._send_rest(CONTINUE)
            come_bytes = len(ahead)
            while rest is None:
                data = await self._read_of_body(READ_BYTES)
                self._hold(len(data))
                come_bytes += len(data)
                self.deadline_s = deadlines.of_body(begun_s, come_bytes)
                rest = chunks.feed(data)
            head.body = chunks.body
            head.early = not draining
            self._buffer = rest
            self._heads.restart()
            return
        if head.expects_continue and not ahead:
            await self._send_rest(CONTINUE)
        parts = [ahead]
        due = head.length - len(ahead)
        while due:
            part = await self._read_of_body(min(due, READ_BYTES))
            if head.length > UNCOUNTED_BYTES:
                self._hold(len(part))
            parts.append(part)
            due -= len(part)
            self.deadline_s = deadlines.of_body(begun_s, head.length - due)
        head.body = body = b"".join(parts)
        head.early = not draining
        self._heads.skip(body)

    async def _begin_upload(self, head: HttpRequest) -> None:
        """Of a body that is not read here: what has come, and what is needed to know its length."""
        ahead = self._buffer[self._position :]
        self._buffer = b""
        self._position = 0
        self.phase = Phase.BODY
        self.deadline_s = monotonic() + self._service.deadlines.collect_s
        if head.length is None and head.expects_continue and not ahead:
            head.expects_continue = False
            await self._send_rest(CONTINUE)
        upload = await Upload.of(head, ahead, self._service.body_bytes, self._read_to_collect)
        if upload.due:
            self._let_go()
            head.keep_alive = False
            self._upload = upload
        else:
            head.body, head.length = upload.first, len(upload.first)
            self._buffer = upload.behind
            self._heads.restart()

    async def _read_to_collect(self) -> bytes:
        data = await self._read_of_body(READ_BYTES)
        self._hold(len(data))
        return data

    async def _read_of_body(self, most: int) -> bytes:
        data = await self._read(most)
        if not data:
            raise refused("the connection ended within a body")
        return data

    # Writing.

    def _render(
        self, response: HttpResponse, keep_alive: bool, old: bool = False, head_only: bool = False
    ) -> bytes:
        """The answer as bytes; it counts as given."""
        status = response.status
        self._service.counters.requests_by_class[status // 100] += 1
        return b"%b%b%b%bContent-Length: %d\r\n\r\n%b" % (
            STATUS_LINES.get(status) or b"HTTP/1.1 %d \r\n" % status,
            self._service.date_line,
            (KEEP_ALIVE if old else b"") if keep_alive else CLOSE,
            response.fields,
            len(response.body),
            b"" if head_only else response.body,
        )

    def _say_too_slow(self) -> None:
        """A wait was interrupted: the last words, as far as they fit into the socket."""
        phase = self.phase
        if phase is Phase.LINGER:
            return
        self._service.counters.timeouts += 1
        if phase is Phase.SEND:
            # What it did not take must not stay in the kernel: reset.
            self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
            return
        error = RequestRefused(Code.SLOW_REQUEST, f"the {phase.value} of the request took too long to arrive")
        with contextlib.suppress(OSError):
            self._send_now(self._service.application.refuse(error))

    def _send_now(self, response: HttpResponse) -> None:
        self._socket.send(self._render(response, keep_alive=False))


def _internal() -> InversionError:
    return InversionError(
        Code.INTERNAL, "an error inside inversion; its log has more", outcome=Outcome.UNKNOWN
    )
