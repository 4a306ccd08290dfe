"""What a request asks for by its path and its fields: names, keys, times, conditions.

A path is split before it is percent-decoded, once. Whatever is malformed raises RequestRefused with a
sentence that says what would be right.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final
from urllib.parse import unquote_to_bytes

from inversion.config import Arguments, Function, Mode
from inversion.errors import Code, RequestRefused
from inversion.messages import Condition, Idempotency
from inversion.names import CONTROL, MAX_KEY_BYTES, NO_KEY

_NAME = re.compile(rb"[a-z][a-z0-9_-]{0,62}")
#: What most keys are: nothing to decode, nothing to look up.
_PLAIN_KEY = re.compile(rb"[A-Za-z0-9._~:@-]{1,200}")
_BAD_PERCENT = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_TIMEOUT = re.compile(rb"([0-9]{1,9})(ms|s)")
#: W3C Trace Context, section 3.2: version 00, or a later one with more behind it; no id all zeros.
_TRACE_IDS: Final = rb"-(?!0{32})[0-9a-f]{32}-(?!0{16})[0-9a-f]{16}-[0-9a-f]{2}"
TRACE: Final = re.compile(rb"00" + _TRACE_IDS + rb"|(?!00|ff)[0-9a-f]{2}" + _TRACE_IDS + rb"(?:-[!-~]*)?")

_RESPONDS_ASYNC = re.compile(rb"(?i)(?:^|[,;\s])respond-async(?=[,;\s]|$)")
_WAITS = re.compile(rb"(?i)(?:^|[,;\s])wait\s*=\s*(?!0+\s*(?:[,;]|$))")
_WAITS_NOT = re.compile(rb"(?i)(?:^|[,;\s])wait\s*=\s*0+\s*(?:[,;]|$)")
#: The draft's quotes (draft-ietf-httpapi-idempotency-key-header) are part of the key: whoever sends them
#: sends them again.
_IDEMPOTENCY_KEY = re.compile(rb"[!-~]{1,200}")

CONDITIONS: Final = frozenset((b"if-match", b"if-none-match"))
_VERSIONS = re.compile(rb'\s*"[0-9]{1,18}"(?:\s*,\s*"[0-9]{1,18}")*\s*')
_DIGITS = re.compile(rb"[0-9]+")


class MethodRefused(RequestRefused):
    """405, which must name the methods that are allowed."""

    def __init__(self, detail: str, allowed: bytes) -> None:
        super().__init__(Code.METHOD, detail)
        self.allowed = allowed


def draining() -> RequestRefused:
    return RequestRefused(Code.DRAINING, "this node is shutting down; try another", retry_after_s=1)


def read_key(segment: bytes) -> str:
    """A path segment as a key: decoded once, checked. Raises `bad_key`."""
    if _PLAIN_KEY.fullmatch(segment) is not None and segment != b"-":
        return segment.decode("ascii")
    if _BAD_PERCENT.search(segment) is not None:
        raise RequestRefused(Code.BAD_KEY, "the key holds a % that is not followed by two hexadecimal digits")
    decoded = unquote_to_bytes(segment)
    if not 1 <= len(decoded) <= MAX_KEY_BYTES:
        raise RequestRefused(
            Code.BAD_KEY, f"a key has 1 to {MAX_KEY_BYTES} bytes, not {len(decoded)}: check the path for //"
        )
    try:
        key = decoded.decode("utf-8")
    except UnicodeDecodeError:
        raise RequestRefused(Code.BAD_KEY, "the key is not UTF-8") from None
    if CONTROL.search(key) is not None:
        raise RequestRefused(Code.BAD_KEY, "the key holds a control character")
    if key == NO_KEY:
        raise RequestRefused(Code.BAD_KEY, "- stands for no key and cannot be one")
    return key


def function_name(segment: bytes) -> str:
    return segment.decode("ascii", "backslashreplace")


def handler_name(segment: bytes) -> str:
    if _NAME.fullmatch(segment) is None:
        raise RequestRefused(Code.BAD_REQUEST, f"a handler's name matches {_NAME.pattern.decode()}")
    return segment.decode("ascii")


def read_timeout_s(value: bytes) -> float:
    match = _TIMEOUT.fullmatch(value)
    if match is None or int(match[1]) == 0:
        raise RequestRefused(Code.BAD_REQUEST, "Inversion-Timeout is a whole number and s or ms, as in 5s")
    return int(match[1]) / (1_000 if match[2] == b"ms" else 1)


def read_idempotency_key(key: bytes) -> str:
    if _IDEMPOTENCY_KEY.fullmatch(key) is None:
        raise RequestRefused(Code.BAD_REQUEST, "an Idempotency-Key is 1 to 200 visible ASCII characters")
    return key.decode("ascii")


def read_once(key: bytes, prefer: bytes | None) -> Idempotency:
    """A call's Idempotency-Key, and whether it waits while the first request with it runs."""
    waits = prefer is None or _WAITS_NOT.search(prefer) is None
    return Idempotency("c:" + read_idempotency_key(key), b"", waits)


def read_condition(fields: Mapping[bytes, bytes]) -> Condition:
    """If-Match and If-None-Match of a call (RFC 9110, section 13.1): its version is the entity tag."""
    match, none_match = fields.get(b"if-match"), fields.get(b"if-none-match")
    if none_match is not None and (none_match.strip() != b"*" or match is not None):
        raise RequestRefused(Code.BAD_REQUEST, "If-None-Match is *, alone: there must be no state yet")
    if match is None:
        return Condition(exists=False)
    if match.strip() == b"*":
        return Condition(exists=True)
    if _VERSIONS.fullmatch(match) is None:
        raise RequestRefused(Code.BAD_REQUEST, 'If-Match is * or versions in quotes, as in "7"')
    return Condition(versions=tuple(int(version) for version in _DIGITS.findall(match)))


def read_arguments(function: Function, query: bytes) -> tuple[str, ...]:
    """`?arg=one&arg=two` of a call, where the config lets callers add arguments. Raises RequestRefused."""
    if function.arguments is Arguments.NONE:
        advice = ' (or see arguments = "query")' if function.mode is Mode.EXEC else ""
        raise RequestRefused(Code.BAD_REQUEST, f"a call takes no query: its input is the body{advice}")
    arguments = []
    for part in query.split(b"&"):
        name, equals, value = part.partition(b"=")
        decoded = unquote_to_bytes(value.replace(b"+", b" "))
        if name != b"arg" or not equals or _BAD_PERCENT.search(value) is not None or 0 in decoded:
            raise RequestRefused(
                Code.BAD_REQUEST, "the query of a call is arg=..., once for each argument, percent-encoded"
            )
        arguments.append(decoded.decode("utf-8", "surrogateescape"))
    return tuple(arguments)


def prefers_async(prefer: bytes) -> bool:
    """Whether a `Prefer` field wants no answer but where it will be found (RFC 7240, section 4.1).

    Other wishes may be ignored by its definition; waiting for a time is refused, for it may be counted on.
    """
    if _WAITS.search(prefer) is not None:
        raise RequestRefused(
            Code.BAD_REQUEST, "Prefer: wait is 0 or absent: see Inversion-Timeout, or ?wait= of an output"
        )
    return _RESPONDS_ASYNC.search(prefer) is not None
