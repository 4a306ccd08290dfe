"""What programs do wrong, each under a name, and what is seen of a program where it does."""

from __future__ import annotations

from collections.abc import Sequence
from enum import Enum
from typing import Final

import attrs

from inversion.conformance.matching import read

#: Of a line, in what is told of a case.
MOST_SHOWN: Final = 2_000


class Fault(Enum):
    """What a program does wrong, each under a name of its own."""

    UNFLUSHED = "unflushed-output"
    NO_NEWLINE = "missing-newline"
    LATE = "answers-at-the-next-message"
    SEVERAL_LINES = "answer-over-several-lines"
    GLUED = "print-without-newline"
    NO_ID = "answers-without-id"
    ID_CHANGED = "id-is-no-string"
    WRONG_ID = "unknown-id"
    TWICE = "answers-twice"
    SWAPPED = "answers-swapped"
    PRINTS = "prints-on-stdout"
    NOT_UTF8 = "output-is-not-utf-8"
    BYTE_ORDER_MARK = "byte-order-mark"
    NOT_JSON = "answer-is-not-json"
    LEFT = "leaves-after-an-answer"
    LEFT_AT_ONCE = "leaves-unasked"
    DIED = "dies-at-a-message"
    DIED_OF_SIZE = "dies-at-a-long-line"
    STOPPED_READING = "stops-reading"
    CLOSED = "closes-stdout"
    SILENT = "no-answer"
    NO_HELLO = "no-hello"
    HELLO_AGAIN = "hello-twice"
    HELLO_LATE = "hello-after-an-answer"
    HELLO_BROKEN = "hello-broken"
    SURPLUS = "surplus-line"
    STAYED = "stays-after-eof"
    EXIT_STATUS = "exit-status-at-eof"
    ENDS_OTHERWISE = "ends-otherwise-than-told"
    RAN_TORN_LINE = "runs-a-torn-line"
    U2028 = "u-2028-is-no-newline"
    NUMBER = "number-changed"
    TEXT = "text-changed"
    STATE_LOST = "state-lost"
    STATE_UNASKED = "state-put-unasked"
    STATE_CHANGED = "state-changed"
    DELETE_LOST = "delete-lost"
    NULL_FOR_DELETE = "null-for-delete"
    ABSENT_IS_NULL = "absent-taken-for-null"
    NULL_IS_ABSENT = "null-taken-for-absent"
    BESIDE_AN_ERROR = "more-beside-an-error"
    NO_ERROR = "error-lost"
    ERROR_UNASKED = "error-unasked"
    ERROR_FIELDS = "error-fields-changed"
    SECRETS = "error-tells-what-was-thrown"
    EFFECTS_LOST = "effects-lost"
    EFFECTS_UNASKED = "effects-unasked"
    EFFECTS_CHANGED = "effects-changed"
    TURN_ORDER = "turn-out-of-order"
    TURN_SHORT = "turn-cut-short"
    TURN_FLAG = "turn-changed-flag"
    TURN_STATE = "turn-state"
    RESPONSE = "response-changed"
    NO_ANSWERS = "turn-without-answers"


@attrs.frozen
class Advice:
    """One fault, as a sentence about the program, and what to do."""

    fault: Fault
    sentence: str
    remedy: str


@attrs.frozen(kw_only=True)
class Sighting:
    """What was seen where a line, or the end, was expected."""

    program: Sequence[str] = ()  #: its command line
    wanted: object = None  #: the expected frame, as far as it is known
    difference: str = ""  #: in what `line` is another
    wants_end: bool = False  #: it should have left
    line: bytes | None = None  #: what came in its place
    in_flight: Sequence[str] = ()  #: ids that are not answered, in the order of sending
    answered: Sequence[str] = ()
    strays: Sequence[bytes] = ()  #: lines before it that are no frames
    held: bytes = b""  #: written behind the last newline
    after_more: Sequence[bytes] = ()  #: lines that came when another message was sent
    after_eof: Sequence[bytes] = ()  #: lines that came when its input was closed
    status: int | None = None  #: it ended with this status ...
    signal: str | None = None  #: ... or by this signal
    log: str = ""  #: the end of its stderr
    output_is_over: bool = False
    untaken_bytes: int = 0  #: of what it was sent
    last_bytes: int = 0  #: length of the last line it was sent
    has_u2028: bool = False  #: in what it was sent
    input_is_over: bool = False  #: its stdin was closed on purpose


def read_frame(line: bytes) -> dict[str, object] | None:
    """The object on a line; None: it is no object."""
    try:
        value = read(line)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def shown(line: bytes, most: int = 120) -> str:
    """A line for people, cut."""
    text = line.decode(errors="backslashreplace")
    return text if len(text) <= most else f"{text[: most - 3]}... ({len(line)} bytes)"
