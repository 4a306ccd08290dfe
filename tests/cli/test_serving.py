"""`inversion dev`, `serve` and `migrate` as they are typed: real processes, a real database, signals."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio

pytestmark = pytest.mark.postgres

INVERSION = [sys.executable, "-m", "inversion"]
ANY_PORT = ["--port", "0", "--admin-port", "0"]
START_TIMEOUT_S = 45.0  # initdb on a busy machine
END_TIMEOUT_S = 20.0

COUNTER = """
import json, sys
handlers = {"add": {}, "get": {"reads_only": True}}
print(json.dumps({"hello": {"protocol": 1, "handlers": handlers}}), flush=True)
for line in sys.stdin:
    frame = json.loads(line)
    count = frame.get("state", 0)
    out = {"id": frame["id"], "response": count}
    if frame["ctx"]["handler"] == "add":
        out = {"id": frame["id"], "response": count + frame["message"], "state": count + frame["message"]}
    print(json.dumps(out), flush=True)
"""
VISITS = """#!/bin/sh
visits=$(cat <&3)                    # empty the first time
visits=$((${visits:-0} + 1))
echo "$visits" >&4                   # stored if we exit with 0, with the answer or not at all
echo "hello $(cat), visit $visits"
"""
CONFIG = f"""
[functions.counter]
command = ["{sys.executable}", "counter.py"]
[functions.missing]
command = ["no-such-program-anywhere"]
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "inversion.toml").write_text(CONFIG)
    (tmp_path / "counter.py").write_text(COUNTER)
    (tmp_path / "visits.sh").write_text(VISITS)
    (tmp_path / "visits.sh").chmod(0o755)
    return tmp_path


def environment() -> dict[str, str]:
    ours = re.compile(r"INVERSION_(?!PG_BIN)|DATABASE_URL$|PORT$|PG[A-Z]+$")
    return {name: value for name, value in os.environ.items() if not ours.match(name)}


def run(folder: Path, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*INVERSION, *arguments],
        cwd=folder,
        env=environment(),
        input=stdin,
        capture_output=True,
        text=True,
        timeout=START_TIMEOUT_S,
        check=False,
    )


class Node:
    """One running `inversion`, and what it has printed."""

    def __init__(self, process: trio.Process) -> None:
        self.process = process
        self.printed = ""

    async def read_until(self, pattern: str) -> re.Match[str]:
        """Read standard output until it matches."""
        assert self.process.stdout is not None
        while (match := re.search(pattern, self.printed, re.MULTILINE)) is None:
            data = await self.process.stdout.receive_some()
            assert data, f"it ended and had printed:\n{self.printed}"
            self.printed += data.decode()
        return match

    async def end(self, number: signal.Signals) -> int:
        self.process.send_signal(number)
        with trio.fail_after(END_TIMEOUT_S):
            return await self.process.wait()


@asynccontextmanager
async def started(folder: Path, *arguments: str) -> AsyncIterator[Node]:
    """An `inversion` whose standard error goes where pytest's goes."""
    process = await trio.lowlevel.open_process(
        [*INVERSION, *arguments], cwd=folder, env=environment(), stdout=subprocess.PIPE
    )
    try:
        yield Node(process)
    finally:
        if process.returncode is None:
            process.terminate()
            with trio.move_on_after(END_TIMEOUT_S, shield=True) as patience:
                await process.wait()
            if patience.cancelled_caught:
                process.kill()


async def curl(line: str) -> str:
    result = await trio.run_process(
        [*shlex.split(line), "--silent", "--show-error", "--max-time", "20"], capture_stdout=True
    )
    return result.stdout.decode()


