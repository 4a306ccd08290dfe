"""What a running node logs when functions, callers and operators feed it what is not fit to print."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import trio
from front_door import Client, get, post

from fix_command import for_serve

SECRET = "hu5h-h0sh"
#: Written to stderr, and to stdout before the answer.
NASTY = (
    b"\x1b[2J\x1b[31mred\r12:00:00 node error forged\x00\x85\xe2\x80\xa8x\xe2\x80\xae\xff"
    b" postgresql://app:" + SECRET.encode() + b"@db/x Authorization: Bearer " + SECRET.encode() + b"\n"
)
FUNCTION = f"""
import json, sys
nasty = {NASTY!r}
for line in sys.stdin:
    sys.stderr.buffer.write(nasty)
    sys.stderr.flush()
    sys.stdout.buffer.write(nasty)
    id = json.loads(line)["id"]
    if "poison" in line:
        sys.exit(3)
    sys.stdout.write(json.dumps({{"id": id, "response": 1}}) + "\\n")
    sys.stdout.flush()
"""
TOML = f"""
[functions.nasty]
command = [{json.dumps(sys.executable)}, "nasty.py"]
state = false
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "inversion.toml").write_text(for_serve(TOML))
    (tmp_path / "nasty.py").write_text(FUNCTION)
    return tmp_path


@contextmanager
def running(folder: Path, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    """The process, and the file that has all it prints."""
    log = folder / "printed"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [sys.executable, "-m", "inversion", *arguments, "--port", "0", "--admin-port", "0"],
            cwd=folder,
            # A password that is right as far as the server cares, in the place where people put it.
            env={**os.environ, "INVERSION_ADMIN_TOKEN": SECRET},
            stdout=out,
            stderr=subprocess.STDOUT,
        )
    try:
        yield process, log
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()


async def url_in(log: Path, pattern: str) -> str:
    with trio.fail_after(45):
        while (found := re.search(pattern, log.read_text(errors="replace"))) is None:  # noqa: ASYNC110, ASYNC240
            await trio.sleep(0.02)
    return found[1]


async def exchange(url: str, raw: bytes) -> bytes:
    host, _, port = url.removeprefix("http://").rpartition(":")
    with trio.fail_after(20):
        client = Client(await trio.open_tcp_stream(host, int(port)))
        async with client.stream:
            await client.send(raw)
            return (await client.answer()).body


async def feed(url: str, admin_url: str) -> None:
    """All that goes wrong and may be logged."""
    answers = [
        await exchange(url, post(b"/v1/call/nasty/x", b"1")),
        await exchange(url, post(b"/v1/call/nasty/x", b'"poison"')),
        await exchange(url, post(b"/v1/call/nasty/x", b"{" + NASTY)),
        await exchange(url, post(b"/v1/call/n%1b%0a/" + SECRET.encode(), b"1")),
        await exchange(admin_url, get(b"/v1/functions", b"Authorization: Bearer " + SECRET.encode() + b"1")),
        await exchange(admin_url, get(b"/v1/functions", b"Authorization: Bearer " + SECRET.encode())),
    ]
    assert json.loads(answers[0]) == 1
    assert json.loads(answers[1])["code"] == "function_crashed"
    assert "functions" in json.loads(answers[-1])


def is_clean(text: str) -> bool:
    """No control character but the newline, nothing that turns the direction of writing."""
    return not re.search("[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\ufffe]", text)


@pytest.mark.postgres
async def test_serve_logs_one_json_object_a_line_without_controls_or_secrets(
    folder: Path, database_url: str
) -> None:
    with running(folder, "serve", "--database-url", f"{database_url} password={SECRET}") as (process, log):
        url = await url_in(log, r'"url":"([^"]+)"')
        await feed(url, await url_in(log, r'"admin_url":"([^"]+)"'))
        process.send_signal(signal.SIGTERM)
        assert await trio.to_thread.run_sync(process.wait, 30) == 0
    text = log.read_bytes().decode()
    events = [json.loads(line) for line in text.splitlines()]
    assert is_clean(text)
    assert SECRET not in text
    assert {(event.get("stream"), "forged" in event.get("text", "")) for event in events} >= {
        ("stderr", True),
        ("stdout", True),
    }
    assert all({"time", "level", "event"} <= event.keys() for event in events)


@pytest.mark.postgres
async def test_dev_logs_one_readable_line_for_each_event(folder: Path, database_url: str) -> None:
    with running(folder, "dev", "--database-url", f"{database_url} password={SECRET}") as (process, log):
        url = await url_in(log, r"is up +(\S+)")
        await feed(url, await url_in(log, r"admin +(\S+)"))
        process.send_signal(signal.SIGTERM)
        assert await trio.to_thread.run_sync(process.wait, 30) == 0
    text = log.read_bytes().decode()
    assert is_clean(text)
    assert SECRET not in text
    _, found, lines = text.partition("Ctrl-C stops.\n\n")
    assert found
    assert len(lines.splitlines()) > 6
    for line in lines.splitlines():
        assert re.match(r"\d\d:\d\d:\d\d (nasty [|>]|error|warning|\w+ )", line), line
    assert "\\x1b[2J\\x1b[31mred\\r12:00:00 node error forged\\x00" in lines


@pytest.mark.slow
@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://me:{SECRET}@127.0.0.1:1/x",
        f"postgresql://me:{SECRET}/with@slash@127.0.0.1:1/x",
        f"host=127.0.0.1 port=1 password='{SECRET}' dbname=x",
        f"postgresql://127.0.0.1:1/x?user=me&password={SECRET}",
        f"host=127.0.0.1 port=1 pasword={SECRET}",
        f"postgresql://me:{SECRET}@127.0.0.1:1/x?\x1b[31m\n=1",
    ],
)
def test_a_database_url_that_is_wrong_is_told_without_its_password(folder: Path, url: str) -> None:
    ended = subprocess.run(
        [sys.executable, "-m", "inversion", "migrate", "--database-url", url],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert ended.returncode == 3
    assert SECRET not in ended.stdout + ended.stderr
    assert "Traceback" not in ended.stderr
    assert is_clean(ended.stderr)
