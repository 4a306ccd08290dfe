"""The one JSON door: check, cut raw, splice, never rewrite.

orjson checks (UTF-8, syntax, lone surrogates, finite numbers), what it lets pass is checked here (depth,
integers beyond 64 bits), and msgspec cuts the parts of a frame out of the line as raw bytes. Measured on
a small frame: orjson 0.5 us, msgspec 0.2 us; orjson alone would turn 1E5 into 100000.0 and 2^64 into a
float, msgspec alone lets invalid UTF-8 and 1e400 pass.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Final

import msgspec
import orjson

from inversion.errors import Code, FunctionError, RequestRefused

#: Deeper than people nest, far shallower than any parser's own recursion limit.
MAX_DEPTH: Final = 64
_INT_MIN: Final = -(2**63)
_INT_MAX: Final = 2**64 - 1
_SAFE_INTEGER: Final = 2**53 - 1  # JavaScript's Number.MAX_SAFE_INTEGER

#: Fewer digits always fit into 64 bits, so a shorter text needs no search.
_LONG_DIGITS_BYTES: Final = 19
#: A search for nineteen digits takes three times as long as to make them all zeros and look for nineteen.
_ZEROS: Final = bytes.maketrans(b"123456789", b"0" * 9)
_LONG_ZEROS: Final = b"0" * _LONG_DIGITS_BYTES
_SIXTEEN_DIGITS = re.compile(rb"[0-9]{16}")
_TOKEN = re.compile(rb'"(?:[^"\\]|\\.)*"|-?[0-9][0-9.eE+\-]*|[\[\]{}]', re.DOTALL)


def check(text: bytes) -> bytes:
    """Checked JSON on one line: the sender's bytes, raw CR and LF made spaces.

    Raises RequestRefused with `bad_json`, `too_deep` or `bad_number`; the caller adds whose text it was.
    """
    check_part(text)
    if b"\n" in text or b"\r" in text:
        # Legal: a string cannot hold a raw control character, so these are white space. Left in, they
        # would end the frame, and the sender could forge a second one.
        text = text.replace(b"\n", b" ").replace(b"\r", b" ")
    return text


def check_part(text: bytes, max_depth: int = MAX_DEPTH) -> None:
    """`check` for a part cut out of a line, which holds no raw newline any more."""
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise _refusal(text, error) from None
    size = len(text)
    if size > max_depth and text.count(b"[") + text.count(b"{") > max_depth and depth(text) > max_depth:
        raise RequestRefused(Code.TOO_DEEP, f"JSON nested deeper than {MAX_DEPTH} levels")
    if size >= _LONG_DIGITS_BYTES and _LONG_ZEROS in text.translate(_ZEROS):
        _check_integers(text, _INT_MIN, _INT_MAX, "64 bits")


def check_integers_53(text: bytes) -> None:
    """For runtimes whose numbers are doubles (`"integers": 53` in hello). Raises `bad_number`."""
    if _SIXTEEN_DIGITS.search(text) is not None:
        _check_integers(text, -_SAFE_INTEGER, _SAFE_INTEGER, "53 bits, all that this function's runtime has")


def depth(text: bytes) -> int:
    """How deep checked JSON nests."""
    level = deepest = 0
    for token in _TOKEN.finditer(text):
        first = token.group()[:1]
        if first in b"[{":
            level += 1
            deepest = max(deepest, level)
        elif first in b"]}":
            level -= 1
    return deepest


def _check_integers(text: bytes, lowest: int, highest: int, size: str) -> None:
    for token in _TOKEN.finditer(text):
        number = token.group()
        if number[0] in b'"[]{}' or b"." in number or b"e" in number or b"E" in number:
            continue
        # Python refuses to parse integers of thousands of digits; twenty decide the matter.
        if len(number) > 20 or not lowest <= int(number) <= highest:
            raise RequestRefused(Code.BAD_NUMBER, f"integer {_shown(number)} does not fit into {size}")


def _shown(number: bytes) -> str:
    return number.decode() if len(number) <= 40 else f"{number[:37].decode()}..."


def _refusal(text: bytes, error: orjson.JSONDecodeError) -> RequestRefused:
    message = str(error)
    if "depth limit" in message or "recursion" in message:
        return RequestRefused(Code.TOO_DEEP, f"JSON nested deeper than {MAX_DEPTH} levels")
    if "infinity" in message:
        return RequestRefused(Code.BAD_NUMBER, f"a number is not finite: {message}")
    return RequestRefused(Code.BAD_JSON, f"not valid JSON: {message}" if text else "empty, expected JSON")


def quote(text: str) -> bytes:
    """A string as a JSON string."""
    return orjson.dumps(text)


def unquote(text: bytes) -> str | None:
    """The text of a JSON string; None: it is another value. Raises ValueError for a string that is none."""
    return str(orjson.loads(text)) if text.lstrip().startswith(b'"') else None


def encode(value: object) -> bytes:
    """Plain values (dict, list, str, int, float, bool, None) as JSON on one line."""
    return orjson.dumps(value)


#: A part that is absent: no JSON value is empty.
ABSENT: Final = msgspec.Raw(b"")


class CutError(msgspec.Struct):
    """`error` of a message-out."""

    code: str = "function_error"
    message: str = ""
    status: int = 500
    details: msgspec.Raw = ABSENT
    retry: bool = False


class CutAnswer(msgspec.Struct):
    """One of the `answers` to a turn of several messages."""

    id: str
    response: msgspec.Raw = ABSENT
    error: CutError | msgspec.UnsetType = msgspec.UNSET
    effects: msgspec.Raw = ABSENT
    changed: bool = True


class CutLine(msgspec.Struct):
    """What a line of a runtime may hold, its values still the sender's bytes and not yet checked."""

    id: str | msgspec.UnsetType = msgspec.UNSET
    hello: msgspec.Raw = ABSENT
    response: msgspec.Raw = ABSENT
    error: CutError | msgspec.UnsetType = msgspec.UNSET
    state: msgspec.Raw = ABSENT
    delete: bool = False
    effects: msgspec.Raw = ABSENT
    answers: list[CutAnswer] | msgspec.UnsetType = msgspec.UNSET


