"""The effects of an answer, from what a runtime wrote to nouns; and what those of a turn come to.

Strict where a frame is lenient: an effect with a field nobody knows is refused, for what it does cannot be
called back (`"dleay":"24h"` would be sent at once). Whatever is wrong raises EffectsRefused with a sentence
that says where (`effects[2].send.delay must be ...`), or Overrun for a size: nothing of it may be stored.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from operator import attrgetter
from typing import Final, NamedTuple

from inversion import json_text
from inversion.config import Limits
from inversion.config_values import duration_s, shown
from inversion.effects import (
    Cancel,
    Effect,
    Forward,
    Http,
    Publish,
    Send,
    Subscribe,
    Unsubscribe,
)
from inversion.errors import Code, EffectsRefused, Overrun, RequestRefused
from inversion.messages import Address
from inversion.names import DEFAULT_HANDLER, NAME, key_fault, label_fault
from inversion.protocol.destination import LONGEST_URL, read_url

#: Of one answer: more would hold up the commits of others. A topic reaches any number.
MAX_EFFECTS: Final = 1_000
#: Array, effect and operation stand around a message, which may nest as deep as any.
_MAX_DEPTH: Final = json_text.MAX_DEPTH + 3
#: A hundred years: what is longer is a slip, and soon no interval for PostgreSQL.
_MAX_DELAY_S: Final = 36_525 * 86_400.0
#: Timers that got no name have one that begins with it.
UNNAMED: Final = "~"
_MAX_HEADERS: Final = 100

#: RFC 3339: more than that passes datetime.fromisoformat.
_TIME = re.compile(
    r"([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}:[0-9]{2})(?:\.([0-9]{1,9}))?"
    r"([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_METHODS: Final = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_WITHOUT_BODY: Final = frozenset(("GET", "HEAD"))
#: The characters of RFC 3986. A backslash, a space or a raw ü is read in one way here and in another there.
_URL = re.compile(r"(?i:https?)://(?:[A-Za-z0-9._~:/?\[\]@!$&'()*+,;=-]|%[0-9A-Fa-f]{2})+")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")
_FIELD_VALUE = re.compile(r"[\t -~]*")
#: They belong to the connection, which is ours (RFC 9110, 7.6.1).
_OUR_HEADERS: Final = frozenset(
    (
        "connection",
        "content-length",
        "expect",
        "host",
        "keep-alive",
        "proxy-authenticate",
        "proxy-authorization",
        "proxy-connection",
        "te",
        "trailer",
        "transfer-encoding",
        "upgrade",
    )
)
#: "Object contains unknown field `dleay` - at `$[0].send`"
_IN_MSGSPECS_WORDS = re.compile(r"(.*?)(?: - at `(?:key in )?\$(.*)`)?", re.DOTALL)
_operations: Final = attrgetter(*json_text.OPERATIONS)
#: Makes a NamedTuple without its own __new__, which is a call of Python and costs more than the rest.
_new: Final = tuple.__new__
_UNKNOWN_FIELD = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)


def read_effects(text: bytes, sender: Address, limits: Limits) -> Sequence[Effect]:
    """The effects of one answer of `sender`. Raises EffectsRefused or Overrun."""
    if len(text) > limits.effects_bytes:
        raise _overrun(
            f"the effects have {len(text)} bytes, more than limits.effects = {limits.effects_bytes}"
        )
    if b"\r" in text:
        text = text.replace(b"\r", b" ")  # white space: a string cannot hold it raw
    try:
        json_text.check_part(text, _MAX_DEPTH)
        cuts = json_text.cut_effects(text)
    except RequestRefused as refusal:
        raise _refused(f"its effects: {refusal.detail}") from None
    except json_text.NotCut as problem:
        raise _refused(_sentence(str(problem))) from None
    if len(cuts) > MAX_EFFECTS:
        raise _overrun(f"the answer has {len(cuts)} effects, more than {MAX_EFFECTS}")
    effects: list[Effect] = []
    for index, cut in enumerate(cuts):
        try:
            effects.append(_effect(cut, sender, limits))
        except _TooLarge as fault:
            raise _overrun(f"effects[{index}]{fault}") from None
        except ValueError as fault:
            raise _refused(f"effects[{index}]{fault}") from None
    if len(effects) > 1 and sum(type(effect) is Forward for effect in effects) > 1:
        raise _refused("its effects hold more than one `forward`: a caller gets one answer")
    return tuple(effects)


class _TooLarge(ValueError):
    """A message over its limit."""


class Placed(NamedTuple):
    """An effect and where it stood: the order of what one entity sends to another is that of the places."""

    answer: int  #: of the turn, from 0
    place: int  #: in that answer, from 0
    effect: Effect


def fold(effects_of_answers: Sequence[Sequence[Effect]]) -> list[Placed]:
    """What the effects of a turn come to: for each timer and each topic only the last word.

    Afterwards no two of them touch the same timer or the same subscription, so one statement can carry them
    out in any order.
    """
    if len(effects_of_answers) == 1 and len(effects_of_answers[0]) == 1:  # as nearly always
        return [_new(Placed, (0, 0, effects_of_answers[0][0]))]
    placed: dict[object, Placed] = {}
    for answer, effects in enumerate(effects_of_answers):
        for place, effect in enumerate(effects):
            match effect:
                case Send(name=str(name)) | Cancel(name):
                    about: object = ("timer", name)
                case Subscribe(topic) | Unsubscribe(topic):
                    about = ("topic", topic)
                case _:
                    about = (answer, place)
            placed.pop(about, None)  # to stand where the last word was said
            placed[about] = Placed(answer, place, effect)
    return list(placed.values())


def _effect(cut: json_text.CutEffect, sender: Address, limits: Limits) -> Effect:
    """One effect. Raises ValueError with the end of a sentence that began with its index."""
    operations = _operations(cut)
    if operations.count(json_text.UNSET) != len(operations) - 1:
        said = [f"`{name}`" for name in json_text.OPERATIONS if getattr(cut, name) is not json_text.UNSET]
        listed = " and ".join(said) or "no operation"
        raise ValueError(f' holds {listed}: one operation each, such as {{"send":{{...}}}}')
    if isinstance(cut.send, json_text.CutSend):  # nearly always
        return _send(cut.send, sender, limits)
    match next(each for each in operations if each is not json_text.UNSET):
        case json_text.CutCancel(name):
            return Cancel(_timer(name, ".cancel.name"))
        case json_text.CutForward() as forward:
            return Forward(*_target(forward, ".forward", sender, limits))
        case json_text.CutPublish(topic=topic, message=message):
            return Publish(
                _label(topic, ".publish.topic"), _message(json_text.raw(message), ".publish", limits)
            )
        case json_text.CutSubscribe(topic, handler):
            return Subscribe(
                _label(topic, ".subscribe.topic"), _name(handler, ".subscribe", ".handler", DEFAULT_HANDLER)
            )
        case json_text.CutUnsubscribe(topic):
            return Unsubscribe(_label(topic, ".unsubscribe.topic"))
        case json_text.CutHttp() as http:
            return read_http(http)
    raise AssertionError(cut)


def _target(
    cut: json_text.CutSend | json_text.CutForward, where: str, sender: Address, limits: Limits
) -> tuple[str, str | None, str, bytes]:
    """Function, key, handler and message. No key: the sender's own; null: a stateless call."""
    key = cut.key
    if isinstance(key, str):
        if (fault := key_fault(key)) is not None:
            raise ValueError(f"{where}.key {fault}")
    elif key is not None:
        key = sender.key
    return (
        _name(cut.function, where, ".function", sender.function),
        key,
        _name(cut.handler, where, ".handler", DEFAULT_HANDLER),
        _message(json_text.raw(cut.message), where, limits),
    )


