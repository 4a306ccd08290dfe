"""Nothing outlives the node, nothing outlives its function's process, and the spawner may be killed.

Rows F10 and S1 of the matrix (without key and outbox), and kill -9 of the spawner itself.
"""

from __future__ import annotations

import os
import signal
import subprocess
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from hostility import alive, until

from fix_command import RunningCommand, StartCommand
from fix_matrix import Row
from fix_node import PYTHON, RUNTIMES, StartNode

FUNCTIONS = Path(__file__).parent.parent / "functions"
ESCAPES = {"python": f'"{PYTHON}", "{FUNCTIONS}/escapes.py"', "bash": f'"bash", "{FUNCTIONS}/escapes.sh"'}
MORTAL = f"""
[functions.mortal]
command = ["{PYTHON}", "{FUNCTIONS}/mortal.py"]
processes = {{ max = 1 }}
timeout = "20s"
"""
#: What is promised.
GONE_S = 2.0
CALLS = 12


def children(pid: int) -> dict[int, str]:
    """Processes whose parent that is, and their command lines."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
                if parent == pid:
                    found[int(entry.name)] = (entry / "cmdline").read_bytes().decode()
            except OSError:
                continue  # it has just ended
    return found


def spawners(pid: int) -> list[int]:
    return [child for child, line in children(pid).items() if "spawner_process" in line]


def marked(word: str) -> list[int]:
    """Processes that have a word in their environment."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if word.encode() in (entry / "environ").read_bytes():
                    found.append(int(entry.name))
            except OSError:
                continue  # it has just ended, or is another account's
    return found


# -- F10 -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mode", ["exec", "lines"])
@pytest.mark.parametrize("language", ["python", "bash"])
@pytest.mark.fault("F10", "a grandchild with a session of its own holds stdout after its parents are gone")
async def test_what_a_function_leaves_behind_is_killed_and_its_call_answered(
    language: str, mode: str, start_node: StartNode, tmp_path: Path, row: Row
) -> None:
    file = tmp_path / "escaped"
    wire = ', "--lines"' if mode == "lines" else ""
    toml = f"""
[functions.leaves]
command = [{ESCAPES[language]}, "{file}"{wire}]
mode = "{mode}"
state = false
"""
    async with start_node(toml) as node:
        for _ in range(row.times):
            file.unlink(missing_ok=True)
            answers = []

            async def call(answers: list[object] = answers) -> None:
                answers.append(await node.call("leaves"))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(call)
                await until(file.exists)
                pid = int(file.read_text())
                row.fired(f"process {pid} left its parents' group and session")
            await until(lambda pid=pid: not alive(pid))
            assert row.recovered() < GONE_S
            assert [(answer.status, answer.body.strip()) for answer in answers] == [(200, b'"answered"')]


# -- the spawner is killed -------------------------------------------------------------------------------


@pytest.mark.fault("S1", "kill -9 of the spawner while nothing is asked of it")
async def test_a_spawner_that_is_killed_idle_is_replaced(start_node: StartNode, row: Row) -> None:
    toml = f'[functions.counter]\ncommand = ["{PYTHON}", "{RUNTIMES}/python/counter.py"]\n'
    async with start_node(toml) as node:
        for number in range(1, row.times + 1):
            assert (await node.call("counter/k/add", 1)).status == 200
            (spawner,) = spawners(os.getpid())
            (process,) = children(spawner)
            os.kill(spawner, signal.SIGKILL)
            await until(lambda spawner=spawner: not alive(spawner))
            row.fired(f"spawner {spawner} is gone, it had process {process}")
            answer = await node.call("counter/k/add", 1)
            row.recovered()
            assert (answer.status, answer.body) == (200, b"%d" % (2 * number))
            await until(lambda process=process: not alive(process))
            assert spawners(os.getpid()) != [spawner]


