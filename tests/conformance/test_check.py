"""The command `inversion check`, against real programs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.conformance.matrix import SABOTAGE

pytestmark = pytest.mark.slow  # each starts a command, and some wait for what does not come
WAIT_S = 150
HONEST = (sys.executable, "-S", str(SABOTAGE))


def check(*arguments: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "inversion", "check", *arguments]
    return subprocess.run(command, capture_output=True, check=False, text=True, timeout=WAIT_S, cwd=cwd)


@pytest.mark.timeout(180)
def test_an_honest_interpreter_passes_every_case() -> None:
    done = check("--interpreter", "--timeout", "20", *HONEST)
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "failed" not in done.stdout


def test_a_failed_case_is_told_as_a_dialogue_with_its_remedy() -> None:
    done = check("--only", "frames/echoes-the-id", *HONEST, "no-newline")
    assert done.returncode == 1
    for part in (
        "failed  frames/echoes-the-id",
        '> {"id":"0192-ab_c.17"',
        "expected: any answer to 0192-ab_c.17",
        "missing-newline: its answer has no newline at its end",
        "-> end each line with \\n, and flush",
        "1 cases: 1 failed",
    ):
        assert part in done.stdout


def test_machines_get_the_same_as_json() -> None:
    done = check("--json", "--only", "frames/echoes-the-id", *HONEST, "no-id")
    assert done.returncode == 1
    told = json.loads(done.stdout)
    assert not told["ok"]
    assert told["counts"]["failed"] == 1
    (case,) = told["cases"]
    assert (case["name"], case["verdict"]) == ("frames/echoes-the-id", "failed")
    assert case["advice"][0]["fault"] == "answers-without-id"
    assert [line[0] for line in case["said"]] == [">", "<", "<"]  # the message, a hello, the answer


@pytest.mark.parametrize(
    ("content", "arguments", "status", "said"),
    [
        ("frames/echoes-the-id  # it cannot\n", ["no-id"], 0, "1 known failing"),
        ("# it cannot\nframes/echoes-the-id\n", ["no-id"], 0, "1 known failing"),
        ("frames/echoes-the-id  # it cannot\n", [], 1, "take it out of the known-failing file"),
        ("frames/echoes-the-id\n", [], 2, "say why it fails"),
        ("frames/no-such-case  # why\n", [], 2, "there is no case frames/no-such-case"),
    ],
)
def test_known_failures_are_expected_and_an_unexpected_pass_fails(
    tmp_path: Path, content: str, arguments: list[str], status: int, said: str
) -> None:
    file = tmp_path / "known-failing.txt"
    file.write_text(content)
    done = check("--only", "frames/echoes-the-id", "--known-failing", str(file), *HONEST, *arguments)
    assert done.returncode == status
    assert said in done.stdout + done.stderr


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["no-such-program"], "does not exist on the PATH"),
        (["./no-such-file"], "does not exist"),
        (["./bad-interpreter", "x"], "#! line"),
        (["./notes.txt"], "no telling how to run it"),
    ],
)
def test_a_command_that_cannot_be_started_ends_with_two_and_says_why(
    tmp_path: Path, command: list[str], said: str
) -> None:
    (tmp_path / "bad-interpreter").write_text("#!/no/such\n")
    (tmp_path / "bad-interpreter").chmod(0o755)
    (tmp_path / "notes.txt").write_text("nothing\n")
    done = check(*command, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr


def test_one_file_is_run_as_dev_would_run_it(tmp_path: Path) -> None:
    (tmp_path / "plain.py").write_text(
        "import json, sys\nfor line in sys.stdin:\n"
        '    print(json.dumps({"id": json.loads(line)["id"], "response": 1}))\n'
    )
    done = check("--only", "frames/echoes-the-id", "./plain.py", cwd=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ctrl_c_ends_the_program_as_well(tmp_path: Path) -> None:
    started = tmp_path / "pid"
    (tmp_path / "silent.py").write_text(
        f"import os, time\nopen({str(started)!r}, 'w').write(str(os.getpid()))\ntime.sleep(600)\n"
    )
    check = [sys.executable, "-m", "inversion", "check", "--timeout", "60", sys.executable, "silent.py"]
    # a shell starts what is to run in the background with SIGINT ignored: not so a terminal
    heeds = "import os, signal, sys; signal.signal(2, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    with subprocess.Popen(
        [sys.executable, "-c", heeds, *check],
        cwd=tmp_path,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    ) as process:
        try:
            deadline_s = time.monotonic() + WAIT_S
            while not (started.exists() and started.read_text()) and time.monotonic() < deadline_s:
                time.sleep(0.01)
            os.kill(process.pid, signal.SIGINT)
            process.communicate(timeout=WAIT_S)
        finally:
            process.kill()
    assert process.returncode == 130
    pid = int(started.read_text())
    deadline_s = time.monotonic() + WAIT_S
    while Path(f"/proc/{pid}").exists() and time.monotonic() < deadline_s:
        time.sleep(0.01)
    assert not Path(f"/proc/{pid}").exists()
