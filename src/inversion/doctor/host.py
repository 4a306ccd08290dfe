"""The machine, as this user has it: Python, the kernel, open files, the folder, ports, the sandbox."""

from __future__ import annotations

import errno
import os
import platform
import resource
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from inversion.config import Limits
from inversion.doctor.finding import Finding, fail, ok, warn
from inversion.http.server import CannotListen, open_tcp
from inversion.processes.sandbox import own_accounts_work

_OLDEST_PYTHON: Final = (3, 11)
#: Beside a file for each connection: pipes of functions, database connections, the rest.
_OTHER_FILES: Final = 512
#: An empty cluster has 40 MB, its first WAL segments 80 MB.
_LEAST_DISK_BYTES: Final = 200 << 20
_AMPLE_DISK_BYTES: Final = 1 << 30


def examine(
    folder: Path, limits: Limits, ports: dict[str, tuple[str, int]], *, embedded: bool
) -> list[Finding]:
    """`ports`: flag -> (host, port). `embedded`: the database will lie in the folder."""
    return [
        _python(),
        *_kernel(),
        _files(limits),
        *_folder(folder, embedded=embedded),
        *(_port(flag, *at, folder) for flag, at in ports.items()),
        *_sandbox(),
    ]


def _python() -> Finding:
    sentence = f"{platform.python_implementation()} {platform.python_version()}, {sys.executable}"
    if sys.version_info < _OLDEST_PYTHON:
        return fail("python", sentence, "use Python 3.11 or newer")
    return ok("python", sentence)


def _kernel() -> Iterator[Finding]:
    sentence = f"{platform.system()} {platform.release()}"
    if sys.platform != "linux":
        yield warn("system", sentence, "`dev` works here as far as it goes; serve on Linux")
        return
    if not Path("/proc/self/fd").is_dir():
        yield fail("system", f"{sentence}, without /proc", "mount it: mount -t proc proc /proc")
        return
    try:
        os.close(os.pidfd_open(os.getpid()))
    except OSError as error:
        yield fail(
            "system",
            f"{sentence}: pidfd_open says {error.strerror}",
            "use Linux 5.4 or newer, and a seccomp profile that allows pidfd_open",
        )
        return
    yield ok("system", sentence)


def _files(limits: Limits) -> Finding:
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    needed = limits.connections + _OTHER_FILES
    if hard != resource.RLIM_INFINITY and hard < needed:
        return warn(
            "open files",
            f"at most {hard}; limits.connections = {limits.connections} wants {needed}",
            f"raise the hard limit (LimitNOFILE={needed}, ulimit -Hn {needed}, docker --ulimit "
            f"nofile={needed}), or lower limits.connections",
        )
    return ok("open files", "no limit" if hard == resource.RLIM_INFINITY else f"at most {hard}")


def _folder(folder: Path, *, embedded: bool) -> Iterator[Finding]:
    if not folder.is_dir():
        yield fail("folder", f"{folder} does not exist", "name a folder that does")
        return
    own = folder / ".inversion"
    place = own if own.is_dir() else folder
    if os.access(place, os.W_OK | os.X_OK):
        yield ok("folder", f"{place} can be written")
    elif embedded:
        yield fail(
            "folder",
            f"{place} cannot be written by uid {os.geteuid()}",
            "the embedded PostgreSQL lies there: give the folder to this user, or give --database-url",
        )
    else:
        yield warn(
            "folder",
            f"{place} cannot be written by uid {os.geteuid()}",
            "there will be no admin socket: commands ask over TCP, with a token",
        )
    free = shutil.disk_usage(place).free
    sentence = f"{free >> 20} MiB free in {place}"
    if free >= _AMPLE_DISK_BYTES or not embedded:
        yield ok("disk", sentence)
    elif free >= _LEAST_DISK_BYTES:
        yield warn("disk", sentence, "states and WAL will need more: make room")
    else:
        yield fail("disk", sentence, f"make room: a new database takes {_LEAST_DISK_BYTES >> 20} MiB")


def _port(flag: str, host: str, port: int, folder: Path) -> Finding:
    try:
        open_tcp(host, port, flag).close()
    except CannotListen as error:
        if error.errno == errno.EADDRINUSE and (folder / ".inversion" / "admin.sock").is_socket():
            return warn(f"port {port}", "is taken, perhaps by the inversion that runs here", f"see {flag}")
        return fail(f"port {port}", str(error), f"choose another with {flag}")
    return ok(f"port {port}", f"is free on {host}")


def _sandbox() -> Iterator[Finding]:
    """What `sandbox = "basic"` can do here, which is the default."""
    if sys.platform != "linux":
        yield warn("sandbox", "limits of memory, files and processes only", "serve on Linux")
        return
    status = Path("/proc/self/status")
    parts = ["no new privileges"] if status.exists() and "NoNewPrivs:" in status.read_text() else []
    if own_accounts_work():
        parts.append("limits of memory, files, processes and core dumps, an account of each function's own")
        yield ok("sandbox", f"basic: {', '.join(parts)}")
        return
    parts.append("limits of memory, files and core dumps")
    yield ok("sandbox", f"basic: {', '.join(parts)}; no accounts of the functions' own, which root can give")