class CutHandler(msgspec.Struct):
    """A handler in a hello; its schemas are not read yet."""

    reads_only: bool = False


class CutHello(msgspec.Struct):
    """What a runtime says of itself."""

    protocol: int = 1
    runtime: str = ""
    pipeline: int = 1
    batch: int = 1
    cancel: bool = False
    integers: int = 64
    handlers: dict[str, CutHandler] | msgspec.UnsetType = msgspec.UNSET
    cron: msgspec.Raw = ABSENT


class CutSend(msgspec.Struct, forbid_unknown_fields=True):
    """An operation of `effects`. Unlike a frame's, its fields are all known, or a slip would be obeyed."""

    function: str | msgspec.UnsetType = msgspec.UNSET
    key: str | msgspec.UnsetType | None = msgspec.UNSET
    handler: str | msgspec.UnsetType = msgspec.UNSET
    message: msgspec.Raw = ABSENT
    delay: str | int | float | msgspec.UnsetType = msgspec.UNSET
    at: str | msgspec.UnsetType = msgspec.UNSET
    name: str | msgspec.UnsetType = msgspec.UNSET
    reply_to: str | msgspec.UnsetType = msgspec.UNSET


class CutCancel(msgspec.Struct, forbid_unknown_fields=True):
    name: str


class CutForward(msgspec.Struct, forbid_unknown_fields=True):
    function: str | msgspec.UnsetType = msgspec.UNSET
    key: str | msgspec.UnsetType | None = msgspec.UNSET
    handler: str | msgspec.UnsetType = msgspec.UNSET
    message: msgspec.Raw = ABSENT


class CutPublish(msgspec.Struct, forbid_unknown_fields=True):
    topic: str
    message: msgspec.Raw = ABSENT


class CutSubscribe(msgspec.Struct, forbid_unknown_fields=True):
    topic: str
    handler: str | msgspec.UnsetType = msgspec.UNSET


class CutUnsubscribe(msgspec.Struct, forbid_unknown_fields=True):
    topic: str


