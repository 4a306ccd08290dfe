"""How many files this process may open: as many as the host allows, since each connection is one.

`raise_limit` once at start. What we start shall find the limit that we found (programs with select() break
above 1024, others close every number up to it): start it within `as_at_start`.
"""

from __future__ import annotations

import contextlib
import os
import resource
import sys
from collections.abc import Iterator
from typing import Final

#: More than any configuration needs; some hosts allow a thousand times as many.
_ENOUGH: Final = 1 << 20

#: The node has some twenty of its own, a function takes four; PostgreSQL refuses to start with fewer.
_LEAST: Final = 64

_at_start: tuple[int, int] | None = None  #: None: nothing was raised


def raise_limit() -> int:
    """The soft limit becomes the hard one; how many that is."""
    global _at_start
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = _ENOUGH if hard == resource.RLIM_INFINITY else min(hard, _ENOUGH)
    if soft == resource.RLIM_INFINITY or soft >= most:
        return soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, hard))
    _at_start = soft, hard
    return most


def lack(files: int) -> str | None:
    """Why a node cannot even start with so many files, or on this host; None: it can."""
    if files < _LEAST:
        return f"only {files} files may be opened: raise `ulimit -n` to {_LEAST} or more (1024 is usual)"
    if sys.platform == "linux" and not os.path.isdir("/proc/self/fd"):
        return "there is no /proc here: mount it (mount -t proc proc /proc)"
    return None


def fill_standard() -> None:
    """Where standard input, output or error was closed, /dev/null takes its number: no socket must get it."""
    while (file := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(file, True)
    os.close(file)
    sys.stdin = sys.stdin or open(0)  # noqa: SIM115
    sys.stdout = sys.stdout or open(1, "w")  # noqa: SIM115
    sys.stderr = sys.stderr or open(2, "w")  # noqa: SIM115


@contextlib.contextmanager
def as_at_start() -> Iterator[None]:
    """The limit as it was. No file is closed by that, none above it can be opened meanwhile."""
    if _at_start is None:
        yield
        return
    now = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (_at_start[0], now[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, now)