@pytest.mark.fault("S1", "kill -9 of the spawner while a function's process works on a request")
async def test_a_spawner_that_is_killed_in_a_call_costs_one_run_of_it(
    start_node: StartNode, tmp_path: Path, row: Row
) -> None:
    async with start_node(MORTAL) as node:
        for number in range(1, row.times + 1):
            file = tmp_path / f"told-{number}"
            answers = []

            async def call(file: Path = file, answers: list[object] = answers) -> None:
                answers.append(await node.call("mortal/k/holds", str(file)))

            async with trio.open_nursery() as nursery:
                nursery.start_soon(call)
                await until(file.exists)
                (spawner,) = spawners(os.getpid())
                os.kill(spawner, signal.SIGKILL)
                await until(lambda spawner=spawner: not alive(spawner))
                row.fired(f"spawner {spawner} is gone, process {file.read_text()} had read the request")
            row.recovered()
            assert [(answer.status, answer.body) for answer in answers] == [(200, b"%d" % number)]
            await until(lambda file=file: not alive(int(file.read_text())))


@pytest.mark.fault("S1", "kill -9 of the spawner with calls of exec mode in flight")
async def test_calls_of_a_killed_spawner_that_may_not_run_again_are_502_and_the_next_are_served(
    start_node: StartNode, tmp_path: Path, row: Row
) -> None:
    toml = """
[functions.waits]
command = ["bash", "-c", "read first; [ $first = 0 ] || { touch $first; sleep 600; }"]
mode = "exec"
state = false
processes = { max = 4 }
"""
    async with start_node(toml) as node:
        for number in range(row.times):
            files = [tmp_path / f"{number}-{each}" for each in range(4)]
            statuses = []

            async def call(file: Path, statuses: list[int] = statuses) -> None:
                statuses.append((await node.call("waits", f"{file}\n".encode())).status)

            async with trio.open_nursery() as nursery:
                for file in files:
                    nursery.start_soon(call, file)
                await until(lambda files=files: all(map(Path.exists, files)))
                (spawner,) = spawners(os.getpid())
                pids = list(children(spawner))
                os.kill(spawner, signal.SIGKILL)
                row.fired(f"spawner {spawner} was sent KILL, it had {len(pids)} processes")
            assert statuses == [502] * len(files)
            assert (await node.call("waits", b"0\n")).status == 200
            row.recovered()
            await until(lambda pids=pids: not any(map(alive, pids)))


# -- the node ends, in whatever way ----------------------------------------------------------------------


@pytest.fixture
def folder(short_folder: Path) -> Iterator[Path]:
    """A function that answers, one that never does, and one that does not and leaves a session behind."""
    made = short_folder / uuid.uuid4().hex[:8]
    made.mkdir()
    (made / "inversion.toml").write_text(f"""
[functions.counter]
command = ["{PYTHON}", "{RUNTIMES}/python/counter.py"]

[functions.waits]
command = ["bash", "-c", "file=$(tr -d '\\\"'); setsid sleep 600 & echo $! > $file; trap '' TERM; sleep 600"]
mode = "exec"
state = false
processes = {{ max = {CALLS} }}
env = {{ TEST_FOLDER = "{made.name}" }}
""")
    yield made
    for pid in marked(f"TEST_FOLDER={made.name}"):
        os.kill(pid, signal.SIGKILL)  # of a test that has failed


async def keep_busy(command: RunningCommand, folder: Path, nursery: trio.Nursery) -> list[int]:
    """Have calls in flight; every process there is then."""
    assert (await command.call("counter/k/add", 1)).status == 200

    async def call(number: int) -> None:
        try:
            await command.call("waits", f"{folder}/pid-{number}")
        except Exception:
            return  # the node went away

    for number in range(CALLS):
        nursery.start_soon(call, number)
    files = [folder / f"pid-{number}" for number in range(CALLS)]
    await until(lambda: all(file.exists() and file.read_text().strip() for file in files))
    escaped = [int(file.read_text()) for file in files]
    family = command.tree()
    assert len(family) > 2 * CALLS
    return sorted({*family, *escaped})


def postmaster(folder: Path) -> int:
    data = (folder / ".inversion" / "postgres").resolve()
    return int((data / "postmaster.pid").read_text().split()[0])


def forget_pids(folder: Path) -> None:
    for file in folder.glob("pid-*"):
        file.unlink()


