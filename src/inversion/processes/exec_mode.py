"""`mode = "exec"`: one process per call, as many at a time as `processes.max` says; the rest waits here.

Having a process started takes the loop a tenth of a millisecond: a pass of it starts a few and goes on.
Nothing is forked ahead. Measured: a waiting stub that is given its files and then execs is started 70 us
sooner than posix_spawn does it, and its program's output ends 0.1 ms later (0.62 instead of 0.52 ms, echo).
There is no breaker: a program that fails is its own call's failure, and no call waits for another's.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from time import perf_counter
from typing import Final

import trio

from inversion.config import Function, Limits
from inversion.errors import Abandoned, Code, RuntimeBroken
from inversion.messages import SILENT, Hello, MessageIn, Turn
from inversion.observe.metrics import FunctionCounters
from inversion.processes.child import CannotStart, Recipe
from inversion.processes.exec_call import ExecCall
from inversion.processes.flight import Flight, Generation, WaitingRoom
from inversion.processes.lines_mode import ProcessView
from inversion.processes.log_lines import LogLine
from inversion.processes.sandbox import Sandboxes
from inversion.watch import Watch

#: Started in one loop pass; each takes a tenth of a millisecond that others wait for.
_STARTS_AT_ONCE: Final = 4
#: Looking a missing command up again costs some stat calls.
_LOOK_AGAIN_S: Final = 1.0


class ExecPool:
    """The calls of one function. Satisfies transition.Runtime."""

    def __init__(
        self,
        function: Function,
        limits: Limits,
        sandboxes: Sandboxes,
        watch: Watch,
        log_line: LogLine,
        counters: FunctionCounters,
    ) -> None:
        self.function = function
        self._limits = limits
        self._sandboxes = sandboxes
        self.problem: str | None = None  #: why no process can be started
        self.hello: Hello | None = SILENT
        self.batch = 1
        self.breaker_open = False  #: there is none
        self.known = trio.Event()
        self._watch = watch
        self._log_line = log_line
        self._counters = counters
        self._waiting = WaitingRoom(function.name, limits.in_flight_bytes, counters)
        self._calls: set[ExecCall] = set()
        self._recipe: Recipe | None = None
        self._looked_up_s = 0.0
        self._closed = False
        self._start_due = False
        self._quiet = trio.Event()
        self.predecessor: Generation | None = None
        self._successor: Generation | None = None

    @property
    def waiting(self) -> int:
        return len(self._waiting.waiting)

    @property
    def in_flight(self) -> int:
        return len(self._calls)

    @property
    def processes(self) -> Sequence[ProcessView]:
        return [
            ProcessView(call.child.pid, "serving", 1, 1, 0, 0, call.child.started_s) for call in self._calls
        ]

    def report(self) -> tuple[bool, str]:
        """(well, sentence) for the start-up lines."""
        if self.problem is not None:
            return False, self.problem
        return True, f"one process per call, at most {self.function.processes.max} at a time"

    async def send_message_in(self, message: MessageIn) -> Flight:
        """Step 3. Parks while `processes.max` calls run."""
        if self._successor is not None:
            return await self._successor.send_message_in(message)
        if self._closed:
            raise self._shutting_down()
        if self.problem is not None and perf_counter() - self._looked_up_s < _LOOK_AGAIN_S:
            raise RuntimeBroken(Code.NO_RUNTIME, self.problem, retry_after_s=5)
        if not self._waiting.waiting and len(self._calls) < self.function.processes.max:
            return self._start(message)
        self._waiting.admit(message)
        return await self._waiting.wait(message)

    def begun_s(self, turn: Turn) -> float | None:
        """When a process could begin this turn; None: it waits."""
        for call in self._calls:
            if call.flight.message.turn is turn:
                return call.child.started_s
        return None if self.predecessor is None else self.predecessor.begun_s(turn)

    def start(self) -> None:
        """Look the command up, so that a problem is known before the first call."""
        self.known.set()
        try:
            recipe = self._look_up()
        except RuntimeBroken:
            return  # told by `problem`
        with contextlib.suppress(OSError):  # a shortage: the first call tries again
            recipe.spawner.get_ready()

    def sweep(self, now_s: float) -> None:
        """Every 50 ms."""
        if self._waiting.waiting:
            self._waiting.withdraw(_is_abandoned, Abandoned)
        for call in tuple(self._calls):
            call.sweep(now_s)

    def hand_over(self, successor: Generation) -> None:
        """What waits here goes there, and so does what comes late. Then `drain`."""
        self._successor = successor
        for walk in self._waiting.take(self.waiting):
            walk.throw(Abandoned())

    async def drain(self) -> None:
        """Let what is here finish."""
        while self.waiting or self._calls:
            self._quiet = trio.Event()
            await self._quiet.wait()
        self._closed = True

    def kill(self) -> None:
        """The end: KILL to every group. The exits are still to be served."""
        self._closed = True
        for call in self._calls:
            call.child.kill()
        for walk in self._waiting.take(self.waiting):
            walk.throw(self._shutting_down())

    def _ended(self, call: ExecCall) -> None:
        """Its process is reaped, or could not be started: there is room for another call."""
        self._calls.remove(call)
        failure = call.child.failure
        if failure is not None and not failure.is_shortage:
            self._recipe = None
            self.problem = failure.sentence
        self._counters.deaths += call.crashed
        self._quiet.set()
        if self._waiting.waiting and not self._start_due:
            self._start_due = True
            self._watch.later(self._start_waiting)

    def _start_waiting(self) -> None:
        self._start_due = False
        self._waiting.withdraw(_is_abandoned, Abandoned)
        room = self.function.processes.max - len(self._calls)
        for walk in self._waiting.take(min(room, _STARTS_AT_ONCE)):
            try:
                flight = self._start(walk.item)
            except RuntimeBroken as problem:
                walk.throw(problem)
            else:
                walk.resume(flight)
        if self._waiting.waiting and len(self._calls) < self.function.processes.max and not self._start_due:
            self._start_due = True
            self._watch.later(self._start_waiting)

    def _start(self, message: MessageIn) -> Flight:
        recipe = self._recipe or self._look_up()
        try:
            call = ExecCall(
                self.function, self._limits, message, recipe, self._watch, self._log_line, self._ended
            )
        except OSError as shortage:  # this node has no files or processes left just now: this call's bad luck
            detail = f"function {self.function.name}: no process could be started: {shortage.strerror}"
            raise RuntimeBroken(Code.NO_RUNTIME, detail, retry_after_s=1) from None
        self._counters.starts += 1
        self._calls.add(call)
        return call.flight

    def _look_up(self) -> Recipe:
        self._looked_up_s = perf_counter()
        try:
            self._recipe = Recipe.of(self.function, self._sandboxes)
        except CannotStart as problem:
            raise self._no_runtime(str(problem)) from None
        self.problem = None
        return self._recipe

    def _no_runtime(self, problem: str) -> RuntimeBroken:
        self._recipe = None
        self.problem = problem
        return RuntimeBroken(Code.NO_RUNTIME, problem, retry_after_s=5)

    def _shutting_down(self) -> RuntimeBroken:
        detail = f"function {self.function.name}: this node is shutting down"
        return RuntimeBroken(Code.DRAINING, detail, retry_after_s=1)


def _is_abandoned(message: MessageIn) -> bool:
    return message.turn.abandoned
