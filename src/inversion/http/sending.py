"""Sends, outputs and withdrawals over HTTP: messages from outside.

    POST /v1/send/{fn}[/{key}][/{handler}]    GET /v1/output/{fn}/{key}/{id}
    DELETE /v1/send/{fn}/{key}/{id}

202 means durable. An output is the recorded answer with its status; 202 while it is to come.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol
from urllib.parse import quote, unquote_to_bytes

from inversion import json_text
from inversion.config import Function
from inversion.config_values import duration_s
from inversion.errors import Code, RequestRefused
from inversion.http.asked import CONDITIONS, MethodRefused, read_idempotency_key, read_key, read_timeout_s
from inversion.http.framing import HttpRequest
from inversion.http.problem import problem
from inversion.http.service import HttpResponse
from inversion.messages import Address, Receipt, Response
from inversion.names import NO_KEY
from inversion.protocol.effects import read_delay_ms, read_time
from inversion.sends import NOW, When

_FIELDS: Final = b"Content-Type: %b\r\nInversion-Id: %b\r\nInversion-Outcome: applied\r\n"
_JSON: Final = b"application/json"
#: Longer than people wait: who wants more asks again, and no proxy between cuts the connection.
_LONGEST_WAIT_S: Final = 60.0
_ID = re.compile(rb"[0-9A-Za-z_-]{1,64}")


class Sends(Protocol):
    """What keeps messages from outside: sends.py, or a test's double."""

    async def send(
        self,
        function: Function,
        key: str | None,
        handler: str,
        body: bytes,
        *,
        once: str | None = None,
        when: When = NOW,
        timeout_s: float | None = None,
    ) -> Receipt: ...

    async def output(self, receipt: Receipt, wait_s: float) -> Response | None: ...

    async def withdraw(self, receipt: Receipt) -> None: ...


Target = tuple[Function, str | None, str]


async def send(
    sends: Sends, request: HttpRequest, target: Target, *, preferred: bool = False
) -> HttpResponse:
    """Store a message. `preferred`: it is a call whose caller rather asks later."""
    function, key, handler = target
    fields = request.fields
    if not CONDITIONS.isdisjoint(fields):
        raise RequestRefused(
            Code.BAD_REQUEST, "a send has no If-Match and no If-None-Match: it is carried out later"
        )
    once = fields.get(b"idempotency-key")
    timeout = fields.get(b"inversion-timeout")
    receipt = await sends.send(
        function,
        key,
        handler,
        request.body,
        once=None if once is None else read_idempotency_key(once),
        when=_when(request.query),
        timeout_s=None if timeout is None else read_timeout_s(timeout),
    )
    more = b"Location: %b\r\n" % place_of(receipt)
    if preferred:
        more += b"Preference-Applied: respond-async\r\n"
    return _told(202, receipt, {"id": receipt.id, "output": place_of(receipt).decode()}, more)


async def withdraw(sends: Sends, receipt: Receipt) -> HttpResponse:
    """DELETE of a send."""
    await sends.withdraw(receipt)
    return _told(200, receipt, {"id": receipt.id, "withdrawn": True})


async def output(
    sends: Sends, request: HttpRequest, receipt: Receipt, tally: Callable[[Code], None]
) -> HttpResponse:
    """GET of an output."""
    if request.method not in (b"GET", b"HEAD"):
        raise MethodRefused("an output is read with GET", b"GET, HEAD")
    response = await sends.output(receipt, _wait_s(request.query))
    if response is None:
        return _told(202, receipt, {"id": receipt.id, "pending": True}, b"Retry-After: 1\r\n")
    etag = b"" if response.version is None else b'ETag: "%d"\r\n' % response.version
    failure = response.error or response.function_error
    if failure is not None:
        if response.error is not None:
            tally(response.error.code)
        return problem(failure, receipt.id, etag)
    fields = _FIELDS % (response.content_type.encode("latin-1"), receipt.id.encode("ascii"))
    return HttpResponse(200, fields + etag, response.body)


def place_of(receipt: Receipt) -> bytes:
    """Where the output is, as a path."""
    function, key = receipt.target
    return f"/v1/output/{function}/{NO_KEY if key is None else quote(key, safe='~:@')}/{receipt.id}".encode()


def read_receipt(function: Function, segments: Sequence[bytes], kind: str) -> Receipt:
    """/v1/{kind}/{function}/{key}/{id}"""
    if len(segments) != 6:
        raise RequestRefused(Code.BAD_REQUEST, f"it is /v1/{kind}/{{function}}/{{key or -}}/{{id}}")
    key = None if segments[4] == b"-" else read_key(segments[4])
    if _ID.fullmatch(segments[5]) is None:
        raise RequestRefused(Code.NO_OUTPUT, "nothing was ever sent under such an id")
    return Receipt(Address(function.name, key), segments[5].decode("ascii"))


def _told(status: int, receipt: Receipt, body: Mapping[str, object], more: bytes = b"") -> HttpResponse:
    fields = _FIELDS % (_JSON, receipt.id.encode("ascii"))
    return HttpResponse(status, fields + more, json_text.encode(body))


def _when(query: bytes | None) -> When:
    """`delay=10s` or `at=2026-11-24T02:11:00Z`."""
    asked = _parameters(query, ("delay", "at"))
    if len(asked) == 2:
        raise RequestRefused(Code.BAD_REQUEST, "delay and at: one of them says when")
    try:
        if "delay" in asked:
            return When(delay_ms=read_delay_ms(asked["delay"], "delay"))
        if "at" in asked:
            return When(at=read_time(asked["at"], "at"))
    except ValueError as fault:
        raise RequestRefused(Code.BAD_REQUEST, str(fault)) from None
    return NOW


def _wait_s(query: bytes | None) -> float:
    asked = _parameters(query, ("wait",))
    try:
        return min(duration_s(asked["wait"]), _LONGEST_WAIT_S) if asked else 0.0
    except ValueError as fault:
        raise RequestRefused(Code.BAD_REQUEST, f"wait {fault}") from None


def _parameters(query: bytes | None, known: Sequence[str]) -> Mapping[str, str]:
    asked: dict[str, str] = {}
    for part in (query or b"").split(b"&"):
        if not part:
            continue
        name, _, value = (unquote_to_bytes(each).decode("utf-8", "replace") for each in part.partition(b"="))
        if name not in known or name in asked:
            raise RequestRefused(
                Code.BAD_REQUEST, f"the query has {name!r}: it may have {' or '.join(known)}, once"
            )
        asked[name] = value
    return asked
