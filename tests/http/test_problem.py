from __future__ import annotations

import json

import pytest

from inversion.errors import Code, FunctionError, InversionError, Outcome, RequestRefused
from inversion.http.problem import problem


def test_every_code_becomes_a_problem_with_its_status() -> None:
    for code in Code:
        answer = problem(InversionError(code, "why"), "id-1")
        body = json.loads(answer.body)
        assert answer.status == body["status"] == code.status
        assert body == {
            "type": f"/errors/{code.wire}",
            "title": body["title"],
            "status": code.status,
            "detail": "why",
            "id": "id-1",
            "code": code.wire,
            "source": "inversion",
            "outcome": "not_applied",
        }
        assert b"Inversion-Id: id-1\r\n" in answer.fields
        assert (b"WWW-Authenticate: Bearer" in answer.fields) is (code is Code.UNAUTHENTICATED)
        assert (b"Retry-After: 1\r\n" in answer.fields) is (code.status in (429, 503))


def test_outcome_retry_and_extra_go_along_but_extra_replaces_nothing() -> None:
    error = InversionError(
        Code.DEADLINE,
        "late",
        outcome=Outcome.UNKNOWN,
        retry_after_s=3,
        extra={"exit_status": 1, "code": "forged", "outcome": "applied"},
    )
    answer = problem(error, "id-1")
    body = json.loads(answer.body)
    assert (body["exit_status"], body["code"], body["outcome"]) == (1, "deadline", "unknown")
    assert b"Retry-After: 3\r\n" in answer.fields
    assert b"Inversion-Outcome: unknown\r\n" in answer.fields


def test_an_error_without_an_id_gets_one() -> None:
    answer = problem(RequestRefused(Code.BAD_KEY, "no"))
    request_id = json.loads(answer.body)["id"]
    assert b"Inversion-Id: %b\r\n" % request_id.encode() in answer.fields


@pytest.mark.parametrize("details", [None, b'{"left": 1E5, "big": 18446744073709551615}'])
def test_a_functions_error_keeps_its_words_and_the_bytes_of_its_details(details: bytes | None) -> None:
    answer = problem(FunctionError("out_of_stock", "no a1 left", 409, details, retry=False), "id-1")
    body = json.loads(answer.body)
    assert answer.status == body["status"] == 409
    assert (body["code"], body["detail"], body["source"]) == ("out_of_stock", "no a1 left", "function")
    assert body["outcome"] == "not_applied"
    if details is None:
        assert "details" not in body
    else:
        assert b'"details":' + details + b"}" in answer.body
