"""The functions: each gets a process, as at a start, and shows whether its command runs and what it says."""

from __future__ import annotations

import contextlib
from time import perf_counter
from typing import Final

import trio

from inversion.config import Config
from inversion.doctor.finding import Finding, Verdict
from inversion.observe.metrics import Counters
from inversion.processes.supervisor import Supervisor
from inversion.watch import Watch

#: An interpreter and its libraries are up in a second or two; what is silent longer may say no hello at all.
_PATIENCE_S: Final = 5.0
_SWEEP_S: Final = 0.05
_REMEDY: Final = "correct `command`, install what it names, or see its stderr in `inversion dev`"


async def examine(config: Config) -> list[Finding]:
    """Start them, listen, and end them."""
    with contextlib.closing(Watch()) as watch:
        supervisor = Supervisor(config, lambda *line: None, watch, Counters.of(config.functions))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.run)
            await nursery.start(supervisor.run)
            nursery.start_soon(_sweep, supervisor)
            await supervisor.first_words(_PATIENCE_S)
            reports = supervisor.reports()
            heard = {name for name, pool in supervisor.pools.items() if pool.known.is_set()}
            nursery.cancel_scope.cancel()
    return [
        Finding(
            f"function {name}",
            Verdict.OK if well else Verdict.FAIL,
            sentence if name in heard else f"runs, and has said nothing within {_PATIENCE_S:g} s",
            None if well else _REMEDY,
        )
        for name, well, sentence in reports
    ]


async def _sweep(supervisor: Supervisor) -> None:
    while True:
        await trio.sleep(_SWEEP_S)
        supervisor.sweep(perf_counter())
