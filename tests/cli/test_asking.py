"""invoke, state get, health: what is asked, what is printed, how it ends."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from stand_in import Script, answering

from fix_command import StartCommand
from fix_node import PYTHON, RUNTIMES
from inversion.cli import inversion

PROBLEM = json.dumps(
    {
        "code": "no_function",
        "detail": "no function is named 'x'",
        "status": 404,
        "outcome": "not_applied",
        "id": "i1",
    }
).encode()
ANSWERED = {
    "Content-Type": "application/json",
    "ETag": '"7"',
    "Inversion-Id": "i1",
    "Inversion-Outcome": "applied",
}


@pytest.fixture(autouse=True)
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to be in, with nothing of the real environment."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("INVERSION_")]:
        monkeypatch.delenv(name)
    return tmp_path


def run(*arguments: str, stdin: bytes = b"") -> Result:
    return CliRunner().invoke(inversion, arguments, input=stdin)


def test_invoke_sends_the_body_and_prints_the_answer(project: Path) -> None:
    script = Script(body=b'{"count":1}', headers=ANSWERED)
    with answering(script, project / ".inversion" / "admin.sock"):
        result = run("invoke", "counter", "alice", "add", "-d", "1")
    assert script.asked == [("POST", "/v1/call/counter/alice/add", b"1")]
    assert (result.exit_code, result.stdout) == (0, '{"count":1}')


SENT = {**ANSWERED, "Location": "/v1/output/order/o1/m1"}


@pytest.mark.parametrize(
    ("more", "path"),
    [
        ((), "/v1/send/order/o1/place"),
        (("--delay", "10s"), "/v1/send/order/o1/place?delay=10s"),
        (
            ("--at", "2026-11-24T02:11:00+01:00"),
            "/v1/send/order/o1/place?at=2026-11-24T02%3A11%3A00%2B01%3A00",
        ),
    ],
)
def test_send_prints_where_the_answer_will_be(project: Path, more: tuple[str, ...], path: str) -> None:
    script = Script(status=202, body=b'{"id":"m1"}', headers=SENT)
    with answering(script, project / ".inversion" / "admin.sock"):
        result = run("send", "order", "o1", "place", "-d", "1", "--idempotency-key", "a-7", *more)
        assert script.idempotency_key == "a-7"
        told = run("send", "order", "o1", "place", "--json", *more, stdin=b"1")
    assert script.asked == [("POST", path, b"1")] * 2
    assert (result.exit_code, result.stdout) == (0, "/v1/output/order/o1/m1\n")
    assert json.loads(told.stdout)["sent"] == {"id": "m1"}


def test_send_ends_as_invoke_does_when_it_is_refused(project: Path) -> None:
    script = Script(status=404, body=PROBLEM, headers={"Content-Type": "application/problem+json"})
    with answering(script, project / ".inversion" / "admin.sock"):
        result = run("send", "x", "-d", "1")
        assert (result.exit_code, result.stdout) == (1, "")
        assert "no_function" in result.stderr
        told = run("send", "x", "-d", "1", "--json")
        assert (told.exit_code, json.loads(told.stdout)["error"]["code"]) == (1, "no_function")
    assert run("send", "x", "-d", "1", "--delay", "1s", "--at", "2026-11-24T02:11:00Z").exit_code == 2
    assert run("send", "x", "-d", "1").exit_code == 3


def test_invoke_passes_an_idempotency_key_on(project: Path) -> None:
    script = Script(body=b"1", headers=ANSWERED)
    with answering(script, project / ".inversion" / "admin.sock"):
        run("invoke", "counter", "alice", "add", "-d", "1", "--idempotency-key", "a-7")
        assert script.idempotency_key == "a-7"
        run("invoke", "counter", "alice", "add", "-d", "1")
    assert script.idempotency_key is None


def test_a_socket_in_a_folder_above_is_found(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "a" / "b").mkdir(parents=True)
    monkeypatch.chdir(project / "a" / "b")
    with answering(Script(), project / ".inversion" / "admin.sock"):
        assert run("invoke", "counter").exit_code == 0


def test_a_socket_whose_path_is_too_long_for_an_address_is_reached(
    project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    deep = project / ("d" * 100) / ("e" * 100)
    deep.mkdir(parents=True)
    monkeypatch.chdir(deep)
    with answering(Script(), Path(".inversion/admin.sock")):
        assert run("invoke", "counter").exit_code == 0


def test_a_key_is_percent_encoded_as_a_whole(project: Path) -> None:
    script = Script()
    with answering(script, project / ".inversion" / "admin.sock"):
        run("invoke", "cart", "a/b ü?#%", "add")
    assert script.asked[0][1] == "/v1/call/cart/a%2Fb%20%C3%BC%3F%23%25/add"


@pytest.mark.parametrize(
    ("arguments", "stdin", "body"),
    [
        (["-d", "text"], b"", b"text"),
        (["-d", "@body.json"], b"", b"from a file\n"),
        (["-d", "@-"], b"piped", b"piped"),
        ([], b"piped\xff", b"piped\xff"),
        ([], b"", b""),
    ],
)
def test_the_body_comes_from_the_line_a_file_or_standard_input(
    project: Path, arguments: list[str], stdin: bytes, body: bytes
) -> None:
    (project / "body.json").write_bytes(b"from a file\n")
    script = Script()
    with answering(script, project / ".inversion" / "admin.sock"):
        run("invoke", "counter", *arguments, stdin=stdin)
    assert script.asked[0][2] == body


def test_a_body_file_that_is_missing_is_wrong_usage() -> None:
    result = run("invoke", "counter", "-d", "@nothing")
    assert result.exit_code == 2
    assert "-d @nothing: No such file" in result.stderr


def test_an_error_is_a_sentence_and_exit_1(project: Path) -> None:
    with answering(Script(404, {}, PROBLEM), project / ".inversion" / "admin.sock"):
        result = run("invoke", "x")
    assert (result.exit_code, result.stdout) == (1, "")
    assert "no_function: no function is named 'x' (status 404, outcome not_applied, id i1)" in result.stderr


def test_an_error_that_is_no_problem_is_shown_as_it_is(project: Path) -> None:
    with answering(Script(502, {}, b"from a proxy"), project / ".inversion" / "admin.sock"):
        result = run("invoke", "x")
    assert result.exit_code == 1
    assert "status 502: from a proxy" in result.stderr


def test_json_has_the_answer_and_what_the_headers_say(project: Path) -> None:
    with answering(Script(200, ANSWERED, b'{"a": 1E5}'), project / ".inversion" / "admin.sock"):
        result = run("invoke", "x", "k", "--json")
    assert '"response":{"a": 1E5}' in result.stdout
    told = json.loads(result.stdout)
    assert (told["status"], told["id"], told["outcome"], told["version"]) == (200, "i1", "applied", 7)


def test_json_of_an_error_goes_to_standard_output(project: Path) -> None:
    headers = {"Content-Type": "application/problem+json"}
    with answering(Script(404, headers, PROBLEM), project / ".inversion" / "admin.sock"):
        result = run("invoke", "x", "--json")
    assert (result.exit_code, result.stderr) == (1, "")
    assert json.loads(result.stdout)["error"]["code"] == "no_function"


def test_json_of_bytes_is_text(project: Path) -> None:
    headers = {"Content-Type": "application/octet-stream"}
    with answering(Script(200, headers, b"a\nb\xff"), project / ".inversion" / "admin.sock"):
        result = run("invoke", "x", "--json")
    assert json.loads(result.stdout)["response"] == "a\nb\ufffd"


def test_state_get_prints_the_state(project: Path) -> None:
    script = Script(200, ANSWERED, b'{"items":[]}')
    with answering(script, project / ".inversion" / "admin.sock"):
        plain = run("state", "get", "cart", "c-17")
        told = json.loads(run("state", "get", "cart", "c-17", "--json").stdout)
    assert script.asked[0] == ("GET", "/v1/state/cart/c-17", b"")
    assert plain.stdout == '{"items":[]}'
    assert (told["state"], told["version"]) == ({"items": []}, 7)


def test_an_admin_url_is_asked_with_the_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INVERSION_ADMIN_TOKEN", "hush")
    script = Script()
    with answering(script) as url:
        assert run("invoke", "x", "--admin-url", url).exit_code == 0
    assert script.authorization == "Bearer hush"


def test_the_token_may_stand_in_a_file(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (project / "token").write_text("hush\n")
    monkeypatch.setenv("INVERSION_ADMIN_TOKEN_FILE", "token")
    script = Script()
    with answering(script) as url:
        monkeypatch.setenv("INVERSION_ADMIN_URL", url)
        assert run("invoke", "x").exit_code == 0
    assert script.authorization == "Bearer hush"
    monkeypatch.setenv("INVERSION_ADMIN_TOKEN_FILE", "nothing")
    assert run("invoke", "x").exit_code == 2


def test_a_socket_needs_no_token(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("INVERSION_ADMIN_TOKEN", "hush")
    script = Script()
    with answering(script, project / ".inversion" / "admin.sock"):
        run("invoke", "x")
    assert script.authorization is None


@pytest.mark.parametrize("command", [["invoke", "x"], ["state", "get", "x", "k"], ["health"]])
def test_without_a_server_it_ends_with_3_and_a_sentence(command: list[str]) -> None:
    result = run(*command, "--admin-url", "http://127.0.0.1:1")
    assert result.exit_code == 3
    assert "no server answers at http://127.0.0.1:1: Connection refused" in result.stderr


def test_a_socket_that_a_dead_server_left_is_no_server(project: Path) -> None:
    with answering(Script(), project / ".inversion" / "admin.sock"):
        pass
    result = run("health")
    assert result.exit_code == 3
    assert "Connection refused" in result.stderr


def test_an_admin_url_that_is_none_is_said_so() -> None:
    assert "is no URL such as" in run("health", "--admin-url", "localhost").stderr


@pytest.mark.parametrize("url", ["http://127.0.0.1:99999", "http://[::1"])
def test_an_admin_url_that_cannot_be_asked_is_wrong_usage(url: str) -> None:
    result = run("health", "--admin-url", url)
    assert result.exit_code == 2
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(("status", "code"), [(200, 0), (503, 1)])
def test_health_tells_ready_from_not_ready(project: Path, status: int, code: int) -> None:
    script = Script(status, {}, b"draining")
    with answering(script, project / ".inversion" / "admin.sock"):
        result = run("health")
        told = json.loads(run("health", "--json").stdout)
    assert script.asked[0] == ("GET", "/readyz", b"")
    assert result.exit_code == code
    assert told["ready"] is (status == 200)


def test_a_message_sent_from_a_shell_is_delivered(
    short_folder: Path, start_command: StartCommand, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    (short_folder / "inversion.toml").write_text(
        f'[functions.counter]\ncommand = ["{PYTHON}", "{RUNTIMES}/python/counter.py"]\n'
    )
    monkeypatch.chdir(short_folder)
    with start_command("dev", short_folder, "--json", "--database-url", database_url, "--migrate"):
        for _ in range(2):
            sent = run("send", "counter", "alice", "add", "-d", "5", "--idempotency-key", "one")
            assert sent.exit_code == 0, sent.stderr
            assert sent.stdout.startswith("/v1/output/counter/alice/")
        assert run("invoke", "counter", "alice", "add", "-d", "1").stdout in ("1", "6")
        ended_s = time.monotonic() + 30
        while run("state", "get", "counter", "alice").stdout != '{"count":6}' and time.monotonic() < ended_s:
            time.sleep(0.05)
        assert run("state", "get", "counter", "alice").stdout == '{"count":6}'
