"""Hogs hit a wall: rows F16, F17 and F18 of the matrix. The node and its other functions notice nothing."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import orjson
import pytest
from hostility import alive, resident_bytes, until

from fix_command import RunningCommand, StartCommand
from fix_matrix import Row
from fix_node import PYTHON, RUNTIMES, LiveNode, StartNode
from inversion.processes.sandbox import first_closed, own_accounts_work

FUNCTIONS = Path(__file__).parent.parent / "functions"
HOGS = {"python": f'"{PYTHON}", "{FUNCTIONS}/hogs.py"', "node": f'"node", "{FUNCTIONS}/hogs.js"'}
MEMORY_MIB = 256
FILES = 100
TASKS = 40
#: What a program has open before it opens anything, and a little.
FEW = 40
#: The Python of the system, which every account may run.
SYSTEM_PYTHON = "/usr/bin/python3"

in_each_language = pytest.mark.parametrize(
    "language", ["python", pytest.param("node", marks=pytest.mark.toolchain("node"))]
)
needs_accounts = pytest.mark.skipif(
    not own_accounts_work(), reason="a limit of processes needs an account of its own, which only root gives"
)


def hog(language: str) -> str:
    return f"""
[functions.hog]
command = [{HOGS[language]}]
mode = "exec"
state = false
limits = {{ memory = "{MEMORY_MIB}MiB", files = {FILES} }}

[functions.counter]
command = ["{PYTHON}", "{RUNTIMES}/python/counter.py"]
"""


async def is_well(node: LiveNode | RunningCommand) -> None:
    assert (await node.call("counter/k/add", 1)).status == 200


@in_each_language
@pytest.mark.fault("F16", f"allocates until it is refused, at {MEMORY_MIB} MiB")
async def test_who_takes_all_memory_hits_a_wall(language: str, start_node: StartNode, row: Row) -> None:
    async with start_node(hog(language)) as node:
        await is_well(node)
        before_bytes = resident_bytes(os.getpid())
        for _ in range(row.times):
            answer = await node.call("hog/memory")
            if language == "python":
                assert answer.status == 200
                taken_mib = int(answer.body)
                assert MEMORY_MIB // 2 < taken_mib < MEMORY_MIB
                row.fired(f"MemoryError after {taken_mib} MiB")
            else:  # V8 ends itself
                problem = orjson.loads(answer.body)
                assert (answer.status, problem["code"]) == (502, "function_crashed")
                assert "memory" in problem["stderr"].lower()
                row.fired(f"{problem['detail']}, out of memory")
            await is_well(node)
            row.recovered()
        assert resident_bytes(os.getpid()) - before_bytes < 64 << 20


@in_each_language
@pytest.mark.fault("F18", f"opens files until it is refused, at {FILES}")
async def test_who_opens_all_files_hits_a_wall(language: str, start_node: StartNode, row: Row) -> None:
    async with start_node(hog(language)) as node:
        await is_well(node)
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(row.times):
            answer = await node.call("hog/files")
            assert answer.status == 200
            assert FILES - FEW < int(answer.body) < FILES
            row.fired(f"EMFILE after {int(answer.body)} files")
            await is_well(node)
            row.recovered()
        await until(lambda: len(os.listdir("/proc/self/fd")) <= before)


def processes_of(uid: int) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if entry.stat().st_uid == uid and alive(int(entry.name)):
                    found.append(int(entry.name))
            except OSError:
                continue  # it has just ended
    return found


def uid_of(pid: int) -> int:
    return Path(f"/proc/{pid}").stat().st_uid


def is_for_all(program: str) -> bool:
    return os.path.exists(program) and first_closed(61_200, [(Path(program), 1)]) is None


@needs_accounts
@pytest.mark.parametrize("language", ["sh", "python"])
@pytest.mark.fault("F17", f"forks until it is refused, at {TASKS} processes of its account")
async def test_a_fork_bomb_hits_a_wall_and_nothing_of_it_is_left(
    language: str, open_folder: Path, start_command: StartCommand, database_url: str, row: Row
) -> None:
    program, file = ("sh", "bomb.sh") if language == "sh" else (SYSTEM_PYTHON, "bomb.py")
    if language == "python" and not is_for_all(program):
        pytest.skip(f"needs {program}, open to all")
    shutil.copy(FUNCTIONS / file, open_folder)
    (open_folder / file).chmod(0o644)
    (open_folder / "inversion.toml").write_text(f"""
[functions.bomb]
command = ["{program}", "{file}"]
mode = "exec"
state = false
limits = {{ processes = {TASKS} }}

[functions.who]
command = ["id", "-u"]
mode = "exec"
state = false

[functions.counter]
command = ["{PYTHON}", "{RUNTIMES}/python/counter.py"]
sandbox = "none"
""")
    with start_command("serve", "--config", open_folder, DATABASE_URL=database_url) as command:
        await is_well(command)
        uids = {uid_of(pid) for pid in command.tree()}
        who = int((await command.call("who", None)).body)
        (bomber,) = uids - {who, 0, os.geteuid()}
        for _ in range(row.times):
            answer = await command.call("bomb", None)
            if language == "sh":
                problem = orjson.loads(answer.body)
                assert (answer.status, problem["code"]) == (502, "function_crashed")
                assert "fork" in problem["stderr"]
                started = max(int(word) for word in problem["stderr"].split() if word.isdigit())
            else:
                assert answer.status == 200
                started = int(answer.body)
            assert TASKS // 2 < started < TASKS
            row.fired(f"EAGAIN after {started} processes")
            await is_well(command)
            assert (await command.call("who", None)).status == 200
            await until(lambda: len(processes_of(bomber)) == 1)  # its spawner
            row.recovered()
