"""The process wing: a pool for each function. `watch` serves their pipes and exits.

    run starts the pools, serves until it is cancelled, then kills and reaps whatever is left
    sweep is called every 50 ms: function timeouts, farewells, idle and missing processes
    drain lets what is in flight finish and sends every process home

A function whose command cannot be started is reported, its calls are refused; everything else runs.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Final, NamedTuple, assert_never

import trio

from inversion.config import Config, Function, Limits, Mode
from inversion.observe.metrics import Counters, FunctionCounters
from inversion.processes.child import keep_files_private
from inversion.processes.exec_mode import ExecPool
from inversion.processes.lines_mode import LinesPool
from inversion.processes.log_lines import LogLine
from inversion.watch import Watch

Pool = LinesPool | ExecPool

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

    def __init__(self, config: Config, log_line: LogLine, watch: Watch, counters: Counters) -> None:
        self._watch = watch
        self.pools: Mapping[str, Pool] = {
            name: _pool(function, config.limits, watch, log_line, counters.functions[name])
            for name, function in config.functions.items()
        }

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Start the first processes, serve until cancelled. No child outlives this."""
        keep_files_private()
        try:
            for pool in self.pools.values():
                pool.start()
            task_status.started()
            await trio.sleep_forever()
        finally:
            with trio.CancelScope(shield=True, deadline=trio.current_time() + _REAP_S):
                await self._end()

    def sweep(self, now_s: float) -> None:
        """Every 50 ms, with the time of perf_counter."""
        for pool in self.pools.values():
            pool.sweep(now_s)

    async def drain(self) -> None:
        """Finish what is in flight, then send every process home. Bound it with a cancel scope."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._sweep_for_ever)
            async with trio.open_nursery() as drains:
                for pool in self.pools.values():
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
        for pool in self.pools.values():
            pool.kill()
        while any(pool.processes for pool in self.pools.values()):
            await self._watch.serve_once()


def _pool(
    function: Function, limits: Limits, watch: Watch, log_line: LogLine, counters: FunctionCounters
) -> Pool:
    match function.mode:
        case Mode.LINES:
            return LinesPool(function, limits, watch, log_line, counters)
        case Mode.EXEC:
            return ExecPool(function, limits, watch, log_line, counters)
        case Mode.CGI:
            raise NotImplementedError("cgi is refused when the config is read")
        case _:
            assert_never(function.mode)
