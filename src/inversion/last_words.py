"""What is kept of an error with the message that failed: JSON bounded in bytes, for people and `reply_to`.

Code, message, what the process left (stderr's tail, exit status or signal) and why there is no further try.
Nothing of the environment goes along: values that the function's `env` has stand there by their names, should
its process have printed them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs

from inversion import json_text
from inversion.errors import FunctionError, InversionError

#: Of one text, in characters: all of a stderr tail, and few rows of a table that nobody sweeps are large.
MOST_TEXT: Final = 4_096
#: Of the details that a function gave its error; more would be a copy of some state.
MOST_DETAILS_BYTES: Final = 8_192
#: Shorter values of `env` are no secrets, and words such as `info` are everywhere.
_LEAST_SECRET: Final = 8
_CUT: Final = " [cut]"


def of_answer(error: FunctionError, given_up: str | None = None) -> bytes:
    """Of an error that the function answered with."""
    details = error.details
    message = _bounded(error.message)
    if details is not None and len(details) > MOST_DETAILS_BYTES:
        details = None
        message += f" [its details of {len(error.details or b'')} bytes are left out]"
    text = json_text.encode_error(
        attrs.evolve(error, code=_bounded(error.code), message=message, details=details)
    )
    return text if given_up is None else _with(text, given_up)


def of_failure(error: InversionError, env: Mapping[str, str], given_up: str | None = None) -> bytes:
    """Of a crash, a timeout, a broken rule."""
    said: dict[str, object] = {"code": error.code.wire, "message": error.detail, **error.extra}
    names = {value: name for name, value in env.items() if len(value) >= _LEAST_SECRET}
    kept = {name: _without(value, names) if isinstance(value, str) else value for name, value in said.items()}
    text = json_text.encode(kept)
    return text if given_up is None else _with(text, given_up)


def of_refusal(code: str, message: str, given_up: str) -> bytes:
    """Of a message that was not tried."""
    return _with(json_text.encode({"code": code, "message": _bounded(message)}), given_up)


def _with(text: bytes, given_up: str) -> bytes:
    return b'%b,"given_up":%b}' % (text[:-1], json_text.quote(given_up))


def _bounded(text: str) -> str:
    return text if len(text) <= MOST_TEXT else text[: MOST_TEXT - len(_CUT)] + _CUT


def _without(text: str, names: Mapping[str, str]) -> str:
    for value in sorted(names, key=len, reverse=True):  # one may hold another
        text = text.replace(value, f"[env {names[value]}]")
    return text if len(text) <= MOST_TEXT else text[-MOST_TEXT:]
