"""The init before the program. A subreaper inherits orphans as PID 1 does, so no container is needed."""

from __future__ import annotations

import os
import pty
import signal
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

#: prctl(2); as PID 1 a process is that by nature.
SUBREAPER = """
import ctypes
assert ctypes.CDLL(None).prctl(36, 1) == 0
"""


@pytest.fixture
def run_program() -> Iterator[object]:
    """`run_program(code)`: an init whose program runs `code`."""
    begun: list[subprocess.Popen[str]] = []

    def run(code: str) -> subprocess.Popen[str]:
        text = SUBREAPER + "from inversion import pid_one\npid_one.become_two()\n" + textwrap.dedent(code)
        process = subprocess.Popen(
            [sys.executable, "-c", text], stdout=subprocess.PIPE, text=True, start_new_session=True
        )
        begun.append(process)
        return process

    yield run
    for process in begun:
        process.kill()
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def first_line(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def state_of(pid: int) -> str | None:
    """R, S, Z...; None: it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return None


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("raise SystemExit(0)", 0),
        ("raise SystemExit(3)", 3),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", 128 + signal.SIGKILL),
    ],
)
def test_it_ends_as_the_program_ends(run_program, code, status):
    assert run_program(code).wait(20) == status


def test_the_program_is_no_pid_one_and_hears_what_the_init_is_sent(run_program):
    process = run_program(
        """
        import os, signal
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        print(os.getpid(), flush=True)
        raise SystemExit(40 + signal.sigwait({signal.SIGTERM}))
        """
    )
    assert int(first_line(process)) != process.pid
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 40 + signal.SIGTERM


def test_a_signal_the_program_has_no_handler_for_ends_it(run_program):
    """The kernel would drop it if the program were PID 1."""
    process = run_program("print(1, flush=True)\nimport signal\nsignal.pause()")
    first_line(process)
    process.send_signal(signal.SIGTERM)
    assert process.wait(20) == 128 + signal.SIGTERM


def test_orphans_are_buried_while_the_program_runs(run_program):
    process = run_program(
        """
        import os, signal, subprocess, sys
        # each prints the pid of a grandchild that outlives its parent by a moment
        for _ in range(20):
            subprocess.run(["sh", "-c", "sleep 0.05 & echo $!"], check=True)
        print("done", flush=True)
        signal.pause()
        """
    )
    orphans = []
    while (line := first_line(process)) != "done":
        orphans.append(int(line))
    assert len(orphans) == 20
    while any(state_of(pid) is not None for pid in orphans):
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    process.wait(20)


#: Says when it hears SIGINT; exits at SIGTERM with how many there were. (A handler and `pause` would miss one
#: that comes between them.)
COUNTING = """
from inversion import pid_one
pid_one.become_two()
import signal
both = {signal.SIGINT, signal.SIGTERM}
signal.pthread_sigmask(signal.SIG_BLOCK, both)
print("ready", flush=True)
heard = 0
while signal.sigwait(both) == signal.SIGINT:
    heard += 1
    print("heard", flush=True)
raise SystemExit(heard)
"""


def read_until(terminal: int, word: bytes) -> None:
    said = b""
    while word not in said:
        said += os.read(terminal, 1000)


def test_a_signal_from_the_terminal_is_not_forwarded_again():
    """Ctrl-C reaches the whole group: twice would be the second signal, which ends a node at once."""
    init, terminal = pty.fork()
    if init == 0:
        os.execv(sys.executable, [sys.executable, "-c", COUNTING])
    try:
        read_until(terminal, b"ready")
        os.kill(init, signal.SIGSTOP)  # or two signals may come so close that they are heard as one
        os.write(terminal, b"\x03")
        read_until(terminal, b"heard")
        os.kill(init, signal.SIGTERM)  # heard after SIGINT: the lower number comes first
        os.kill(init, signal.SIGCONT)
        assert os.waitstatus_to_exitcode(os.waitpid(init, 0)[1]) == 1
    finally:
        os.close(terminal)
