"""The functions: each gets a process, as at a start, and shows whether its command runs and what it says."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from time import perf_counter, time
from typing import Final

import trio

from inversion.config import Config, Function
from inversion.doctor.finding import Finding, Verdict, ok, warn
from inversion.messages import SILENT, Hello
from inversion.observe.metrics import Counters
from inversion.processes.supervisor import Supervisor
from inversion.protocol.cron import next_after, words_of
from inversion.protocol.schedules import misfit
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
            hellos = {name: pool.hello for name, pool in supervisor.pools.items()}
            nursery.cancel_scope.cancel()
    findings = [
        Finding(
            f"function {name}",
            Verdict.OK if well else Verdict.FAIL,
            sentence if name in heard else f"runs, and has said nothing within {_PATIENCE_S:g} s",
            None if well else _REMEDY,
        )
        for name, well, sentence in reports
    ]
    for function in config.functions.values():
        findings += _schedules(function, hellos[function.name] or SILENT)
    return findings


def _schedules(function: Function, hello: Hello) -> Iterator[Finding]:
    """When each is due next, by this host's clock."""
    for fault in hello.cron.faults:
        yield warn(f"cron {function.name}", f"its hello: cron{fault}", "correct what the function declares")
    for schedule in {**hello.cron.schedules, **function.cron}.values():
        name = f"cron {function.name}/{schedule.name}"
        if (why := misfit(schedule, stateful=function.state, handlers=hello.handlers)) is not None:
            yield warn(name, why, "correct its key or its handler: its messages will be dead letters")
            continue
        next_s = next_after(schedule.expression, schedule.zone, int(time()))
        due = "never" if next_s is None else words_of(next_s)
        yield ok(name, f"{schedule.expression}, {schedule.zone}; due next {due}")


async def _sweep(supervisor: Supervisor) -> None:
    while True:
        await trio.sleep(_SWEEP_S)
        supervisor.sweep(perf_counter())
