"""What is kept of an error with the message that failed."""

from __future__ import annotations

import json

from inversion import last_words
from inversion.errors import Code, FunctionError, ProcessDied


def test_a_crash_leaves_its_code_its_words_its_status_and_the_reason_for_the_end() -> None:
    error = ProcessDied(
        Code.FUNCTION_CRASHED, "function pay: it died", extra={"exit_status": 3, "stderr": "Traceback\nBoom"}
    )
    assert json.loads(last_words.of_failure(error, {}, "failed 3 times")) == {
        "code": "function_crashed",
        "message": "function pay: it died",
        "exit_status": 3,
        "stderr": "Traceback\nBoom",
        "given_up": "failed 3 times",
    }


def test_values_of_env_stand_there_by_their_names() -> None:
    env = {"TOKEN": "hush-hush-hush", "URL": "pg://hush-hush-hush@db", "LOG": "info"}
    error = ProcessDied(
        Code.FUNCTION_CRASHED, "d", extra={"stderr": "info: pg://hush-hush-hush@db hush-hush-hush"}
    )
    kept = last_words.of_failure(error, env)
    assert b"hush" not in kept
    assert json.loads(kept)["stderr"] == "info: [env URL] [env TOKEN]"


def test_what_is_kept_is_bounded() -> None:
    error = FunctionError("c" * 9_000, "m" * 9_000, 409, b'"%b"' % (b"d" * 9_000), retry=True)
    kept = last_words.of_answer(error, "why")
    assert len(kept) < 9_000
    said = json.loads(kept)
    assert (said["given_up"], "details" in said) == ("why", False)
    assert said["message"].endswith("[cut] [its details of 9002 bytes are left out]")
    crash = ProcessDied(Code.FUNCTION_CRASHED, "d", extra={"stderr": "x" * 9_000 + "end"})
    stderr = json.loads(last_words.of_failure(crash, {}))["stderr"]
    assert len(stderr) <= last_words.MOST_TEXT
    assert stderr.endswith("end")


def test_details_that_are_short_are_the_functions_bytes() -> None:
    error = FunctionError("no", "never", 409, b'{"a":1E5}', retry=False)
    assert last_words.of_answer(error) == b'{"code":"no","message":"never","details":{"a":1E5}}'
