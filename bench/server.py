"""One `inversion dev` as a subprocess, on a generated folder, free ports and its embedded PostgreSQL.

Whatever it started is gone when the `with` ends, also when it does not stop by itself: what is left of its
tree is killed, pid and start time compared, and said.
"""

from __future__ import annotations

import http.client
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import attrs
import click

from bench import machine
from bench.client import Client

_REPOSITORY = Path(__file__).resolve().parent.parent
_FUNCTIONS = Path(__file__).with_name("functions")
_RUNTIME = _REPOSITORY / "runtimes" / "python"


#: What a user would copy into a folder: the counter as it is shipped, and the shim beside every function.
_FILES = (_RUNTIME / "shim.py", _RUNTIME / "counter.py", _FUNCTIONS / "echo.py")

#: `processes` and all else are the defaults a user gets, but for exec mode, whose bar names 16 in flight.
CONFIG = {
    "counter": f'command = ["{sys.executable}", "counter.py"]',
    "echo": f'command = ["{sys.executable}", "echo.py"]\nstate = false',
    "cat": 'command = ["cat"]\nmode = "exec"\nstate = false\nprocesses = { max = 16 }',
}

_START_S = 60.0  #: initdb on a slow disk and a few interpreters
_STOP_S = 20.0  #: the drain's own limit is shorter
_POLL_S = 0.005


@attrs.frozen
class Server:
    """A server that answers."""

    port: int
    pid: int
    folder: Path
    log: Path
    first_answer_s: float  #: from the start of the process on an empty folder to the first answer
    admin_port: int = 0


@contextmanager
def scratch_folder(parent: Path | None) -> Iterator[Path]:
    """A temporary folder on a real disk: `parent`, else the system's, else /var/tmp; removed afterwards."""
    if parent is None and machine.file_system(Path(tempfile.gettempdir())) == "tmpfs":
        parent = Path("/var/tmp")
    folder = Path(tempfile.mkdtemp(prefix="inversion-bench-", dir=parent))
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@contextmanager
def running(folder: Path, functions: Sequence[str] = tuple(CONFIG)) -> Iterator[Server]:
    """`inversion dev` on `folder` (which is made) with `counter` and more, until the `with` ends."""
    folder.mkdir()
    text = "\n\n".join(f"[functions.{name}]\n{CONFIG[name]}" for name in functions)
    (folder / "inversion.toml").write_text(text + "\n")
    for file in _FILES:
        shutil.copy(file, folder)
    log = folder.with_suffix(".log")  # outside: `dev` watches its folder
    port, admin_port = _free_ports(2)
    command = [sys.executable, "-m", "inversion", "dev", str(folder), "--port", str(port)]
    command += ["--admin-port", str(admin_port)]
    begun_s = time.perf_counter()
    with log.open("wb") as out:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=folder,
            start_new_session=True,  # Ctrl-C is for us; we stop it
            env=_environment(),
        )
    try:
        _wait_for_answer(process, port, log)
        yield Server(port, process.pid, folder, log, time.perf_counter() - begun_s, admin_port)
    finally:
        _stop(process)


def _environment() -> dict[str, str]:
    """Ours without what would point the server at another database or port."""
    dropped = ("DATABASE_URL", "PORT", "INVERSION_")
    return {name: value for name, value in os.environ.items() if not name.startswith(dropped)}


def _wait_for_answer(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    """Until a durable call was answered with success."""
    give_up_s = time.monotonic() + _START_S
    last = "no connection yet"
    while time.monotonic() < give_up_s:
        if process.poll() is not None:
            raise click.ClickException(f"the server ended with {process.returncode}:\n{_tail(log)}")
        try:
            with Client(port) as client:
                answered = client.post("/v1/call/counter/first/add", "1")
        except (OSError, http.client.HTTPException) as error:
            last = str(error)
        else:
            if answered.status == 200:
                return
            last = f"{answered.status} {answered.body.decode(errors='replace')}"
        time.sleep(_POLL_S)
    raise click.ClickException(f"no answer within {_START_S:g} s ({last}):\n{_tail(log)}")


def _tail(log: Path) -> str:
    return "\n".join(log.read_text(errors="replace").splitlines()[-30:])


def _stop(process: subprocess.Popen[bytes]) -> None:
    """TERM, and after its time KILL to all that was under it."""
    everything = machine.tree(process.pid)
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(_STOP_S)
    except subprocess.TimeoutExpired:
        click.echo(f"the server did not stop within {_STOP_S:g} s of SIGTERM: killed", err=True)
        process.kill()
        process.wait()
    left = {
        pid: now
        for pid, now in machine.processes().items()
        if pid in everything and now.started == everything[pid].started
    }
    for pid, one in left.items():
        click.echo(f"the server left a process behind: {one.name} ({pid}): killed", err=True)
        os.kill(pid, signal.SIGKILL)


def _free_ports(count: int) -> list[int]:
    """Ports that nobody listens on right now, all different."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports: list[int] = [one.getsockname()[1] for one in sockets]
    for one in sockets:
        one.close()
    return ports
