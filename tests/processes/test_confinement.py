"""What the basic sandbox does to a function's processes, and whose files an account may read."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import pytest
import trio
from serving import python, serving, together, until

from inversion.config import Function, Mode, Processes, Sandbox, Walls
from inversion.errors import Code, RuntimeBroken
from inversion.processes import sandbox
from inversion.processes.sandbox import Closed, Sandboxes, first_closed, own_accounts_work
from inversion.processes.spawners import Spawners
from inversion.watch import Watch

ACCOUNT = 61_200
BASH = "/bin/bash"
OWN_OOM_SCORE = Path("/proc/self/oom_score_adj").read_text().strip()
needs_accounts = pytest.mark.skipif(not own_accounts_work(), reason="only root gives accounts")


@pytest.fixture
def accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    """The decisions of root, whoever runs this."""
    monkeypatch.setattr(sandbox, "own_accounts_work", lambda: True)


def sandboxes(*, lenient: bool = True) -> Sandboxes:
    return Sandboxes(Spawners(Watch()), lenient=lenient)


def function(folder: Path, *command: str, **settings: object) -> Function:
    return Function("fn", command or (BASH,), folder, **settings)  # type: ignore[arg-type]


def uid_of(here: Sandboxes, given: Function, program: str = BASH) -> int | None:
    return here.cell(given, program, os.defpath).uid


# -- who may read what -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mode", "is_closed"), [(0o755, False), (0o751, True), (0o700, True), (0o754, False)]
)
def test_a_file_is_closed_by_its_own_mode(open_folder, mode, is_closed):
    file = open_folder / "file"
    file.touch()
    file.chmod(mode)
    assert first_closed(ACCOUNT, [(file, 4)]) == (file if is_closed else None)


def test_a_file_is_closed_by_any_folder_on_the_way_and_by_that_of_what_a_link_points_to(open_folder):
    secret, file, link = open_folder / "secret", open_folder / "secret" / "a" / "file", open_folder / "link"
    file.parent.mkdir(parents=True)
    file.touch()
    link.symlink_to(file)
    assert first_closed(ACCOUNT, [(link, 4)]) is None
    secret.chmod(0o700)
    assert first_closed(ACCOUNT, [(file, 4)]) == secret
    assert first_closed(ACCOUNT, [(link, 4)]) == secret


def test_what_is_not_there_is_told_in_other_words(open_folder):
    assert first_closed(ACCOUNT, [(open_folder / "no" / "such", 4)]) is None


@pytest.mark.usefixtures("accounts")
@pytest.mark.parametrize(
    "closed", ["folder", "script", "program", "interpreter", "interpreter of env", "argument"]
)
def test_each_file_that_a_command_needs_is_looked_at(open_folder, closed):
    folder = open_folder / "folder"
    folder.mkdir()
    (tool := open_folder / "tool").write_text(f"#!{sys.executable}\n")
    first = "/usr/bin/env tool" if closed == "interpreter of env" else tool
    (script := folder / "script").write_text(f"#!{first}\n")
    (program := folder / "program").write_bytes(b"\x7fELF")
    (argument := folder / "argument").touch()
    for file in (tool, script, program, argument):
        file.chmod(0o755)
    path = {"folder": folder, "script": script, "program": program, "argument": argument}.get(closed, tool)
    path.chmod(path.stat().st_mode & ~0o7)
    started = program if closed in ("program", "argument") else script
    given = function(folder, str(started), "argument", "--", "no-such", "x" * 5_000, sandbox=Sandbox.BASIC)
    with pytest.raises(Closed) as caught:
        sandboxes().cell(given, str(started), f"{open_folder}:/usr/bin:/bin")
    told = str(caught.value)
    assert f"cannot read {path}: allow it (chmod o+" in told
    assert told.endswith(f'{path}), or write sandbox = "none" in [functions.fn]')


@pytest.mark.usefixtures("accounts")
def test_a_closed_command_runs_without_an_account_only_where_nobody_asked_and_the_caller_is_lenient(
    open_folder,
):
    open_folder.chmod(0o700)
    asked, unasked = function(open_folder, sandbox=Sandbox.BASIC), function(open_folder)
    assert uid_of(sandboxes(), unasked) is None
    for here, given in ((sandboxes(), asked), (sandboxes(lenient=False), unasked)):
        with pytest.raises(Closed):
            uid_of(here, given)
    open_folder.chmod(0o755)
    assert uid_of(sandboxes(lenient=False), unasked) is not None


@pytest.mark.usefixtures("accounts")
def test_each_function_has_a_number_of_its_own_and_keeps_it(open_folder):
    names = [f"f{number}" for number in range(300)]

    def uids() -> list[int | None]:
        here = sandboxes()
        return [uid_of(here, Function(name, (BASH,), open_folder)) for name in names]

    first = uids()
    assert len(set(first)) == len(names)
    assert all(uid is not None and 61_184 <= uid < 65_520 for uid in first)
    assert uids() == first


@pytest.mark.usefixtures("accounts")
def test_the_tasks_of_an_account_grow_with_its_processes(open_folder):
    def tasks(given: Function) -> int:
        confinement = sandboxes().cell(given, BASH, os.defpath).spawner.confinement
        return dict(confinement.limits)[sandbox.resource.RLIMIT_NPROC]

    assert tasks(function(open_folder)) == 512
    assert tasks(function(open_folder, processes=Processes(max=100))) == 6_400
    assert tasks(function(open_folder, limits=Walls(processes=9))) == 9


# -- what it does ----------------------------------------------------------------------------------------

PROBE = """
echo nnp $(grep NoNewPrivs /proc/self/status | cut -f2)
echo umask $(umask)
echo core $(ulimit -Hc)
echo files $(ulimit -Hn)
echo data $(ulimit -Hd)
echo oom $(cat /proc/self/oom_score_adj)
echo tmp $TMPDIR $(stat -c %a $TMPDIR)
echo uid $(id -u) $(id -G)
echo home $HOME
"""


def is_there(folder: str) -> bool:
    return os.path.exists(folder)


async def probe(folder: Path, **settings: object) -> dict[str, str]:
    given = function(folder, "bash", "-c", PROBE, mode=Mode.EXEC, **settings)
    async with serving(given) as served:
        printed = (await served.call(key=None)).answers[0].response or b""
        return dict(line.split(" ", 1) for line in printed.decode().splitlines() if " " in line)


async def test_the_basic_sandbox_holds(open_folder):
    said = await probe(open_folder)
    assert (said["nnp"], said["umask"], said["core"]) == ("1", "0077", "0")
    assert (said["files"], said["data"]) == ("1024", str(2 << 20))
    assert int(said["oom"]) >= 500
    folder, mode = said["tmp"].split()
    assert mode == "700"
    assert not is_there(folder)
    if own_accounts_work():
        uid, *groups = map(int, said["uid"].split())
        assert 61_184 <= uid < 65_520
        assert groups == [uid]
        assert said["home"] == folder
    else:
        assert int(said["uid"].split()[0]) == os.geteuid()


async def test_the_limits_are_the_functions_own(open_folder):
    said = await probe(open_folder, limits=Walls(memory_bytes=64 << 20, files=70))
    assert (said["files"], said["data"]) == ("70", str(64 << 10))


async def test_sandbox_none_is_none(open_folder):
    said = await probe(open_folder, sandbox=Sandbox.NONE)
    own = os.umask(0o022)
    os.umask(own)
    assert said["nnp"] == "0"
    assert int(said["umask"], 8) == own
    assert int(said["uid"].split()[0]) == os.geteuid()
    assert said["oom"] == OWN_OOM_SCORE


async def test_a_functions_own_environment_beats_the_sandboxs(open_folder):
    said = await probe(open_folder, env={"TMPDIR": "/tmp", "HOME": "/"}, sandbox=Sandbox.BASIC)
    assert said["tmp"].split()[0] == "/tmp"
    assert said["home"] == "/"


@needs_accounts
async def test_one_function_cannot_reach_another(open_folder):
    """Neither its process nor its temporary files."""
    victim = Function("victim", ("sleep", "600"), open_folder, mode=Mode.EXEC)
    async with (
        serving(victim, function(open_folder, "bash", mode=Mode.EXEC)) as served,
        trio.open_nursery() as nursery,
    ):
        nursery.start_soon(together, served.call(name="victim", key=None))
        victims = served.pool("victim")
        await until(lambda: bool(victims.processes) and victims.processes[0].pid is not None)
        pid = victims.processes[0].pid
        assert pid is not None
        script = (
            f"kill -0 {pid} && echo killed; cat /proc/{pid}/environ; ls /tmp/inversion-victim-*/. && echo in"
        )
        out = await served.call(script.encode() + b"; exit 0", key=None)
        assert out.answers[0].response == b""
        os.kill(pid, signal.SIGKILL)


@needs_accounts
async def test_what_its_account_cannot_read_is_a_problem_at_start(tmp_path):
    """The folder of the tests is closed to others."""
    async with serving(python(tmp_path, "serve(lambda f: {})", sandbox=Sandbox.BASIC)) as served:
        name, ok, sentence = served.supervisor.reports()[0]
        assert (name, ok) == ("fn", False)
        assert "its own account, uid " in sentence
        assert 'sandbox = "none"' in sentence
        with pytest.raises(RuntimeBroken) as caught:
            await served.call()
        assert caught.value.code is Code.NO_RUNTIME
