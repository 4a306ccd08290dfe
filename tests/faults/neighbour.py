"""The neighbour rule: while one function misbehaves, the callers of another hardly notice.

A window is a hundred calls of a well function over two connections, and their p99. Quiet windows and windows
of misconduct take turns, so that what else the machine does is in both; each side is judged by its lower
quartile, for other work makes a window worse and never better. Where that is not enough more rounds are
played. A real effect is in all of them.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager, suppress
from pathlib import Path
from time import perf_counter

import attrs
import trio
from front_door import post

from fix_command import RunningCommand

CALLS = 100
CONNECTIONS = 2
#: Between two calls of a connection: the load of a neighbour, not a benchmark's.
PAUSE_S = 0.001
WINDOWS = 4  #: of each side in a round
ROUNDS = 3
MOST_ROUNDS = 10
#: See `ahead_in_niceness`.
AHEAD = 10


@attrs.define
class Pace:
    """What the callers of the well function saw: the p99 of each window."""

    quiet_s: list[float] = attrs.field(factory=list)
    during_s: list[float] = attrs.field(factory=list)

    @property
    def ratio(self) -> float:
        return quartile(self.during_s) / quartile(self.quiet_s)

    def __str__(self) -> str:
        quiet, during = quartile(self.quiet_s) * 1e3, quartile(self.during_s) * 1e3
        windows = f"{len(self.quiet_s)} + {len(self.during_s)} windows"
        return f"a neighbour's p99: {quiet:.2f} ms, {during:.2f} ms meanwhile ({windows})"


def quartile(values: list[float]) -> float:
    return sorted(values)[len(values) // 4]


async def pace(
    node: RunningCommand,
    misconduct: Callable[[], AbstractAsyncContextManager[object]],
    *,
    within: float,
    ahead: Callable[[RunningCommand], None],
    path: str = "neighbour/get",
) -> Pace:
    """Measure until the bound is kept, or fail. `misconduct` goes on as long as its context is open."""
    found = Pace()
    await window_p99_s(node, path)
    ahead(node)
    for round_number in range(MOST_ROUNDS):
        for _ in range(WINDOWS):
            found.quiet_s.append(await window_p99_s(node, path))
        async with misconduct():
            for _ in range(WINDOWS):
                found.during_s.append(await window_p99_s(node, path))
        if round_number + 1 >= ROUNDS and found.ratio <= within:
            return found
    raise AssertionError(f"{found}: more than {within} times")


async def window_p99_s(node: RunningCommand, path: str) -> float:
    took_s: list[float] = []
    async with trio.open_nursery() as nursery:
        for _ in range(CONNECTIONS):
            nursery.start_soon(_call, node, path, took_s)
    took_s.sort()
    return took_s[int(len(took_s) * 0.99) - 1]


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


# Other work on the machine is not what is measured: these two put it behind, in quiet windows as well.


def ahead_in_real_time(node: RunningCommand) -> None:
    """The client, the node and the well function before everything else, the hostile one too: what is seen
    is what the node's loop does. Who may not (not root) gives the hostile one a processor of its own."""
    well = [pid for pid in node.tree() if b"counter.py" in _command(pid)]
    try:
        for pid in (0, node.process.pid, *well):
            os.sched_setscheduler(pid, os.SCHED_RR | os.SCHED_RESET_ON_FORK, os.sched_param(1))
    except PermissionError:
        _apart(node, well)


def _apart(node: RunningCommand, well: list[int]) -> None:
    """What is started from now on, the hostile one, runs where its parent may: not beside the others."""
    *ours, theirs = sorted(os.sched_getaffinity(0))
    if not ours:
        return
    for pid in node.tree():
        among = ours if pid in (node.process.pid, *well) else [theirs]
        for thread in os.listdir(f"/proc/{pid}/task"):
            os.sched_setaffinity(int(thread), among)
    os.sched_setaffinity(0, ours)


def ahead_in_niceness(node: RunningCommand) -> None:
    """All of them by as much, the hostile one too: for misconduct that takes the processor."""
    with suppress(PermissionError, ProcessLookupError):
        for pid in (0, *node.tree()):
            os.setpriority(os.PRIO_PROCESS, pid, os.getpriority(os.PRIO_PROCESS, pid) - AHEAD)


def _command(pid: int) -> bytes:
    with suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""
