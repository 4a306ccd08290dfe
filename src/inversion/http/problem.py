"""Errors in words: application/problem+json (RFC 9457).

Every error that leaves by HTTP passes through `problem`. It carries what the caller can act on (code,
whose fault, outcome, detail, id), never a stack, a statement or a path of this machine.
"""

from __future__ import annotations

from typing import Final

from inversion import ids, json_text
from inversion.errors import Code, FunctionError, InversionError, Outcome
from inversion.http.service import HttpResponse

_FIELDS: Final = b"Content-Type: application/problem+json\r\nInversion-Id: %b\r\nInversion-Outcome: %b\r\n"
_CHALLENGE: Final = b'WWW-Authenticate: Bearer realm="inversion"\r\n'
#: Whoever is told one of these is told when to come again.
_TRY_AGAIN: Final = frozenset((429, 503))
#: Members that `extra` may not overwrite.
_OWN: Final = frozenset(("type", "title", "status", "detail", "id", "code", "source", "outcome"))


def problem(
    error: InversionError | FunctionError,
    request_id: str | None = None,
    more_fields: bytes = b"",
    *,
    function_outcome: Outcome = Outcome.NOT_APPLIED,
) -> HttpResponse:
    """The answer that tells of an error. Without an id the request gets one now, so that logs can name it.

    `type` is a path of this server, `/errors/<code>`, where the code is explained.
    """
    if request_id is None:
        request_id = ids.new_id()
    if isinstance(error, FunctionError):
        return _of_function(error, request_id, more_fields, function_outcome)
    code = error.code
    body: dict[str, object] = {
        "type": f"/errors/{code.wire}",
        "title": title(code),
        "status": code.status,
        "detail": error.detail,
        "id": request_id,
        "code": code.wire,
        "source": "inversion",
        "outcome": error.outcome.value,
    }
    body.update((name, value) for name, value in error.extra.items() if name not in _OWN)
    retry_after_s = error.retry_after_s
    if retry_after_s is None and code.status in _TRY_AGAIN:
        retry_after_s = 1
    if retry_after_s is not None:
        more_fields += b"Retry-After: %d\r\n" % retry_after_s
    if code is Code.UNAUTHENTICATED:
        more_fields += _CHALLENGE
    fields = _FIELDS % (request_id.encode("ascii"), error.outcome.value.encode("ascii"))
    return HttpResponse(code.status, fields + more_fields, json_text.encode(body))


def _of_function(error: FunctionError, request_id: str, more_fields: bytes, outcome: Outcome) -> HttpResponse:
    """The function's own answer: its code, its words, its details byte for byte."""
    body = json_text.encode(
        {
            "type": "/errors/function_error",
            "title": title(Code.FUNCTION_ERROR),
            "status": error.status,
            "detail": error.message,
            "id": request_id,
            "code": error.code,
            "source": "function",
            "outcome": outcome.value,
        }
    )
    if error.details is not None:
        body = b'%b,"details":%b}' % (body[:-1], error.details)
    fields = _FIELDS % (request_id.encode("ascii"), outcome.value.encode("ascii"))
    return HttpResponse(error.status, fields + more_fields, body)


def title(code: Code) -> str:
    """The code as words: the same for every occurrence."""
    return code.wire.replace("_", " ").capitalize()
