"""One outgoing request and its answer: what goes out, when the answer is whole, what it means. Sans-IO.

An `http` effect is a message to the built-in function `~http`, its body the request as JSON. h11 frames the
bytes; the limits are here. What may be otherwise next time is `Failed` with an ending that is retried; an
answer of any other status is an answer. Nothing that is said of a request holds its path, query or fields.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from datetime import UTC
from email.utils import parsedate_to_datetime
from enum import Enum
from typing import Final

import attrs
import h11

from inversion import __version__, json_text
from inversion.effects import Http
from inversion.errors import FunctionError
from inversion.protocol.destination import Url, read_url
from inversion.protocol.effects import read_http

#: Of an answer's status line and fields: more than any server's own limit.
MAX_HEAD_BYTES: Final = 64 << 10
#: An answer in crumbs costs us more than its sender: so many pieces, and one more for each so many bytes.
_FREE_PIECES: Final = 10_000
_PIECE_BYTES: Final = 64
#: Too early, too many, too slow: the same request later may fare better.
_RETRIED: Final = frozenset((408, 425, 429))
_SECONDS: Final = re.compile(r"[0-9]{1,10}")


class Ending(Enum):
    """How an attempt ended; the value is a label of /metrics."""

    ANSWERED_2XX = "2xx"
    ANSWERED_3XX = "3xx"
    ANSWERED_4XX = "4xx"
    ASKED_TO_RETRY = "retry"  #: 408, 425, 429, 5xx
    TIMED_OUT = "timeout"
    UNREACHABLE = "unreachable"  #: no address, no connection, no TLS
    TORN = "torn"  #: the answer ended too soon, or is none
    TOO_LARGE = "too_large"
    REFUSED = "refused"  #: by the allow-list, or it is no request
    CUT_OFF = "cut_off"  #: the node ended

    @property
    def is_retried(self) -> bool:
        return self in _AGAIN


_AGAIN: Final = frozenset((Ending.ASKED_TO_RETRY, Ending.TIMED_OUT, Ending.UNREACHABLE, Ending.TORN))


class Failed(Exception):
    """An attempt without an answer; the message is a sentence that holds no secrets."""

    def __init__(self, ending: Ending, sentence: str) -> None:
        super().__init__(sentence)
        self.ending = ending


@attrs.frozen(slots=True)
class Outbound:
    """What goes out, on every attempt the same."""

    method: str
    url: Url
    fields: list[tuple[str, str]]
    body: bytes

    @property
    def shown(self) -> str:
        """For logs and errors."""
        return f"{self.method} {self.url.shown}"


def message_of(http: Http) -> bytes:
    """The body of the message to `~http`."""
    head = json_text.encode({"method": http.method, "url": http.url, "headers": dict(http.headers)})
    return head if http.body is None else b'%b,"body":%b}' % (head[:-1], http.body)


def read_outbound(message: bytes, id_: str) -> Outbound:
    """The request of a message; `id_` is its Idempotency-Key, unless it has one of its own.

    Raises Failed: it was checked when it was asked for, but somebody may have edited it.
    """
    try:
        http = read_http(json_text.cut_http(message))
        url = read_url(http.url)
        body, media_type = _body(http.body)
    except (json_text.NotCut, ValueError) as fault:
        what = str(fault).partition(", not ")[0].strip(" .")  # without the value, which may be a secret
        raise Failed(Ending.REFUSED, f"this is no http request: {what}") from None
    fields = [("Host", url.authority), *((name, value.strip()) for name, value in http.headers)]
    given = {name.lower() for name, _ in fields}
    ours = {
        "Idempotency-Key": id_,
        "User-Agent": f"inversion/{__version__}",
        "Accept": "*/*",
        "Accept-Encoding": "identity",  # what comes is passed on as it is
        "Connection": "close",
    }
    if media_type is not None:
        ours["Content-Type"] = media_type
    if http.body is not None or http.method in ("POST", "PUT", "PATCH"):
        ours["Content-Length"] = str(len(body))
    fields += [(name, value) for name, value in ours.items() if name.lower() not in given]
    return Outbound(http.method, url, fields, body)


def _body(raw: bytes | None) -> tuple[bytes, str | None]:
    """The bytes of a body and their media type: a string is its text, all else is JSON."""
    if raw is None:
        return b"", None
    text = json_text.unquote(raw)
    if text is None:
        return raw, "application/json"
    return text.encode(), "text/plain; charset=utf-8"


@attrs.frozen(slots=True)
class Reply:
    """A whole answer."""

    status: int
    fields: Mapping[str, str]  #: lower case; of one that comes twice the values with ", " between
    body: bytes

    @property
    def ending(self) -> Ending:
        if self.status >= 500 or self.status in _RETRIED:
            return Ending.ASKED_TO_RETRY
        if self.status >= 400:
            return Ending.ANSWERED_4XX
        return Ending.ANSWERED_2XX if self.status < 300 else Ending.ANSWERED_3XX


class Exchange:
    """The bytes of one request, and of its answer as they come."""

    def __init__(self, outbound: Outbound, body_bytes: int) -> None:
        """`body_bytes`: more than that is no answer."""
        self._connection = h11.Connection(h11.CLIENT, max_incomplete_event_size=MAX_HEAD_BYTES)
        self._outbound = outbound
        self._most_bytes = body_bytes
        self._head: h11.Response | None = None
        self._body = bytearray()
        self._pieces = 0

    def request(self) -> bytes:
        """All that goes out, at once."""
        outbound, send = self._outbound, self._connection.send
        try:
            head = h11.Request(method=outbound.method, target=outbound.url.target, headers=outbound.fields)
            parts = [send(head)]
            if outbound.body:
                parts.append(send(h11.Data(data=outbound.body)))
            parts.append(send(h11.EndOfMessage()))
        except h11.LocalProtocolError as fault:
            raise Failed(Ending.REFUSED, f"{outbound.shown} cannot be sent: {fault}") from None
        return b"".join(part for part in parts if part)

    def receive(self, data: bytes) -> Reply | None:
        """Take what came, nothing for the end of the stream; the answer once it is whole. Raises Failed."""
        try:
            self._connection.receive_data(data)
            while True:
                event = self._connection.next_event()
                match event:
                    case h11.NEED_DATA:
                        return None
                    case h11.Response():
                        self._head = event
                    case h11.InformationalResponse():
                        self._count_piece()
                    case h11.Data():
                        self._take(event.data)
                    case h11.EndOfMessage() if self._head is not None:
                        return self._reply(self._head)
                    case _:
                        raise self._torn("the connection was closed without an answer")
        except h11.RemoteProtocolError as fault:
            raise self._torn(str(fault)) from None

    def _take(self, data: bytes) -> None:
        self._body += data
        self._count_piece()
        if len(self._body) > self._most_bytes:
            raise too_large(self._outbound, self._most_bytes)

    def _count_piece(self) -> None:
        self._pieces += 1
        if self._pieces > _FREE_PIECES + len(self._body) // _PIECE_BYTES:
            raise self._torn("it comes in too many small pieces")

    def _reply(self, head: h11.Response) -> Reply:
        fields: dict[str, str] = {}
        for raw_name, raw_value in head.headers:
            name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
            fields[name] = f"{fields[name]}, {value}" if name in fields else value
        return Reply(head.status_code, fields, bytes(self._body))

    def _torn(self, why: str) -> Failed:
        return Failed(Ending.TORN, f"{self._outbound.shown}: its answer is none: {why}")


def too_large(outbound: Outbound, most_bytes: int) -> Failed:
    return Failed(
        Ending.TOO_LARGE,
        f"{outbound.shown}: its answer has more than {most_bytes} bytes (limits.body); it was sent and taken",
    )


def response_of(reply: Reply) -> bytes:
    """What `reply_to` gets as `response`: a body that is no UTF-8 is in base64, and says so."""
    value: dict[str, object] = {"status": reply.status, "headers": dict(reply.fields)}
    try:
        value["body"] = reply.body.decode()
    except UnicodeDecodeError:
        value["body"] = base64.b64encode(reply.body).decode()
        value["base64"] = True
    return json_text.encode(value)


def error_of(outbound: Outbound, reply: Reply, unix_s: float) -> FunctionError:
    """What is said of an answer that asks for another attempt."""
    after = reply.fields.get("retry-after")
    return FunctionError(
        "http_status",
        f"{outbound.shown} answered {reply.status}",
        500,
        json_text.encode({"status": reply.status}),
        retry=True,
        retry_after_s=None if after is None else retry_after_s(after, unix_s),
    )


def failure_of(failed: Failed) -> FunctionError:
    """What is said of an attempt without an answer."""
    again = failed.ending.is_retried
    return FunctionError(f"http_{failed.ending.value}", str(failed), 500 if again else 422, None, retry=again)


def retry_after_s(value: str, unix_s: float) -> float | None:
    """Seconds from now of a Retry-After, which are seconds or a date; None: it is neither."""
    if _SECONDS.fullmatch(value) is not None:
        return float(value)
    try:
        moment = parsedate_to_datetime(value)
    except (ValueError, OverflowError):
        return None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=UTC)  # "-0000", or none: RFC 9110 has GMT only
    return max(0.0, moment.timestamp() - unix_s)
