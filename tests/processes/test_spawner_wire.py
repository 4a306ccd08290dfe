"""The wire between a node and its spawner, with real processes."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from pathlib import Path
from time import perf_counter

import pytest
import trio
from serving import gone, until

from inversion.processes import spawner_process as wire
from inversion.processes.spawner import MOST_NICE, NICE, Confinement, Spawner, Start
from inversion.processes.spawners import Spawners
from inversion.watch import Watch

PLAIN = Confinement()


class Told:
    """What became of one child."""

    def __init__(self) -> None:
        self.pid = 0
        self.number = 0
        self.end: tuple[object, ...] | None = None

    def started(self, pid: int) -> None:
        self.pid = pid

    def refused(self, number: int, where: int) -> None:
        self.end = ("refused", number, where)

    def unfit(self, reason: str, *, lasting: bool) -> None:
        self.end = ("unfit", reason, lasting)

    def ended(self, code: int, status: int) -> None:
        self.end = (code, status)


@asynccontextmanager
async def spawners() -> AsyncIterator[Spawners]:
    watch = Watch()
    with closing(watch), trio.fail_after(20):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.run)
            here = Spawners(watch)
            nursery.start_soon(sweep, here)
            try:
                yield here
            finally:
                with trio.CancelScope(shield=True, deadline=trio.current_time() + 5):
                    await here.close()
            nursery.cancel_scope.cancel()


async def sweep(here: Spawners) -> None:
    while True:
        here.sweep(perf_counter())
        await trio.sleep(0.01)


def bash(script: str, folder: Path, **settings: object) -> Start:
    env = {"PATH": os.environ["PATH"]}
    return Start("/bin/bash", ("bash", "-c", script), **{"env": env, "folder": str(folder), **settings})  # type: ignore[arg-type]


def start(spawner: Spawner, start: Start, files: tuple[tuple[int, int], ...] = ()) -> Told:
    told = Told()
    told.number = spawner.start(start, files, told)
    return told


class Printing(Told):
    """A child whose standard output is read."""

    def __init__(self, spawner: Spawner, what: Start) -> None:
        super().__init__()
        self._out, theirs = os.pipe2(os.O_CLOEXEC)
        self.number = spawner.start(what, ((theirs, 1),), self)
        os.close(theirs)

    async def words(self, count: int) -> list[bytes]:
        """Read until it has printed so many."""
        said = b""
        while len(said.split()) < count or not said.endswith(b"\n"):
            await trio.lowlevel.wait_readable(self._out)
            said += os.read(self._out, 4096)
        os.close(self._out)
        return said.split()

    async def whole(self) -> bytes:
        """All it prints until it ends."""
        await until(lambda: self.end is not None)
        os.set_blocking(self._out, False)
        said = os.read(self._out, 1 << 16)
        os.close(self._out)
        return said


async def read(spawner: Spawner, what: Start) -> bytes:
    return await Printing(spawner, what).whole()


async def test_a_child_has_its_files_and_folder_and_its_end_is_told(tmp_path):
    async with spawners() as here:
        told = start(here.of(PLAIN), bash("exit 7", tmp_path))
        await until(lambda: told.end is not None)
        assert told.end == (os.CLD_EXITED, 7)
        assert told.pid > 0
        assert await read(here.of(PLAIN), bash("pwd; echo $((1+1))", tmp_path)) == f"{tmp_path}\n2\n".encode()


async def test_a_signal_reaches_the_whole_group_even_before_the_pid_is_known(tmp_path):
    async with spawners() as here:
        spawner = here.of(PLAIN)
        told = start(spawner, bash("sleep 600 & sleep 600", tmp_path))
        spawner.signal(told.number, signal.SIGTERM)
        await until(lambda: told.end is not None)
        assert told.end == (os.CLD_KILLED, signal.SIGTERM)
        spawner.signal(told.number, signal.SIGTERM)  # too late, and so nothing


@pytest.mark.parametrize(
    ("settings", "number", "where"),
    [
        ({"folder": "/no/such"}, 2, wire.AT_FOLDER),
        ({"program": "/no/such"}, 2, wire.AT_PROGRAM),
        ({"program": "/etc/passwd"}, 13, wire.AT_PROGRAM),
        ({"command": ("bash", "a\0b")}, 22, wire.AT_PROGRAM),
        ({"private": "/no/such/folder"}, 2, wire.AT_PRIVATE),
    ],
)
async def test_what_cannot_be_started_is_refused_with_the_reason(tmp_path, settings, number, where):
    what = {"program": "/bin/bash", "command": ("bash",), "env": {}, "folder": str(tmp_path), **settings}
    async with spawners() as here:
        told = start(here.of(PLAIN), Start(**what))  # type: ignore[arg-type]
        await until(lambda: told.end is not None)
        assert told.end == ("refused", number, where)


@pytest.fixture
def shell_in_background():
    """What it starts with `&` ignores these, and nohup adds one."""
    ignored = signal.SIGINT, signal.SIGQUIT, signal.SIGHUP
    before = [signal.signal(number, signal.SIG_IGN) for number in ignored]
    yield
    for number, handler in zip(ignored, before, strict=True):
        signal.signal(number, handler)


async def test_a_child_starts_with_default_signals_no_foreign_files_and_less_claim_to_a_processor(
    tmp_path, shell_in_background
):
    async with spawners() as here:
        script = "grep -E 'SigIgn|SigBlk' /proc/self/status; ls /proc/self/fd; nice"
        said = (await read(here.of(PLAIN), bash(script, tmp_path))).decode().split()
    for mask in said[1], said[3]:
        assert int(mask, 16) & ~(0b11 << 31) == 0  # 32 and 33 are the C library's own
    assert said[4:-1] == ["0", "1", "2", "3"]  # 3 is the listing's own
    assert int(said[-1]) == min(os.nice(0) + NICE, MOST_NICE)


async def test_a_request_may_be_longer_than_a_message(tmp_path):
    env = {f"LONG{n}": "x" * 100_000 for n in range(3)}
    async with spawners() as here:
        what = bash("echo ${#LONG0} ${#LONG2}", tmp_path, env=env)
        assert await read(here.of(PLAIN), what) == b"100000 100000\n"


async def test_more_starts_than_the_kernel_queues_all_run_and_leave_no_files(tmp_path):
    async with spawners() as here:
        spawner = here.of(PLAIN)
        assert await read(spawner, bash("echo", tmp_path))
        before = os.listdir("/proc/self/fd")
        out, theirs = os.pipe2(os.O_CLOEXEC)
        all_told = [start(spawner, bash("echo -n x", tmp_path), ((theirs, 1),)) for _ in range(100)]
        os.close(theirs)
        await until(lambda: all(told.end is not None for told in all_told))
        assert os.read(out, 200) == b"x" * 100
        os.close(out)
        assert os.listdir("/proc/self/fd") == before


async def test_what_left_its_childs_group_is_killed_when_that_ends(tmp_path):
    async with spawners() as here:
        spawner = here.of(PLAIN)
        bystander = start(spawner, bash("setsid sleep 600 & wait", tmp_path))
        # One sheds everything by which it is known, but its parent is the spawner by now.
        script = "( setsid sleep 600 & echo $! ) ; ( env -i setsid sleep 600 & echo $! ) ; sleep 0.1"
        escaped = [int(pid) for pid in (await read(spawner, bash(script, tmp_path))).split()]
        assert len(escaped) == 2
        for pid in escaped:
            await gone(pid)
        assert bystander.end is None


async def test_a_daemon_of_a_child_that_lives_lives_too(tmp_path):
    async with spawners() as here:
        spawner = here.of(PLAIN)
        told = Printing(spawner, bash("( setsid sleep 600 & echo $! ) ; exec sleep 600", tmp_path))
        daemon = int((await told.words(1))[0])
        for _ in range(3):  # each end makes the spawner look around
            await read(spawner, bash("echo", tmp_path))
        os.kill(daemon, 0)
        assert told.end is None
        spawner.signal(told.number, signal.SIGKILL)
        await gone(daemon)


async def test_a_killed_spawner_takes_all_with_it_and_the_next_start_brings_another(tmp_path):
    async with spawners() as here:
        spawner = here.of(PLAIN)
        told = Printing(
            spawner, bash("( setsid sleep 600 & echo $! ) ; sleep 600 & echo $!; sleep 600", tmp_path)
        )
        pids = [int(word) for word in await told.words(2)]
        await until(lambda: told.pid > 0)
        first = spawner.pid
        assert first is not None
        os.kill(first, signal.SIGKILL)
        await until(lambda: told.end is not None)
        assert told.end == (os.CLD_KILLED, signal.SIGKILL)
        for pid in (*pids, told.pid, first):
            await gone(pid)
        assert await read(spawner, bash("echo well", tmp_path)) == b"well\n"
        assert spawner.pid != first


async def test_a_spawner_that_does_not_come_up_refuses_with_its_reason(tmp_path):
    async with spawners() as here:
        spawner = here.of(Confinement(basic=True, limits=((999, 1),)))
        for _ in range(2):
            told = start(spawner, bash("true", tmp_path))
            await until(lambda told=told: told.end is not None)
            assert told.end is not None
            assert (told.end[0], told.end[2]) == ("unfit", True)


async def test_the_end_of_the_node_ends_everything_and_removes_the_private_folders(tmp_path):
    private = tmp_path / "private"
    async with spawners() as here:
        script = f"cd {private}; mkdir a; touch a/b; chmod 0 a; (setsid sleep 600 & echo $!); sleep 600"
        told = Printing(here.of(PLAIN), bash(script, tmp_path, private=str(private)))
        escaped = int((await told.words(1))[0])
        await until(lambda: told.pid > 0)
        assert private.stat().st_mode & 0o777 == 0o700
        pids = [*here.pids, escaped, told.pid]
    for pid in pids:
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)
    assert not private.exists()
