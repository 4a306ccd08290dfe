"""A log that nobody reads, and one whose disk is full: calls go on, what was dropped is counted and said."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import struct
import subprocess
import sys
import termios
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest
import trio

from fix_command import RunningCommand, for_serve

#: One call writes 64 KB of log; the node keeps 4 MiB.
LINE_CHARACTERS = 8_000
FLOOD = '["sh", "-c", "cat flood >&2; cat"]'
CALLS = 120
#: No call waits for a log; the machine may be busy.
CALL_S = 10.0
TOML = f"""
[functions.loud]
command = {FLOOD}
mode = "exec"
state = false
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "inversion.toml").write_text(for_serve(TOML))
    (tmp_path / "flood").write_text(("x" * LINE_CHARACTERS + "\n") * 8)
    return tmp_path


@contextmanager
def serving(folder: Path, database_url: str, stdout: int) -> Iterator[RunningCommand]:
    """`inversion serve` with that standard output; what it says first is read by the caller."""
    process = subprocess.Popen(
        [sys.executable, "-m", "inversion", "serve", "--port", "0", "--admin-port", "0"],
        cwd=folder,
        env={**os.environ, "DATABASE_URL": database_url},
        stdout=stdout,
    )
    try:
        yield RunningCommand(process, "", "")
    finally:
        if process.poll() is None:
            process.terminate()
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


async def is_up(command: RunningCommand, read: Callable[[], bytes]) -> None:
    """Read its log until it has said where it listens."""
    said = b""
    with trio.fail_after(30):
        while b'"event":"started"' not in said or not said.endswith(b"\n"):
            said += read()
            await trio.sleep(0.02)
    (started,) = (event for event in events(said) if event["event"] == "started")
    command.url, command.admin_url = str(started["url"]), str(started["admin_url"])


def events(log: bytes) -> list[dict[str, object]]:
    """One JSON object a line, nothing torn."""
    assert log.endswith(b"\n")
    return [json.loads(line) for line in log.splitlines()]


async def flood(command: RunningCommand) -> None:
    for n in range(CALLS):
        with trio.fail_after(CALL_S):
            answer = await command.call("loud", n)
        assert (answer.status, answer.body) == (200, b"%d" % n)


def dropped(log: bytes) -> int:
    return sum(int(str(each["count"])) for each in events(log) if each["event"] == "log_lines_dropped")


def shown(log: bytes) -> int:
    return sum(each["event"] == "function_line" and each["stream"] == "stderr" for each in events(log))


@pytest.mark.fault("C8", "standard output is a pipe that nobody reads")
async def test_calls_are_served_while_nobody_reads_the_log(row, folder, database_url):
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    with serving(folder, database_url, writer) as command:
        os.close(writer)

        def read() -> bytes:
            try:
                return os.read(reader, 1 << 20)
            except BlockingIOError:
                return b""

        await is_up(command, read)
        for _ in range(row.times):
            await flood(command)
            (unread,) = struct.unpack("i", fcntl.ioctl(reader, termios.FIONREAD, b"\0" * 4))
            assert unread > 60_000
            row.fired(f"{unread} bytes stand in the pipe, {CALLS} calls were answered meanwhile")
            log = b""
            with trio.fail_after(20):  # nothing new is logged: the node looks by itself whether there is room
                while not log.endswith(b"\n") or not dropped(log):
                    log += read()
                    await trio.sleep(0.001)
            row.recovered()
            assert dropped(log) + shown(log) == 8 * CALLS
    os.close(reader)


@pytest.mark.fault("C8", "the reader of standard output never comes back, and the node is told to end")
async def test_a_node_whose_log_nobody_reads_can_be_ended(row, folder, database_url):
    for _ in range(row.times):
        reader, writer = os.pipe()
        with serving(folder, database_url, writer) as command:
            os.close(writer)
            await is_up(command, partial(os.read, reader, 1 << 16))
            await flood(command)
            row.fired("the pipe is full")
            command.process.send_signal(signal.SIGTERM)
            assert await trio.to_thread.run_sync(command.process.wait, 20) == 0
            row.recovered()
        os.close(reader)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A tmpfs of 256 KiB; only root may mount one."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=256k", "none", str(disk)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode != 0:
        pytest.skip(f"a small tmpfs cannot be mounted here: {mounted.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", str(disk)], check=True)


def resize(disk: Path, size: str) -> None:
    subprocess.run(["mount", "-o", f"remount,size={size}", str(disk)], check=True)


@pytest.mark.fault("C8", "standard output is a file on a full disk")
async def test_calls_are_served_while_the_disk_of_the_log_is_full(row, folder, database_url, small_disk):
    log = small_disk / "log"
    with log.open("ab") as out, serving(folder, database_url, out.fileno()) as command:
        await is_up(command, log.read_bytes)
        for _ in range(row.times):
            log.write_bytes(b"")
            resize(small_disk, "256k")
            await flood(command)
            assert os.statvfs(small_disk).f_bavail == 0
            row.fired(f"no block is free on the disk of the log, {CALLS} calls were answered meanwhile")
            resize(small_disk, "64m")
            with trio.fail_after(20):
                while not (text := log.read_bytes()).endswith(b"\n") or not dropped(text):  # noqa: ASYNC110
                    await trio.sleep(0.01)
            row.recovered()
            assert dropped(text) + shown(text) == 8 * CALLS
