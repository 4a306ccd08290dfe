"""The yardstick of exec mode: how many processes a second this machine starts, feeds, reads and collects.

The C program beside this file where there is a compiler, else the same loop in Python. One loop, as the
server has one; it does no HTTP.
"""

from __future__ import annotations

import json
import os
import selectors
import shutil
import subprocess
from pathlib import Path
from time import perf_counter

import attrs

from bench.report import Measured, percentile

_SOURCE = Path(__file__).with_name("spawn_limit.c")


@attrs.frozen
class SpawnLimit:
    """The measurement, compiled once. `program` None: no compiler, so in Python."""

    program: Path | None

    @property
    def said(self) -> str:
        return "posix_spawn in C" if self.program else "os.posix_spawn in Python (no C compiler)"

    def run(self, in_flight: int, seconds: float, body: str, command: str) -> Measured:
        if self.program is None:
            return _in_python(in_flight, seconds, body.encode(), command)
        arguments = [str(self.program), str(in_flight), str(seconds), str(len(body.encode())), command]
        ended = subprocess.run(arguments, capture_output=True, text=True, check=True, timeout=seconds + 60)
        counted = json.loads(ended.stdout)
        return Measured(
            per_second=counted["calls"] / counted["seconds"],
            p50_ms=counted["p50_ms"],
            p99_ms=counted["p99_ms"],
            requests=counted["calls"],
        )


def prepare(folder: Path) -> SpawnLimit:
    """Compile the C program into `folder` if that is possible."""
    compiler = shutil.which("cc") or shutil.which("gcc") or shutil.which("clang")
    if compiler is None:
        return SpawnLimit(None)
    program = folder / "spawn_limit"
    ended = subprocess.run(
        [compiler, "-O2", "-o", str(program), str(_SOURCE)], capture_output=True, check=False
    )
    return SpawnLimit(program if ended.returncode == 0 else None)


@attrs.define(eq=False)
class _Call:
    """One process on its way: what of it is still open."""

    pid: int
    open_fds: set[int]
    begun_s: float


def _in_python(in_flight: int, seconds: float, body: bytes, command: str) -> Measured:
    path = shutil.which(command) or command
    taken_ms: list[float] = []
    begun_s = perf_counter()
    with selectors.DefaultSelector() as selector:
        for _ in range(in_flight):
            _begin(selector, path, body)
        while selector.get_map():
            for key, _ in selector.select():
                call: _Call = key.data
                if key.fd not in call.open_fds or not _finished(selector, key.fd, call):
                    continue
                now_s = perf_counter()
                taken_ms.append((now_s - call.begun_s) * 1000)
                if now_s - begun_s < seconds:
                    _begin(selector, path, body)
    took_s = perf_counter() - begun_s
    taken_ms.sort()
    return Measured(
        per_second=len(taken_ms) / took_s,
        p50_ms=percentile(taken_ms, 0.5),
        p99_ms=percentile(taken_ms, 0.99),
        requests=len(taken_ms),
    )


def _begin(selector: selectors.BaseSelector, path: str, body: bytes) -> None:
    begun_s = perf_counter()
    (in_read, in_write), (out_read, out_write), (err_read, err_write) = os.pipe(), os.pipe(), os.pipe()
    moves = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate((in_read, out_write, err_write))]
    pid = os.posix_spawn(path, [path], os.environ, file_actions=moves, setpgroup=0)
    for fd in (in_read, out_write, err_write):
        os.close(fd)
    os.write(in_write, body)
    os.close(in_write)
    call = _Call(pid, {out_read, err_read, os.pidfd_open(pid)}, begun_s)
    for fd in call.open_fds:
        selector.register(fd, selectors.EVENT_READ, call)


def _finished(selector: selectors.BaseSelector, fd: int, call: _Call) -> bool:
    """Read one ready fd of a call; True when nothing of the call is left."""
    try:
        if os.read(fd, 65536):
            return False
    except OSError:  # a pidfd cannot be read: the process ended
        exited = os.waitid(os.P_PID, call.pid, os.WEXITED)
        if exited is None or exited.si_status != 0:
            raise RuntimeError(f"process {call.pid} ended with {exited}") from None
    selector.unregister(fd)
    os.close(fd)
    call.open_fds.remove(fd)
    return not call.open_fds
