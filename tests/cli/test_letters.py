"""messages list, show, retry, edit, drop: what is asked, what is printed, how it ends."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from stand_in import Script, answering

from inversion.cli import inversion

LETTER = {
    "kind": "dead",
    "function": "pay",
    "key": None,
    "id": "i1",
    "handler": "call",
    "sender": "shop/7",
    "name": None,
    "reply_to": "paid",
    "answers": None,
    "hops": 1,
    "attempts": 10,
    "failures": 10,
    "due_at": None,
    "owner": None,
    "born_at": "2026-11-24T10:00:00.000001Z",
    "died_at": "2026-11-24T10:04:00.000001Z",
    "body_bytes": 12,
    "error": {
        "code": "function_crashed",
        "message": "it died",
        "stderr": "Traceback\nBoom",
        "exit_status": 3,
    },
}
NOT_THERE = json.dumps({"code": "no_message", "detail": "there is no such dead letter (any more)"}).encode()


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be in, with nothing of the real environment."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("INVERSION_")]:
        monkeypatch.delenv(name)
    return tmp_path


def run(script: Script, *arguments: str, stdin: bytes = b"") -> Result:
    path = Path(".inversion/admin.sock")
    path.unlink(missing_ok=True)
    with answering(script, path):
        return CliRunner().invoke(inversion, ["messages", *arguments], input=stdin)


def test_list_shows_a_line_for_each_and_where_it_goes_on() -> None:
    script = Script(body=json.dumps({"messages": [LETTER], "next": "abc"}).encode())
    result = run(script, "list", "pay", "-", "--dead", "--limit", "1")
    assert script.asked[0][:2] == ("GET", "/v1/messages?function=pay&key=-&dead=true&limit=1")
    assert result.exit_code == 0
    heading, row = result.stdout.splitlines()
    assert heading.split()[:3] == ["FUNCTION", "KEY", "ID"]
    assert row.split()[:6] == ["pay", "-", "i1", "dead", "2026-11-24T10:04:00Z", "10"]
    assert "function_crashed: it died" in row
    assert "--after abc" in result.stderr


def test_list_without_anything_asks_for_all_that_waits() -> None:
    script = Script(body=b'{"messages":[],"next":null}')
    result = run(script, "list")
    assert script.asked[0][1] == "/v1/messages?limit=100"
    assert (result.exit_code, result.stderr) == (0, "")


def test_show_prints_the_facts_the_error_and_the_body() -> None:
    body = json.dumps({**LETTER, "body": {"order": 7}}).encode()
    script = Script(body=body)
    result = run(script, "show", "pay", "-", "i1")
    assert script.asked[0][1] == "/v1/messages/pay/-/i1"
    for words in ("sent by:      shop/7", "exit status:  3", "Traceback\n              Boom", '{"order": 7}'):
        assert words in result.stdout
    told = run(Script(body=body), "show", "pay", "-", "i1", "--json")
    assert json.loads(told.stdout) == json.loads(body)


def test_retry_and_drop_decide_about_one() -> None:
    script = Script(body=b'{"retried":1}')
    assert run(script, "retry", "pay", "a/b", "i1").stdout == "1 dead letter retried\n"
    assert run(script, "drop", "pay", "-", "i1", "--json").stdout == '{"dropped": 1}\n'
    assert script.asked == [
        ("POST", "/v1/messages/pay/a%2Fb/i1/retry", b""),
        ("DELETE", "/v1/messages/pay/-/i1", b""),
    ]


def test_all_go_some_at_a_time_and_those_that_die_meanwhile_are_left() -> None:
    script = Script(body=b'{"retried":100,"more":true,"before":"then"}')
    script.later = [b'{"retried":7,"more":false,"before":"then"}']
    assert run(script, "retry", "pay", "k", "--all").stdout == "107 dead letters retried\n"
    assert [path for _, path, _ in script.asked] == [
        "/v1/messages/retry?function=pay&key=k",
        "/v1/messages/retry?function=pay&key=k&before=then",
    ]


@pytest.mark.parametrize("command", ["retry", "drop"])
@pytest.mark.parametrize("arguments", [["pay"], ["pay", "k"], ["pay", "k", "i1", "--all"], []])
def test_all_is_never_meant_by_accident(command: str, arguments: list[str]) -> None:
    script = Script()
    assert run(script, command, *arguments).exit_code == 2
    assert not script.asked


def test_edit_sends_the_new_body() -> None:
    script = Script(body=b'{"retried":1}')
    assert run(script, "edit", "pay", "k", "i1", "-d", '{"order": 8}').exit_code == 0
    assert run(script, "edit", "pay", "k", "i1", stdin=b"[1]").exit_code == 0
    assert run(script, "edit", "pay", "k", "i1", stdin=b" ").exit_code == 2
    assert script.asked == [
        ("POST", "/v1/messages/pay/k/i1/retry", b'{"order": 8}'),
        ("POST", "/v1/messages/pay/k/i1/retry", b"[1]"),
    ]


@pytest.mark.parametrize(
    "arguments", [["show", "pay", "-", "i"], ["retry", "pay", "-", "i"], ["drop", "pay", "--all"]]
)
def test_an_answer_that_is_an_error_ends_with_1(arguments: list[str]) -> None:
    result = run(Script(404, {}, NOT_THERE), *arguments)
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no_message: there is no such dead letter" in result.stderr
    told = run(Script(404, {}, NOT_THERE), *arguments, "--json")
    assert (told.exit_code, json.loads(told.stdout)["code"]) == (1, "no_message")


def test_without_a_server_it_ends_with_3() -> None:
    result = CliRunner().invoke(inversion, ["messages", "list", "--admin-url", "http://127.0.0.1:1"])
    assert result.exit_code == 3