class CutHttp(msgspec.Struct, forbid_unknown_fields=True):
    url: str
    method: str = "POST"
    headers: dict[str, str] | msgspec.UnsetType = msgspec.UNSET
    body: msgspec.Raw = ABSENT
    reply_to: str | msgspec.UnsetType = msgspec.UNSET


class CutEffect(msgspec.Struct, forbid_unknown_fields=True):
    """One of the `effects` of an answer: an object with one operation."""

    send: CutSend | msgspec.UnsetType = msgspec.UNSET
    cancel: CutCancel | msgspec.UnsetType = msgspec.UNSET
    forward: CutForward | msgspec.UnsetType = msgspec.UNSET
    publish: CutPublish | msgspec.UnsetType = msgspec.UNSET
    subscribe: CutSubscribe | msgspec.UnsetType = msgspec.UNSET
    unsubscribe: CutUnsubscribe | msgspec.UnsetType = msgspec.UNSET
    http: CutHttp | msgspec.UnsetType = msgspec.UNSET


#: The operations, and the fields of each.
OPERATIONS: Final[Mapping[str, Sequence[str]]] = {
    "send": CutSend.__struct_fields__,
    "cancel": CutCancel.__struct_fields__,
    "forward": CutForward.__struct_fields__,
    "publish": CutPublish.__struct_fields__,
    "subscribe": CutSubscribe.__struct_fields__,
    "unsubscribe": CutUnsubscribe.__struct_fields__,
    "http": CutHttp.__struct_fields__,
}


class NotCut(Exception):
    """The text is not JSON, or a field is of the wrong type; the message says which."""


_decode_line = msgspec.json.Decoder(CutLine).decode
_decode_hello = msgspec.json.Decoder(CutHello).decode
_decode_effects = msgspec.json.Decoder(list[CutEffect]).decode


def cut_line(line: bytes) -> CutLine:
    """The parts of a runtime's line. Raises NotCut."""
    try:
        return _decode_line(line)
    except (ValueError, RecursionError) as error:  # msgspec's errors are ValueErrors, as bad UTF-8 is
        raise NotCut(str(error)) from None


def cut_hello(text: bytes) -> CutHello:
    """The fields of a hello. Raises NotCut."""
    try:
        return _decode_hello(text)
    except (ValueError, RecursionError) as error:
        raise NotCut(str(error)) from None


def cut_effects(text: bytes) -> list[CutEffect]:
    """The operations of checked `effects`. Raises NotCut, its message in msgspec's words."""
    try:
        return _decode_effects(text)
    except (ValueError, RecursionError) as error:
        raise NotCut(str(error)) from None


def plain(text: bytes) -> object:
    """Checked JSON as plain values. Raises RequestRefused."""
    check_part(text)
    value: object = orjson.loads(text)
    return value


_decode_http = msgspec.json.Decoder(CutHttp).decode


def cut_http(text: bytes) -> CutHttp:
    """An outgoing request as a message has it. Raises NotCut."""
    try:
        return _decode_http(text)
    except (ValueError, RecursionError) as error:
        raise NotCut(str(error)) from None


def plain_object(text: bytes) -> dict[str, object] | None:
    """A JSON object as plain values; None: it is something else, or no JSON at all."""
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return None
    return value if isinstance(value, dict) else None


_decode_error = msgspec.json.Decoder(CutError).decode


def encode_error(error: FunctionError) -> bytes:
    """A function's error as a record keeps it; its details stay the sender's bytes."""
    head = orjson.dumps({"code": error.code, "message": error.message})
    return head if error.details is None else b'%b,"details":%b}' % (head[:-1], error.details)


def decode_error(text: bytes, status: int) -> FunctionError:
    """The error that `encode_error` wrote."""
    cut = _decode_error(text)
    return FunctionError(cut.code, cut.message, status, raw(cut.details), retry=False)


UNSET: Final = msgspec.UNSET


def raw(part: msgspec.Raw) -> bytes | None:
    """The bytes of a part that was cut out; None: it was absent."""
    return bytes(part) or None
