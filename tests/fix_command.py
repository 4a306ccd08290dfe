"""`inversion dev|serve` as its user runs it: a process of its own, found by its start line."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs
import orjson
import pytest
import trio
from front_door import Answer, Client, get, post


@attrs.define
class RunningCommand:
    """A started `inversion`, its URLs, and every process below it."""

    process: subprocess.Popen[bytes]
    url: str
    admin_url: str

    async def connect(self, url: str) -> Client:
        host, _, port = url.removeprefix("http://").rpartition(":")
        return Client(await trio.open_tcp_stream(host, int(port)))

    async def _exchange(self, url: str, raw: bytes) -> Answer:
        with trio.fail_after(20):
            client = await self.connect(url)
            async with client.stream:
                await client.send(raw)
                return await client.answer()

    async def call(self, path: str, body: object, *lines: bytes) -> Answer:
        return await self._exchange(self.url, post(f"/v1/call/{path}".encode(), orjson.dumps(body), *lines))

    async def state(self, path: str) -> Answer:
        return await self._exchange(self.url, get(f"/v1/state/{path}".encode()))

    async def admin(self, path: str) -> Answer:
        return await self._exchange(self.admin_url, get(path.encode()))

    def tree(self) -> list[int]:
        """Its pid and those of all its descendants."""
        parents = {}
        for entry in Path("/proc").iterdir():
            if entry.name.isdigit():
                try:
                    stat = (entry / "stat").read_text()
                except OSError:
                    continue  # it has just ended
                parents[int(entry.name)] = int(stat.rpartition(")")[2].split()[1])
        found = [self.process.pid]
        for pid in found:
            found += [child for child, parent in parents.items() if parent == pid]
        return found

    def kill_everything(self) -> None:
        """kill -9 of the node, its database and its functions, the node first."""
        for pid in self.tree():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                continue  # the death of another took it along
        self.process.wait(10)


def for_serve(toml: str) -> str:
    """The same functions without a sandbox.

    As root `serve` refuses a function that an account of its own could not read: that is every test's.
    """
    return re.sub(r"(?m)^([ \t]*)command = ", r'\1sandbox = "none"\n\1command = ', toml)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may read, and so all above it: pytest's own are closed to others."""
    folder = Path(tempfile.mkdtemp(dir="/tmp", prefix="inversion-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


StartCommand = Callable[..., "contextmanager[RunningCommand]"]


@pytest.fixture
def start_command(short_folder: Path) -> StartCommand:
    """`start_command("dev", folder, ...)`: a context manager; the command is ended at its exit.

    `program`: what Python runs in the place of inversion.
    """

    @contextmanager
    def start(
        *arguments: str | Path, program: Sequence[str] = ("-m", "inversion"), **environ: str
    ) -> Iterator[RunningCommand]:
        inherited = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
        process = subprocess.Popen(
            [sys.executable, *program, *map(str, arguments), "--port", "0", "--admin-port", "0"],
            stdout=subprocess.PIPE,
            env={**inherited, **environ},
        )
        try:
            yield RunningCommand(process, *_urls(process))
        finally:
            if process.poll() is None:
                process.terminate()
                try:
                    process.wait(20)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
            assert process.stdout is not None
            process.stdout.close()

    return start


def _urls(process: subprocess.Popen[bytes]) -> tuple[str, str]:
    """What its start line says; the rest of its output is read by nobody and fits into the pipe."""
    assert process.stdout is not None
    said = b""
    for line in process.stdout:
        said += line
        event = orjson.loads(line)
        if event.get("event") == "started":
            return event["url"], event["admin_url"]
    pytest.fail(f"it ended before it started: {said.decode()}")
