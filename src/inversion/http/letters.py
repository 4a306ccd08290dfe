"""Messages and dead letters at the admin door.

    GET  /v1/messages[?function=&key=&dead=true&limit=&after=]      a page
    GET  /v1/messages/{function}/{key}/{id}                         one, with its body; DELETE drops it, dead
    POST /v1/messages/{function}/{key}/{id}/retry                   dead -> alive; a body replaces its body
    POST /v1/messages/retry, /v1/messages/drop ?function=[&key=]    all dead ones, some at a time

`-` stands for no key. All are those that had died when it was first asked: `before` of the answer goes
into the next question, until there are no `more`.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import parse_qsl, unquote_to_bytes

from inversion import ids, json_text
from inversion.errors import Code, RequestRefused
from inversion.gate import Bridge
from inversion.http.asked import MethodRefused
from inversion.http.framing import HttpRequest
from inversion.http.service import HttpResponse
from inversion.names import CONTROL, NO_KEY
from inversion.state.letters import MOST_AT_ONCE, Letter, Letters, Place

#: Of a page, as long as nobody says; at most.
_PAGE: Final = 100
_MOST: Final = 1_000
_TIME: Final = re.compile(r"\d{4,6}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
_FIELDS: Final = (
    b"Content-Type: application/json\r\nCache-Control: no-store\r\nInversion-Id: %b\r\n"
    b"Inversion-Outcome: applied\r\n"
)


class LetterDesk:
    """What answers all that begins with /v1/messages."""

    def __init__(self, letters: Letters, bridge: Bridge) -> None:
        self._letters = letters
        self._bridge = bridge

    async def answer(self, request: HttpRequest) -> HttpResponse:
        """One request, one answer; every failure is an InversionError."""
        parts = [_text(segment) for segment in request.path.split(b"/")[3:]]
        match parts:
            case []:
                return await self._page(request)
            case ["retry" | "drop" as verb]:
                return await self._all(request, verb)
            case [function, key, id_]:
                return await self._one(request, function, key, id_)
            case [function, key, id_, "retry"]:
                return await self._retry(request, function, key, id_)
            case _:
                raise RequestRefused(Code.BAD_REQUEST, "a message is at /v1/messages/{function}/{key}/{id}")

    async def _page(self, request: HttpRequest) -> HttpResponse:
        if request.method not in (b"GET", b"HEAD"):
            raise MethodRefused("messages are listed with GET", b"GET, HEAD")
        asked = _query(request, ("function", "key", "dead", "limit", "after"))
        dead = _flag(asked.get("dead", "false"))
        most = _limit(asked.get("limit"))
        after = None if "after" not in asked else _place(asked["after"])
        function, key = asked.get("function"), asked.get("key")

        async def page() -> Sequence[Letter]:
            return await self._letters.page(dead=dead, function=function, key=key, after=after, most=most)

        found = await self._bridge.run(page)
        more = json_text.encode(_cursor(found[-1].place) if len(found) == most else None)
        listed = b",".join([_described(letter) for letter in found])
        return _answer(b'{"messages":[%b],"next":%b}' % (listed, more))

    async def _one(self, request: HttpRequest, function: str, key: str, id_: str) -> HttpResponse:
        _query(request, ())
        match request.method:
            case b"GET" | b"HEAD":
                letter = await self._bridge.run(self._letters.show, function, key, id_)
                if letter is None:
                    raise RequestRefused(Code.NO_MESSAGE, "no message with this id waits, and no dead letter")
                return _answer(_described(letter))
            case b"DELETE":
                if not await self._bridge.run(self._letters.drop, function, key, id_):
                    raise _no_dead_letter()
                return _answer(b'{"dropped":1}')
            case _:
                raise MethodRefused(
                    "a message is read with GET, a dead letter dropped with DELETE", b"GET, HEAD, DELETE"
                )

    async def _retry(self, request: HttpRequest, function: str, key: str, id_: str) -> HttpResponse:
        _only_post(request)
        _query(request, ())
        body = json_text.check(request.body) if request.body else None
        if not await self._bridge.run(self._letters.retry, function, key, id_, body):
            raise _no_dead_letter()
        return _answer(b'{"retried":1}')

    async def _all(self, request: HttpRequest, verb: str) -> HttpResponse:
        _only_post(request)
        asked = _query(request, ("function", "key", "before"))
        if "function" not in asked:
            raise RequestRefused(Code.BAD_REQUEST, f"which function's dead letters? {verb}?function=")
        before = asked.get("before")
        if before is None:
            before = await self._bridge.run(self._letters.now)
        elif _TIME.fullmatch(before) is None:
            raise RequestRefused(Code.BAD_REQUEST, "before is what the answer before this one said")
        decide = self._letters.retry_all if verb == "retry" else self._letters.drop_all
        count = await self._bridge.run(decide, asked["function"], asked.get("key"), before)
        done = "retried" if verb == "retry" else "dropped"
        return _answer(json_text.encode({done: count, "more": count == MOST_AT_ONCE, "before": before}))


def _answer(body: bytes) -> HttpResponse:
    return HttpResponse(200, _FIELDS % ids.new_id().encode("ascii"), body)


def _described(letter: Letter) -> bytes:
    """As JSON; error and body are the bytes that are stored."""
    said: dict[str, object] = {
        "kind": letter.kind,
        "function": letter.function,
        "key": None if letter.key == NO_KEY else letter.key,
        "id": letter.id,
        "handler": letter.handler,
        "sender": letter.sender,
        "name": letter.name,
        "reply_to": letter.reply_to,
        "answers": letter.answers,
        "hops": letter.hops,
        "attempts": letter.attempts,
        "failures": letter.failures,
        "due_at": letter.due_at,
        "owner": letter.owner,
        "born_at": letter.born_at,
        "died_at": letter.died_at,
        "body_bytes": letter.size,
    }
    text = b'%b,"error":%b' % (json_text.encode(said)[:-1], letter.error or b"null")
    return text + (b"}" if letter.body is None else b',"body":%b}' % letter.body)


def _no_dead_letter() -> RequestRefused:
    return RequestRefused(Code.NO_MESSAGE, "there is no such dead letter (any more)")


def _only_post(request: HttpRequest) -> None:
    if request.method != b"POST":
        raise MethodRefused("this is done with POST", b"POST")


def _query(request: HttpRequest, known: Sequence[str]) -> Mapping[str, str]:
    try:
        pairs = parse_qsl(
            (request.query or b"").decode("ascii"),
            keep_blank_values=True,
            strict_parsing=bool(request.query),
            errors="strict",
        )
    except ValueError:
        raise RequestRefused(Code.BAD_REQUEST, "the query cannot be read") from None
    asked = dict(pairs)
    if len(asked) < len(pairs) or not asked.keys() <= set(known):
        raise RequestRefused(Code.BAD_REQUEST, f"a query of {', '.join(known) or 'nothing'}, each once")
    if any(CONTROL.search(value) is not None for value in asked.values()):
        raise RequestRefused(Code.BAD_REQUEST, "the query holds a control character")
    return asked


def _text(segment: bytes) -> str:
    try:
        text = unquote_to_bytes(segment).decode("utf-8")
    except UnicodeDecodeError:
        raise RequestRefused(Code.BAD_REQUEST, "the path is not UTF-8") from None
    if CONTROL.search(text) is not None:
        raise RequestRefused(Code.BAD_REQUEST, "the path holds a control character")
    return text


def _flag(value: str) -> bool:
    if value not in ("true", "false"):
        raise RequestRefused(Code.BAD_REQUEST, "dead is true or false")
    return value == "true"


def _limit(value: str | None) -> int:
    if value is None:
        return _PAGE
    if not value.isascii() or not value.isdigit() or not 1 <= int(value[:9]) <= _MOST:
        raise RequestRefused(Code.BAD_REQUEST, f"limit is a number from 1 to {_MOST}")
    return int(value[:9])


def _cursor(place: Place) -> str:
    return base64.urlsafe_b64encode(json_text.encode(list(place))).decode("ascii").rstrip("=")


def _place(cursor: str) -> Place:
    try:
        text = base64.b64decode(cursor + "=" * (-len(cursor) % 4), altchars=b"-_", validate=True)
        values = json_text.plain_object(b'{"place":%b}' % text)
    except (binascii.Error, ValueError):
        values = None
    match values:
        case {"place": [str(function), str(between), str(id_)]}:
            return Place(function, between, id_)
        case _:
            raise RequestRefused(Code.BAD_REQUEST, "after is `next` of the page before this one")
