"""The process wing: a pool for each function. `watch` serves their pipes and exits.

    run starts the pools, serves until it is cancelled, then kills and reaps whatever is left
    sweep is called every 50 ms: function timeouts, farewells, idle and missing processes
    drain lets what is in flight finish and sends every process home

A function whose command cannot be started is reported, its calls are refused; everything else runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Final, NamedTuple, assert_never

import trio

from inversion.config import Config, Function, Mode
from inversion.observe.metrics import Counters, FunctionCounters
from inversion.processes.cgi_mode import CgiPool
from inversion.processes.exec_mode import ExecPool
from inversion.processes.lines_mode import LinesPool
from inversion.processes.log_lines import LogLine
from inversion.processes.sandbox import Sandboxes
from inversion.processes.spawners import Spawners
from inversion.watch import Watch

Pool = LinesPool | ExecPool | CgiPool

#: How often `drain` sweeps by itself.
_SWEEP_S: Final = 0.05
#: After KILL a process is gone in milliseconds, unless the kernel holds it (a dead NFS server).
_REAP_S: Final = 5.0


class Report(NamedTuple):
    """A function's line at start."""

    function: str
    ok: bool
    sentence: str


class Supervisor:
    """Owns every child of the node's functions."""

    def __init__(
        self, config: Config, log_line: LogLine, watch: Watch, counters: Counters, *, lenient: bool = True
    ) -> None:
        """`lenient`: a function whose own account cannot read its command does without that account."""
        self._limits = config.limits
        self._watch = watch
        self._spawners = Spawners(watch)
        self._sandboxes = Sandboxes(self._spawners, lenient=lenient)
        self._log_line = log_line
        self._counters = counters
        self.pools: dict[str, Pool] = {
            name: self._pool(function) for name, function in config.functions.items()
        }
        self._beside: list[Pool] = []  # tried out, or draining
        self._discarded: list[Pool] = []

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start the first processes, serve until cancelled. No child outlives this."""
        try:
            for pool in self.pools.values():
                pool.start()
            self._sandboxes.sweep()
            task_status.started()
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _REAP_S):
                await self._end()

    def sweep(self, now_s: float) -> None:
        """Every 50 ms, with the time of perf_counter."""
        for pool in (*self.pools.values(), *self._beside):
            pool.sweep(now_s)
        self._spawners.sweep(now_s)
        self._sandboxes.sweep()
        if self._discarded:
            self._discarded = [pool for pool in self._discarded if pool.processes]

    def try_out(self, function: Function) -> Pool:
        """Start new code beside the old. It serves nobody until `replace`, or ends by `discard`."""
        pool = self._pool(function)
        self._beside.append(pool)
        pool.start()
        return pool

    def discard(self, pool: Pool) -> None:
        """It was tried out, and does not replace anything."""
        pool.kill()
        self._beside.remove(pool)
        self._discarded.append(pool)

    def replace(self, pool: Pool) -> Pool | None:
        """From now on it serves its function. What it replaces, if anything, is to be retired."""
        name = pool.function.name
        old = self.pools.get(name)
        self.pools[name] = pool
        self._beside.remove(pool)
        if old is not None:
            self._beside.append(old)
            pool.predecessor = old
            old.hand_over(pool)
        return old

    async def retire(self, pool: Pool) -> None:
        """Let what it has finish; it is swept until then."""
        await pool.drain()
        if pool in self._beside:
            self._beside.remove(pool)
        elif self.pools.get(pool.function.name) is pool:
            del self.pools[pool.function.name]
        for other in (*self.pools.values(), *self._beside):
            if other.predecessor is pool:
                other.predecessor = pool.predecessor

    async def drain(self) -> None:
        """Finish what is in flight, then send every process home. Bound it with a cancel scope."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sweep_for_ever)
            async with trio.open_nursery() as drains:
                for pool in (*self.pools.values(), *self._beside):
                    drains.start_soon(pool.drain)
            nursery.cancel_scope.cancel()

    async def first_words(self, timeout_s: float) -> None:
        """Wait until each function has said hello, has a problem or has ended, but no longer than that."""
        with trio.move_on_after(timeout_s):
            for pool in self.pools.values():
                await pool.known.wait()

    def reports(self) -> Sequence[Report]:
        """What can be said of each function by now."""
        reports = []
        for name, pool in self.pools.items():
            ok, sentence = pool.report()
            reports.append(Report(name, ok, sentence.removeprefix(f"function {name}: ")))
        return reports

    async def _sweep_for_ever(self) -> None:
        while True:
            self.sweep(perf_counter())
            await trio.sleep(_SWEEP_S)

    async def _end(self) -> None:
        pools = (*self.pools.values(), *self._beside, *self._discarded)
        for pool in pools:
            pool.kill()
        try:
            while any(pool.processes for pool in pools):
                await self._watch.serve_once()
        finally:
            await self._spawners.close()

    def _pool(self, function: Function) -> Pool:
        counters = self._counters.functions.setdefault(function.name, FunctionCounters())
        parts = (self._limits, self._sandboxes, self._watch, self._log_line, counters)
        match function.mode:
            case Mode.LINES:
                return LinesPool(function, *parts)
            case Mode.EXEC:
                return ExecPool(function, *parts)
            case Mode.CGI:
                return CgiPool(function, *parts)
            case _:
                assert_never(function.mode)