def _send(cut: json_text.CutSend, sender: Address, limits: Limits) -> Send:
    function, key, handler, message = _target(cut, ".send", sender, limits)
    delay_ms = at = name = None
    if isinstance(cut.delay, str | int | float):
        delay_ms = read_delay_ms(cut.delay, ".send.delay")
    if isinstance(cut.at, str):
        if delay_ms is not None or cut.delay is not json_text.UNSET:
            raise ValueError(".send has both `delay` and `at`: one of them says when")
        at = read_time(cut.at, ".send.at")
    if isinstance(cut.name, str):
        name = _timer(cut.name, ".send.name")
    reply_to = None if cut.reply_to is json_text.UNSET else _reply_to(cut.reply_to, ".send")
    return Send(function, key, handler, message, delay_ms, at, name, reply_to)


def read_delay_ms(value: str | int | float, where: str) -> int | None:
    """A delay; None: there is none. Raises ValueError with a sentence that begins with `where`."""
    try:
        seconds = duration_s(value)
    except ValueError as fault:
        raise ValueError(f"{where} {fault}") from None
    if seconds > _MAX_DELAY_S:
        raise ValueError(f"{where} is more than a hundred years: {shown(value)}")
    return round(seconds * 1_000) or None


def read_time(text: str, where: str) -> str:
    """RFC 3339 as the database reads it: UTC with microseconds. Raises ValueError as above."""
    parts = _TIME.fullmatch(text)
    try:
        if parts is None:
            raise ValueError
        day, time, fraction, offset = parts.groups("")
        offset = "+00:00" if offset in ("Z", "z") else offset
        moment = datetime.fromisoformat(f"{day}T{time}.{fraction[:6]:0<6}{offset}").astimezone(UTC)
    except (ValueError, OverflowError):
        advice = 'must be a time with its offset, such as "2026-11-24T02:11:00Z"'
        raise ValueError(f"{where} {advice}, not {shown(text)}") from None
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