@pytest.mark.toolchain("curl")
async def test_dev_in_a_fresh_folder_prints_a_line_that_works_and_keeps_what_it_stored(project: Path) -> None:
    with trio.fail_after(2 * START_TIMEOUT_S + END_TIMEOUT_S):
        async with started(project, "dev", *ANY_PORT) as node:
            line = (await node.read_until(r"^try +(curl .*)$"))[1]
            assert re.search(r"counter +runs", node.printed)
            assert re.search(r"missing +does not run +.*no-such-program-anywhere", node.printed)
            assert re.search(r"^database +.*\.inversion", node.printed, re.MULTILINE)
            assert line.startswith("curl -d 1 http://127.0.0.1:")
            assert line.endswith("/v1/call/counter/alice/add")
            assert [await curl(line) for _ in range(3)] == ["1", "2", "3"]
            assert await node.end(signal.SIGTERM) == 0
        async with started(project, "dev", *ANY_PORT) as node:
            line = (await node.read_until(r"^try +(curl .*)$"))[1]
            assert await curl(line) == "4"
            assert await node.end(signal.SIGINT) == 0


async def test_commands_find_the_server_of_their_folder(project: Path) -> None:
    with trio.fail_after(2 * START_TIMEOUT_S):
        async with started(project, "dev", *ANY_PORT) as node:
            await node.read_until(r"^try ")
            assert run(project, "health").returncode == 0
            assert run(project, "invoke", "counter", "bob", "add", "-d", "7").stdout == "7"
            assert run(project, "state", "get", "counter", "bob").stdout == "7"
            told = json.loads(run(project, "invoke", "counter", "bob", "get", "--json").stdout)
            assert (told["response"], told["version"], told["outcome"]) == (7, 1, "applied")
            nobody = run(project, "state", "get", "counter", "nobody")
            assert (nobody.returncode, nobody.stdout) == (1, "")
            assert "no_state" in nobody.stderr
            wrong = run(project, "invoke", "conter", "bob")
            assert wrong.returncode == 1
            assert "did you mean counter?" in wrong.stderr
            assert run(project, "invoke", "missing", "bob").returncode == 1
            port = (await node.read_until(r"http://127.0.0.1:(\d+)"))[1]
            taken = run(
                project / "..", "dev", str(project / "visits.sh"), "--port", port, "--admin-port", "0"
            )
            assert taken.returncode == 3, taken.stderr
        assert run(project, "health").returncode == 3


@pytest.mark.toolchain("curl")
async def test_dev_runs_one_plain_shell_script_with_a_state(project: Path) -> None:
    with trio.fail_after(2 * START_TIMEOUT_S):
        async with started(project, "dev", "./visits.sh", *ANY_PORT) as node:
            url = (await node.read_until(r"http://127.0.0.1:\d+"))[0]
            await node.read_until(r"^try ")
            assert 'mode = "exec"' in node.printed
            line = f"curl -d alice {url}/v1/call/visits/alice"
            assert [await curl(line) for _ in range(2)] == [
                "hello alice, visit 1\n",
                "hello alice, visit 2\n",
            ]


async def test_serve_wants_a_migrated_database_and_logs_json(project: Path, empty_database_url: str) -> None:
    database = ["--database-url", f"{empty_database_url} password=hush"]
    with trio.fail_after(3 * START_TIMEOUT_S):
        refused = await trio.to_thread.run_sync(run, project, "serve", *ANY_PORT, *database)
        assert refused.returncode == 3
        assert "inversion migrate" in refused.stderr
        applied = run(project, "migrate", *database, "--json")
        assert json.loads(applied.stdout)["applied"]
        assert "nothing to do" in run(project, "migrate", *database).stdout
        async with started(project, "serve", *ANY_PORT, *database) as node:
            line = (await node.read_until(r'^.*"event":"started".*$'))[0]
            assert "hush" not in node.printed
            assert json.loads(line)["url"].startswith("http://127.0.0.1:")
            assert run(project, "health").returncode == 0
            assert await node.end(signal.SIGTERM) == 0
            for printed in node.printed.splitlines():
                json.loads(printed)


async def test_serve_tells_why_it_has_no_database_and_serves_what_needs_none(project: Path) -> None:
    nowhere = "postgresql://me:hush@127.0.0.1:1/x"
    with trio.fail_after(START_TIMEOUT_S):
        async with started(project, "serve", *ANY_PORT, "--database-url", nowhere) as node:
            await node.read_until(r'"event":"started"')
            assert "no database yet" in node.printed
            assert "Connection refused" in node.printed
            assert "hush" not in node.printed
            assert await node.end(signal.SIGTERM) == 0
