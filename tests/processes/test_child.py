"""What a child is given, and what is said of one that cannot be started."""

from __future__ import annotations

import json
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from serving import python, serving, together, until

from inversion.config import Channel, Function, Mode, Processes
from inversion.errors import Code, ProcessDied, RuntimeBroken
from inversion.messages import MessageOut

COUNTER = """
serve(lambda f: {"response": f["message"], "state": {"n": (f.get("state") or {"n": 0})["n"] + f["message"]}})
"""
HELLO = 'out({"hello": {"protocol": 1, "runtime": "test/1", "pipeline": 8, "batch": 8}})\n'
PID = 'serve(lambda f: {"response": os.getpid()})'


def only(folder, line: str, **settings) -> Function:
    """A program that runs one line of bash for each frame it reads."""
    script = f'while IFS= read -r frame; do id=${{frame#*:\\"}}; id=${{id%%\\"*}}; {line}; done'
    return Function("fn", ("bash", "-c", script), folder, **settings)


@pytest.mark.parametrize(
    ("command", "advice"),
    [
        ("no-such-program", "install it"),
        ("./missing.py", "correct `command`"),
        ("./plain.txt", "chmod"),
        ("plain.txt", "'./plain.txt'"),
        ("./bad-interpreter", "#! line"),
        ("./no-interpreter", "#! line"),
    ],
)
async def test_a_command_that_cannot_be_started_is_a_problem_and_the_rest_runs(tmp_path, command, advice):
    (tmp_path / "plain.txt").write_text("x")
    for name, text in (("bad-interpreter", "#!/no/such\n"), ("no-interpreter", "text\n")):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    async with serving(Function("bad", (command,), tmp_path), python(tmp_path, COUNTER)) as served:
        for _ in range(2):
            with pytest.raises(RuntimeBroken) as caught:
                await served.call(name="bad")
            assert caught.value.code is Code.NO_RUNTIME
            assert "function bad" in caught.value.detail
            assert advice in caught.value.detail
        name, ok, sentence = served.supervisor.reports()[0]
        assert (name, ok, f"function bad: {sentence}") == ("bad", False, served.pool("bad").problem)
        assert (await served.call(b"3")).answers[0].response == b"3"


async def test_a_command_that_appears_later_is_found(tmp_path):
    async with serving(Function("fn", ("./late",), tmp_path)) as served:
        with pytest.raises(RuntimeBroken):
            await served.call()
        (tmp_path / "late").symlink_to("/bin/false")
        served.pool()._looked_up_s -= 1.0
        with pytest.raises(ProcessDied, match="exit status 1"):
            await served.call()


async def test_the_environment_is_an_allow_list_and_the_functions_own(tmp_path, monkeypatch):
    for name in ("PGPASSWORD", "DATABASE_URL", "INVERSION_ADMIN_TOKEN", "SECRET"):
        monkeypatch.setenv(name, "secret")
    monkeypatch.setenv("LC_TIME", "C")
    function = python(
        tmp_path,
        'serve(lambda f: {"response": [dict(os.environ), os.getcwd()]})',
        env={"LOG": "info", "TZ": "UTC"},
    )
    async with serving(function) as served:
        env, folder = json.loads((await served.call()).answers[0].response or b"")
    assert "secret" not in env.values()
    assert (env["LOG"], env["TZ"], env["LC_TIME"]) == ("info", "UTC", "C")
    assert "PATH" in env
    assert folder == str(tmp_path)


async def test_a_child_has_no_files_of_ours(tmp_path):
    kept = os.open(tmp_path, os.O_RDONLY)
    os.set_inheritable(kept, True)
    try:
        code = 'serve(lambda f: {"response": sorted(map(int, os.listdir("/proc/self/fd")))})'
        async with serving(python(tmp_path, code)) as served:
            files = json.loads((await served.call()).answers[0].response or b"")
    finally:
        os.close(kept)
    assert files[:3] == [0, 1, 2]
    assert len(files) <= 4  # the listing's own
    assert kept not in files[:3] + [file for file in files if file > 3]


async def test_children_leave_no_files_behind(tmp_path):
    exec_function = Function("cat", ("cat",), tmp_path, mode=Mode.EXEC)
    crashing = python(tmp_path, "sys.stdin.readline()", channel=Channel.FD3)
    async with serving(exec_function, crashing) as served:
        await served.call(name="cat")
        await together(served.call())
        await until(lambda: not served.pool().processes)
        before = set(os.listdir("/proc/self/fd"))
        for _ in range(3):
            await together(*(served.call(name="cat") for _ in range(4)), served.call())
        await until(lambda: not served.pool().processes)
        assert set(os.listdir("/proc/self/fd")) == before


@pytest.mark.parametrize("mode", [Mode.EXEC, Mode.LINES])
async def test_a_node_without_files_refuses_and_recovers(tmp_path, mode):
    # `cat` as a runtime answers each message with itself: a bare id.
    function = Function("fn", ("cat",), tmp_path, mode=mode, processes=Processes(max=1), idle_s=0.0)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    async with serving(function) as served:
        await until(lambda: not served.pool().processes)
        refused = 0
        for spare in range(30):  # runs out at each of the places in turn
            with fewer_files(spare, soft, hard):
                (result,) = await together(served.call())
            if isinstance(result, MessageOut):
                break
            assert result.code is Code.NO_RUNTIME
            refused += 1
        assert 3 < refused < 30
        await served.call()


@contextmanager
def fewer_files(spare: int, soft: int, hard: int) -> Iterator[None]:
    """No file number is left but so many above the highest in use."""
    highest = max(int(name) for name in os.listdir("/proc/self/fd"))
    fillers = [os.open(os.devnull, os.O_RDONLY)]
    while fillers[-1] < max(highest, 16):
        fillers.append(os.open(os.devnull, os.O_RDONLY))
    resource.setrlimit(resource.RLIMIT_NOFILE, (fillers[-1] + 1 + spare, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for file in fillers:
            os.close(file)
