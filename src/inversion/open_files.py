"""How many files this process may open: as many as the host allows, since each connection is one.

`raise_limit` once at start. What we start shall find the limit that we found (programs with select() break
above 1024, others close every number up to it): start it within `as_at_start`.
"""

from __future__ import annotations

import contextlib
import resource
from collections.abc import Iterator
from typing import Final

#: More than any configuration needs; some hosts allow a thousand times as many.
_ENOUGH: Final = 1 << 20

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