def left(pids: list[int], folder: Path) -> list[int]:
    return [pid for pid in pids if alive(pid)] + marked(f"TEST_FOLDER={folder.name}")


@pytest.mark.fault("S1", f"kill -9 of `dev` with {CALLS} calls in flight, each with a session of its own")
async def test_a_killed_node_leaves_nothing_and_the_next_one_answers(
    folder: Path, start_command: StartCommand, row: Row
) -> None:
    for number in range(1, row.times + 1):
        with start_command("dev", folder, "--json") as command, trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                pids = await keep_busy(command, folder, nursery)
                assert postmaster(folder) in pids
                command.process.kill()
                command.process.wait(10)
                row.fired(f"node {command.process.pid} is gone; {len(pids)} processes belonged to it")
                await until(lambda pids=pids: not left(pids, folder))
                assert row.recovered() < GONE_S
        with start_command("dev", folder, "--json") as command:
            answer = await command.call("counter/k/get", None)
            assert (answer.status, answer.body) == (200, b"%d" % number)
        forget_pids(folder)


@pytest.mark.fault("S1", "kill -9 of `dev`, and the next one started in the same moment")
async def test_a_node_starts_at_once_where_another_was_killed(
    folder: Path, start_command: StartCommand, row: Row
) -> None:
    for number in range(1, row.times + 1):
        with start_command("dev", folder, "--json") as command, trio.fail_after(60):
            assert (await command.call("counter/k/add", 1)).status == 200
            command.process.kill()
            command.process.wait(10)
            row.fired(f"node {command.process.pid} is gone")
            with start_command("dev", folder, "--json") as another:
                answer = await another.call("counter/k/get", None)
                row.recovered()
                assert (answer.status, answer.body) == (200, b"%d" % number)


@pytest.mark.fault("S2", f"SIGTERM twice to `dev` with {CALLS} calls in flight that ignore TERM")
async def test_a_second_signal_leaves_nothing_either(
    folder: Path, start_command: StartCommand, row: Row
) -> None:
    for _ in range(row.times):
        with start_command("dev", folder, "--json") as command, trio.fail_after(60):
            async with trio.open_nursery() as nursery:
                pids = await keep_busy(command, folder, nursery)
                command.process.send_signal(signal.SIGTERM)
                assert command.process.stdout is not None
                while b"draining" not in await trio.to_thread.run_sync(command.process.stdout.readline):
                    continue
                command.process.send_signal(signal.SIGTERM)
                row.fired(f"node {command.process.pid} was told twice; {len(pids)} processes belong to it")
                await trio.to_thread.run_sync(command.process.wait)
                assert left(pids, folder) == []
                row.recovered()
        forget_pids(folder)


# -- nothing adds up -------------------------------------------------------------------------------------


def zombies(pid: int) -> list[int]:
    """Children that nobody has reaped."""
    said = subprocess.run(
        ["ps", "-o", "pid=,stat=", "--ppid", str(pid)], capture_output=True, text=True, check=False
    )
    rows = [line.split() for line in said.stdout.splitlines()]
    return [int(row[0]) for row in rows if row[1].startswith("Z")]


async def test_two_hundred_processes_leave_no_file_and_no_zombie(start_node: StartNode) -> None:
    toml = """
[functions.echo]
command = ["bash", "-c", "(setsid true &); cat"]
mode = "exec"
state = false
processes = { max = 8 }
"""
    async with start_node(toml) as node:

        async def many(count: int) -> None:
            for _ in range(count):
                assert (await node.call("echo", b"x")).body == b"x"

        def files(pid: int) -> int:
            try:
                return len(os.listdir(f"/proc/{pid}/fd"))
            except PermissionError:
                return -1  # a spawner shows them to root only

        await many(8)
        (spawner,) = spawners(os.getpid())
        before = files(os.getpid()), files(spawner)
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(many, 25)
        # Other tests' may still be closed meanwhile.
        await until(lambda: files(os.getpid()) <= before[0] and files(spawner) == before[1])
        await until(lambda: not zombies(spawner) and not zombies(os.getpid()))
        assert spawners(os.getpid()) == [spawner]