def read_http(cut: json_text.CutHttp) -> Http:
    """Raises ValueError with the end of a sentence."""
    if cut.method not in _METHODS:
        raise ValueError(f".http.method must be one of {', '.join(_METHODS)}, not {shown(cut.method)}")
    body = json_text.raw(cut.body)
    if body is not None and cut.method in _WITHOUT_BODY:
        raise ValueError(f".http.body: a {cut.method} has none")
    headers = _headers(cut.headers) if isinstance(cut.headers, dict) else ()
    return Http(cut.method, _url(cut.url), headers, body, _reply_to(cut.reply_to, ".http"))


def _url(url: str) -> str:
    where = ".http.url"
    if len(url) <= LONGEST_URL and _URL.fullmatch(url) is None:
        raise ValueError(
            f"{where} must be absolute, begin with https:// or http://, hold no fragment and be "
            f"percent-encoded, not {shown(url)}"
        )
    try:
        read_url(url)
    except ValueError as fault:
        raise ValueError(f"{where} {fault}") from None
    return url


def _headers(fields: Mapping[str, str]) -> Sequence[tuple[str, str]]:
    where = ".http.headers"
    if len(fields) > _MAX_HEADERS:
        raise ValueError(f"{where} has {len(fields)} fields, more than {_MAX_HEADERS}")
    seen = set()
    for name, value in fields.items():
        lower = name.lower()
        if _TOKEN.fullmatch(name) is None:
            raise ValueError(f"{where} has {shown(name)}, which is not the name of a field")
        if lower in _OUR_HEADERS:
            raise ValueError(f"{where} has {name}, which is set by inversion itself")
        if lower in seen:
            raise ValueError(f"{where} has {name} twice")
        if _FIELD_VALUE.fullmatch(value) is None:
            raise ValueError(f"{where} has {name} with a value that is not one line of ASCII text")
        seen.add(lower)
    return tuple(fields.items())


def _reply_to(value: object, where: str) -> str | None:
    return None if value is json_text.UNSET else _name(value, where, ".reply_to", "")


def _name(value: object, where: str, field: str, default: str) -> str:
    if not isinstance(value, str):
        return default
    if not _is_name(value):
        raise ValueError(f"{where}{field} must match {NAME.pattern}, not {shown(value)}")
    return value


@lru_cache(maxsize=1_024)  # functions and handlers are few, and named in every message
def _is_name(text: str) -> bool:
    return NAME.fullmatch(text) is not None


def _timer(name: str, where: str) -> str:
    if name.startswith(UNNAMED):
        raise ValueError(f"{where} must not begin with {UNNAMED}: timers without a name have such names")
    return _label(name, where)


def _label(text: str, where: str) -> str:
    if (fault := label_fault(text)) is not None:
        raise ValueError(f"{where} {fault}")
    return text


def _message(body: bytes | None, where: str, limits: Limits) -> bytes:
    """It comes to its receiver as a call's body would, and within its limit."""
    if body is None:
        return b"null"
    if len(body) > limits.body_bytes:
        raise _TooLarge(f"{where}.message has {len(body)} bytes, more than limits.body = {limits.body_bytes}")
    return body


def _sentence(problem: str) -> str:
    """What msgspec said, with the path in front and the nearest right name behind."""
    parts = _IN_MSGSPECS_WORDS.fullmatch(problem)
    assert parts is not None
    said, path = parts[1], parts[2] or ""
    unknown = _UNKNOWN_FIELD.fullmatch(said)
    if unknown is None:
        return f"effects{path}: {said[:1].lower()}{said[1:]}"
    known = json_text.OPERATIONS.get(path.rpartition(".")[2], tuple(json_text.OPERATIONS))
    near = difflib.get_close_matches(unknown[1][:80], known, n=1)
    advice = f"did you mean `{near[0]}`?" if near else f"there are {', '.join(known)}"
    return f"effects{path} has an unknown field `{unknown[1][:80]}`; {advice}"


def _refused(detail: str) -> EffectsRefused:
    return EffectsRefused(Code.PROTOCOL_ERROR, detail)


def _overrun(detail: str) -> Overrun:
    return Overrun(Code.EFFECTS_TOO_LARGE, detail)
