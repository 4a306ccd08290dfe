"""The neighbour rule: while one function misbehaves, the callers of another hardly notice.

A window is some hundred calls of a well function over two connections, and its p99. Other work on the machine
makes a window worse and never better: each side is judged by its best, and the second one gets more windows
before it is said to have failed. A real effect is in all of them.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from time import perf_counter

import attrs
import trio
from front_door import post

from fix_command import RunningCommand

CALLS = 300  #: the third worst is the p99
CONNECTIONS = 2
WINDOWS_BEFORE = 4
MOST_WINDOWS = 12
#: Between two calls of a connection: the load of a neighbour, not a benchmark's.
PAUSE_S = 0.001


@attrs.frozen
class Pace:
    """What the callers of the well function saw."""

    before_s: float  #: p99 of the best window
    during_s: float
    windows: int  #: that were needed

    def __str__(self) -> str:
        return f"p99 {self.before_s * 1e3:.2f} ms, then {self.during_s * 1e3:.2f} ms ({self.windows} windows)"


async def pace(
    node: RunningCommand,
    misconduct: Callable[[], Awaitable[object]],
    seen: Callable[[], Awaitable[object]],
    *,
    within: float,
    path: str = "neighbour/get",
) -> Pace:
    """Measure before and while `misconduct` runs again and again; `seen` waits until it is under way."""
    before_s = min([await window_p99_s(node, path) for _ in range(WINDOWS_BEFORE)])
    during_s = float("inf")
    windows = 0
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_for_ever, misconduct)
        await seen()
        while windows < WINDOWS_BEFORE or (during_s > within * before_s and windows < MOST_WINDOWS):
            during_s = min(during_s, await window_p99_s(node, path))
            windows += 1
        await seen()  # still
        nursery.cancel_scope.cancel()
    found = Pace(before_s, during_s, windows)
    assert during_s <= within * before_s, found
    return found


async def window_p99_s(node: RunningCommand, path: str) -> float:
    took_s: list[float] = []
    async with trio.open_nursery() as nursery:
        for _ in range(CONNECTIONS):
            nursery.start_soon(_call, node, path, took_s)
    took_s.sort()
    return took_s[int(len(took_s) * 0.99)]


async def _call(node: RunningCommand, path: str, took_s: list[float]) -> None:
    client = await node.connect(node.url)
    request = post(f"/v1/call/{path}".encode(), b"0")
    async with client.stream as stream:
        for _ in range(CALLS // CONNECTIONS):
            await trio.sleep(PAUSE_S)
            begun_s = perf_counter()
            await stream.send_all(request)
            answer = await stream.receive_some(65_536)  # a short answer comes in one piece
            took_s.append(perf_counter() - begun_s)
            assert answer.startswith(b"HTTP/1.1 200"), answer


async def _for_ever(misconduct: Callable[[], Awaitable[object]]) -> None:
    while True:
        await misconduct()
