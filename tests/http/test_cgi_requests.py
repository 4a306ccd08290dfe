"""CGI programs over HTTP: what they are told, how their answers come back, redirects."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import trio
from cgi_door import cgi_door, python, shell
from front_door import get, post

from inversion.config import Crash, Function, Mode, Processes

HELLO = "printf 'Content-Type: text/plain\\n\\nhello'"
#: Answers with its environment and its body, as JSON.
MIRROR = """
    import json, os, sys
    body = sys.stdin.buffer.read()
    print("Content-Type: application/json\\n")
    print(json.dumps({"body": body.decode("latin-1"), "env": dict(os.environ), "argv": sys.argv[1:]}))
"""


async def test_a_program_is_told_of_the_request_and_its_answer_goes_out_as_it_came(tmp_path: Path):
    async with cgi_door(python(tmp_path, MIRROR)) as door:
        raw = post(
            b"/v1/http/fn/a%20b?x=%41&+y", b"\xff\x00body", b"Content-Type: a/b", b"X-Me: \xe9", b"Proxy: p"
        )
        answer = await door.ask(raw)
    assert answer.status == 200
    assert answer.fields["content-type"] == "application/json"
    said = json.loads(answer.body)
    assert said["body"] == "\xff\x00body"
    assert said["argv"] == []
    env = said["env"]
    assert env["PATH_INFO"] == "/a b"
    assert env["QUERY_STRING"] == "x=%41&+y"
    assert env["SCRIPT_NAME"] == "/v1/http/fn"
    assert env["SCRIPT_FILENAME"] == str(tmp_path / "fn.cgi")
    assert (env["CONTENT_LENGTH"], env["CONTENT_TYPE"]) == ("6", "a/b")
    assert (env["REQUEST_METHOD"], env["REMOTE_ADDR"]) == ("POST", "127.0.0.1")
    assert (env["SERVER_NAME"], env["SERVER_PORT"]) == ("localhost", str(door.listener.port))
    assert env["HTTP_X_ME"] == "\udce9"
    assert "HTTP_PROXY" not in env
    assert env["INVERSION_ID"] == answer.fields["inversion-id"]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE", "PATCH", "OPTIONS", "PROPFIND"])
async def test_any_method_goes_through(tmp_path: Path, method: str):
    script = "printf 'Content-Type: text/plain\\n\\n%s' \"$REQUEST_METHOD\""
    async with cgi_door(shell(tmp_path, script)) as door:
        answer = await door.ask(f"{method} /v1/http/fn HTTP/1.1\r\nHost: x\r\n\r\n".encode())
    assert answer.body == method.encode()


async def test_an_answer_to_head_has_no_body_and_the_connection_goes_on(tmp_path: Path):
    async with cgi_door(shell(tmp_path, HELLO)) as door:
        client = await door.connect()
        for _ in range(2):
            await client.send(b"HEAD /v1/http/fn HTTP/1.1\r\nHost: x\r\n\r\n")
            answer = await client.answer("HEAD")
            assert (answer.status, answer.body) == (200, b"")
        await client.send(get(b"/v1/http/fn"))
        assert (await client.answer()).body == b"hello"


async def test_requests_follow_each_other_on_one_connection(tmp_path: Path):
    async with cgi_door(shell(tmp_path, "printf 'Content-Type: a/b\\n\\n'; cat")) as door:
        client = await door.connect()
        await client.send(b"".join(post(b"/v1/http/fn", b"%d" % number) for number in range(5)))
        assert [(await client.answer()).body for _ in range(5)] == [b"0", b"1", b"2", b"3", b"4"]


async def test_the_status_its_words_and_repeated_fields_are_the_programs(tmp_path: Path):
    script = "printf 'Status: 418 Short and stout\\nSet-Cookie: a=1\\nSet-Cookie: b=2\\n\\n'"
    async with cgi_door(shell(tmp_path, script)) as door:
        client = await door.connect()
        await client.send(get(b"/v1/http/fn"))
        head = (await client.stream.receive_some()).partition(b"\r\n\r\n")[0]
    assert head.startswith(b"HTTP/1.1 418 Short and stout\r\n")
    assert b"Set-Cookie: a=1\r\nSet-Cookie: b=2\r\n" in head


async def test_a_length_that_the_program_gives_is_kept_and_what_is_over_is_dropped(tmp_path: Path):
    script = "printf 'Content-Length: 3\\n\\nabcdef'"
    async with cgi_door(shell(tmp_path, script)) as door:
        client = await door.connect()
        for _ in range(2):
            await client.send(get(b"/v1/http/fn"))
            answer = await client.answer()
            assert (answer.fields["content-length"], answer.body) == ("3", b"abc")


async def test_an_http_1_0_client_gets_its_answer_up_to_the_end(tmp_path: Path):
    async with cgi_door(shell(tmp_path, HELLO)) as door:
        client = await door.connect()
        await client.send(b"GET /v1/http/fn HTTP/1.0\r\n\r\n")
        said = b"".join([piece async for piece in client.stream])
    head, _, body = said.partition(b"\r\n\r\n")
    assert body == b"hello"
    assert b"Connection: close" in head
    assert b"chunked" not in head


@pytest.mark.parametrize("status", [204, 304])
async def test_a_status_without_a_body_has_none(tmp_path: Path, status: int):
    script = f"printf 'Status: {status}\\n\\nnot for you'"
    async with cgi_door(shell(tmp_path, script)) as door:
        client = await door.connect()
        await client.send(get(b"/v1/http/fn") + get(b"/v1/http/fn"))
        assert [(await client.answer()).status for _ in range(2)] == [status, status]


# Redirects.


async def test_a_client_redirect_is_the_clients(tmp_path: Path):
    async with cgi_door(shell(tmp_path, "printf 'Location: http://elsewhere/x\\n\\n'")) as door:
        answer = await door.ask(get(b"/v1/http/fn"))
    assert (answer.status, answer.fields["location"]) == (302, "http://elsewhere/x")


async def test_a_client_redirect_may_have_a_document(tmp_path: Path):
    script = "printf 'Status: 303 See\\nLocation: /v1/http/fn/b\\nContent-Type: a/b\\n\\nthere'"
    async with cgi_door(shell(tmp_path, script)) as door:
        answer = await door.ask(get(b"/v1/http/fn"))
    assert (answer.status, answer.fields["location"], answer.body) == (303, "/v1/http/fn/b", b"there")


async def test_a_local_redirect_is_a_get_of_another_program_without_the_body(tmp_path: Path):
    first = shell(tmp_path, "cat >/dev/null; printf 'Location: /v1/http/second/b%%20c?d=e\\n\\n'", "first")
    second = python(tmp_path, MIRROR, "second")
    async with cgi_door(first, second) as door:
        answer = await door.ask(post(b"/v1/http/first/x?y", b"body", b"Content-Type: a/b", b"Cookie: k"))
    said = json.loads(answer.body)
    env = said["env"]
    assert (env["REQUEST_METHOD"], env["SCRIPT_NAME"]) == ("GET", "/v1/http/second")
    assert (env["PATH_INFO"], env["QUERY_STRING"], env["HTTP_COOKIE"]) == ("/b c", "d=e", "k")
    assert not {"CONTENT_LENGTH", "CONTENT_TYPE"} & env.keys()
    assert said["body"] == ""


async def test_a_program_may_redirect_to_itself_with_one_process_at_a_time(tmp_path: Path):
    script = """
        if [ -z "$PATH_INFO" ]; then printf 'Location: /v1/http/fn/there\\n\\n'; exit; fi
        printf 'Content-Type: a/b\\n\\n%s' "$PATH_INFO"
    """
    async with cgi_door(shell(tmp_path, script, processes=Processes(0, 1))) as door:
        assert (await door.ask(get(b"/v1/http/fn"))).body == b"/there"


async def test_a_circle_of_local_redirects_ends(tmp_path: Path):
    async with cgi_door(shell(tmp_path, "printf 'Location: /v1/http/fn\\n\\n'")) as door:
        answer = await door.ask(get(b"/v1/http/fn"))
        assert door.counters.functions["fn"].starts == 11
    assert answer.status == 502
    assert json.loads(answer.body)["code"] == "too_many_hops"


@pytest.mark.parametrize(
    "target", ["/index.html", "/v1/state/fn/k", "/v1/http/none/x", "/v1/http/", "/v1/http/lines"]
)
async def test_a_local_redirect_to_what_is_no_program_here_is_refused_in_words(tmp_path: Path, target: str):
    other = Function("lines", ("cat",), tmp_path, mode=Mode.LINES)
    async with cgi_door(shell(tmp_path, f"printf 'Location: {target}\\n\\n'"), other) as door:
        answer = await door.ask(get(b"/v1/http/fn"))
    assert answer.status == 502
    assert f"redirects locally to {target}" in json.loads(answer.body)["detail"]


# What is refused, and what goes wrong before anything was sent.


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        (b"/v1/http/none", 404, "no_function"),
        (b"/v1/http/", 404, "no_function"),
        (b"/v1/http", 404, "no_function"),
        (b"/v1/http/exec/x", 400, "bad_request"),
        (b"/v1/http/fn/a/../b", 400, "bad_request"),
        (b"/v1/http/fn/%00", 400, "bad_request"),
    ],
)
async def test_what_no_program_is_asked_for_is_refused(tmp_path: Path, path: bytes, status: int, code: str):
    other = Function("exec", ("cat",), tmp_path, mode=Mode.EXEC)
    async with cgi_door(shell(tmp_path, HELLO), other) as door:
        client = await door.connect()
        await client.send(post(path, b"x") + get(b"/v1/http/fn"))
        answer = await client.answer()
        assert (answer.status, json.loads(answer.body)["code"]) == (status, code)
        assert (await client.answer()).body == b"hello"


@pytest.mark.parametrize(
    ("script", "code", "words"),
    [
        ("true", "protocol_error", "without having printed anything"),
        ("echo '<html>'", "protocol_error", "where a header line is due"),
        ("printf 'Content-Type: a/b'", "protocol_error", "before its header lines were complete"),
        ("printf 'HTTP/1.1 200 OK\\n\\n'", "protocol_error", "NPH"),
        ("echo oops >&2; exit 3", "function_crashed", "exit status 3"),
        ("printf 'Content-Type: a/b\\n'; kill -9 $$", "function_crashed", "signal SIGKILL"),
        ("printf 'Location: /v1/http/fn\\n\\n'; exit 1", "function_crashed", "exit status 1"),
    ],
)
async def test_a_program_that_does_not_answer_is_a_bad_gateway(tmp_path, script, code, words):
    async with cgi_door(shell(tmp_path, script)) as door:
        client = await door.connect()
        for _ in range(2):
            await client.send(get(b"/v1/http/fn"))
            answer = await client.answer()
            said = json.loads(answer.body)
            assert (answer.status, said["code"]) == (502, code)
            assert words in said["detail"]
    if "oops" in script:
        assert said["stderr"] == "oops"
        assert said["exit_status"] == 3
        assert door.logs.count("oops") == 2
        assert door.counters.functions["fn"].deaths == 2


async def test_a_program_that_cannot_be_started_is_unavailable(tmp_path: Path):
    function = shell(tmp_path, HELLO)
    (tmp_path / "fn.cgi").unlink()
    async with cgi_door(function) as door:
        answer = await door.ask(get(b"/v1/http/fn"))
    assert (answer.status, json.loads(answer.body)["code"]) == (503, "no_runtime")


async def test_an_exit_status_is_no_crash_where_the_config_says_so(tmp_path: Path):
    function = shell(tmp_path, HELLO + "; exit 1", crash=Crash.SIGNAL)
    async with cgi_door(function) as door:
        assert (await door.ask(get(b"/v1/http/fn"))).body == b"hello"


async def test_as_many_run_at_a_time_as_there_may_be_and_the_rest_waits(tmp_path: Path):
    gate = tmp_path / "gate"
    script = f"while [ ! -e {gate} ]; do sleep 0.01; done; {HELLO}"
    async with cgi_door(shell(tmp_path, script, processes=Processes(0, 2))) as door:
        clients = [await door.connect() for _ in range(5)]
        for client in clients:
            await client.send(get(b"/v1/http/fn"))
        while door.pool().waiting < 3:
            assert door.pool().in_flight <= 2
            await trio.sleep(0.01)
        gate.touch()
        assert [(await client.answer()).body for client in clients] == [b"hello"] * 5


@pytest.mark.slow
async def test_who_waits_too_long_for_a_process_is_told_so(tmp_path: Path):
    script = "printf 'Content-Type: a/b\\n\\n'; while :; do echo x; sleep 0.05; done"
    async with cgi_door(shell(tmp_path, script, processes=Processes(0, 1), timeout_s=2)) as door:
        first = await door.connect()
        await first.send(get(b"/v1/http/fn"))
        await first.stream.receive_some()
        answer = await door.ask(get(b"/v1/http/fn"))
    assert (answer.status, json.loads(answer.body)["code"]) == (504, "deadline")
    assert "processes.max" in json.loads(answer.body)["detail"]
