"""Rows C3 and C6: very many connections, and too few files, in a node that runs as a process of its own."""

from __future__ import annotations

import re
import resource
import socket
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import trio
from front_door import Answer, Client, get, post

from fix_command import RunningCommand, StartCommand, for_serve
from fix_matrix import Row
from fix_node import PYTHON, RUNTIMES

#: limits.connections, and how they are used.
MOST = 10_000
IDLE = 9_900
#: What one idle connection may cost the node.
MOST_BYTES_EACH = 50 << 10

FUNCTIONS = f"""
[functions.counter]
command = ["{PYTHON}", "{RUNTIMES}/python/counter.py"]

[functions.files]
command = ["sh", "-c", "ulimit -n"]
mode = "exec"
state = false
"""


@pytest.fixture
def folder(short_folder: Path) -> Path:
    made = short_folder / uuid.uuid4().hex[:8]
    made.mkdir()
    (made / "inversion.toml").write_text(for_serve(FUNCTIONS))
    return made


@contextmanager
def files_limit(soft: int) -> Iterator[None]:
    """For this process, and for what it starts."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


def hard_limit() -> int:
    """Raised, where that is allowed and needed."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard < MOST + 500:
        with suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, MOST + 500))
    return resource.getrlimit(resource.RLIMIT_NOFILE)[1]


def rss_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


async def metric(command: RunningCommand, name: str) -> float:
    found = re.search(rf"(?m)^inversion_{name} (\S+)$", (await command.admin("/metrics")).body.decode())
    assert found is not None, name
    return float(found[1])


async def until(condition: Callable[[], bool], within_s: float = 20.0) -> None:
    with trio.fail_after(within_s):
        while not condition():  # noqa: ASYNC110 (another process)
            await trio.sleep(0.01)


async def until_open(command: RunningCommand, count: int) -> None:
    with trio.fail_after(30):
        while await metric(command, "connections_open") > count:  # noqa: ASYNC110 (another process)
            await trio.sleep(0.05)


class Crowd:
    """Sockets that each made one request and then do nothing."""

    def __init__(self, url: str) -> None:
        host, _, port = url.removeprefix("http://").rpartition(":")
        self._address = (host, int(port))
        self._sockets: list[socket.socket] = []

    def come(self, count: int, raw: bytes) -> None:
        """In groups, or the queue of the listening socket would overflow."""
        while count:
            group = [socket.create_connection(self._address, timeout=20) for _ in range(min(count, 200))]
            for sock in group:
                sock.sendall(raw)
            for sock in group:
                assert sock.recv(4_096).startswith(b"HTTP/1.1 200")
            self._sockets += group
            count -= len(group)

    def leave(self) -> None:
        for sock in self._sockets:
            sock.close()
        self._sockets.clear()


async def call_often(command: RunningCommand, key: str, times: int, answers: list[int]) -> None:
    client = await command.connect(command.url)
    async with client.stream:
        for _ in range(times):
            await client.send(post(f"/v1/call/counter/{key}/add".encode(), b"1"))
            answers.append((await client.answer()).status)


@pytest.mark.fault("C3", f"{IDLE} idle connections beside 100 busy ones, then one more")
async def test_ten_thousand_connections_are_cheap_and_the_next_is_refused(
    folder: Path, database_url: str, start_command: StartCommand, row: Row
) -> None:
    if hard_limit() < MOST + 500:
        pytest.skip(f"needs {MOST + 500} open files, and this host allows {hard_limit()} (ulimit -Hn)")
    # A node that is started with few files raises the limit for itself, and not for its functions.
    with files_limit(1_024):
        starting = start_command("serve", "--config", folder, "--database-url", database_url)
        command = starting.__enter__()
    crowd = Crowd(command.url)
    try:
        with files_limit(hard_limit()), trio.fail_after(120):
            allowed = await exchange(command, post(b"/v1/call/files/call"))
            assert int(allowed.body) <= 1_024
            for _ in range(row.times):
                await once(command, crowd, row)
    finally:
        crowd.leave()
        starting.__exit__(None, None, None)


async def once(command: RunningCommand, crowd: Crowd, row: Row) -> None:
    pid = command.process.pid
    answers: list[int] = []
    async with trio.open_nursery() as nursery:
        for number in range(100):
            nursery.start_soon(call_often, command, f"k{number}", 5, answers)
    assert answers == [200] * 500
    before = rss_bytes(pid)
    peaks = []
    for _ in range(2):
        crowd.come(IDLE, get(b"/errors/bad_json"))
        assert await metric(command, "connections_open") >= IDLE
        each = (rss_bytes(pid) - before) / IDLE
        answers.clear()
        async with trio.open_nursery() as nursery:
            for number in range(99):
                nursery.start_soon(call_often, command, f"k{number}", 10, answers)
            client = await command.connect(command.url)
            await client.send(get(b"/errors/bad_json"))
            assert (await client.answer()).status == 200
        assert answers == [200] * 990
        peaks.append(rss_bytes(pid))
        assert each <= MOST_BYTES_EACH, f"{each / 1024:.1f} KiB"
        await until_open(command, IDLE + 2)
        crowd.come(MOST - IDLE - 1, get(b"/errors/bad_json"))
        one_more = await command.connect(command.url)
        refused = await one_more.answer()
        assert (refused.status, refused.fields["retry-after"]) == (429, "1")
        row.fired(f"{MOST} connections at {each / 1024:.1f} KiB each; one more: 429")
        await one_more.aclose()
        await client.aclose()
        crowd.leave()
        await until_open(command, 2)
        assert (await exchange(command, post(b"/v1/call/counter/k/add", b"1"))).status == 200
        row.recovered()
    # What the second crowd needed was there from the first.
    assert peaks[1] - peaks[0] < 8 << 20, peaks


@pytest.mark.fault("C3", "300 connections that sent 300 KiB and are idle now")
async def test_an_idle_connection_does_not_keep_what_was_said_last(
    folder: Path, database_url: str, start_command: StartCommand, row: Row
) -> None:
    with start_command("serve", "--config", folder, "--database-url", database_url) as command:
        pid = command.process.pid
        large = post(b"/v1/call/counter/k/add", b" " * (300 << 10) + b"1")
        crowd = Crowd(command.url)
        crowd.come(100, large)  # what 100 at once need is there now, and free again
        before = rss_bytes(pid)
        for _ in range(3):
            crowd.come(100, large)
        grown = rss_bytes(pid) - before
        row.fired(f"300 connections hold {grown / 300 / 1024:.1f} KiB each")
        assert grown < 300 * (300 << 10) / 2  # the allocator itself keeps up to a quarter
        crowd.leave()
        await until_open(command, 1)
        row.recovered()


async def exchange(command: RunningCommand, raw: bytes) -> Answer:
    client: Client = await command.connect(command.url)
    async with client.stream:
        await client.send(raw)
        return await client.answer()
