"""`mode = "lines"`: a pool of long-lived processes that one function's messages are spread over.

A message is handed to a process at once when one has room, else its walk parks here until one has. The
roster decides; this module does what it says. A function whose command cannot be started has a `problem`,
and its calls are refused with that sentence; the command is looked up again when a second has passed.
When its processes die, the breaker says when the next may start, and whether calls are refused meanwhile.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Final

import attrs
import trio

from inversion.config import Function, HelloRule, Limits
from inversion.errors import Abandoned, Code, RuntimeBroken
from inversion.messages import SILENT, Hello, MessageIn, Turn
from inversion.observe.metrics import FunctionCounters
from inversion.processes.child import CannotStart, Failure, Recipe
from inversion.processes.crashes import Crashes
from inversion.processes.flight import Flight, Generation, WaitingRoom
from inversion.processes.log_lines import LogLine
from inversion.processes.sandbox import Sandboxes
from inversion.processes.worker import Worker
from inversion.protocol.roster import Roster
from inversion.watch import Watch

#: Looking up a command that is missing costs some stat calls; a busy caller must not repeat them.
_LOOK_AGAIN_S: Final = 1.0


@attrs.frozen(slots=True)
class ProcessView:
    """One process, for people and metrics."""

    pid: int | None  #: None: it has not been started yet
    life: str
    in_flight: int
    depth: int
    answered: int
    strays: int
    started_s: float


class LinesPool:
    """The processes of one function. Satisfies transition.Runtime and worker.Host."""

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
        self.problem: str | None = None  #: why no process can be started
        self.hello: Hello | None = SILENT if function.hello is HelloRule.NONE else None
        self.known = trio.Event()  #: its hello, its silence or its problem is known
        self._limits = limits
        self._sandboxes = sandboxes
        self._watch = watch
        self._log_line = log_line
        self._counters = counters
        self._roster: Roster[Worker] = Roster(function.processes, function.idle_s)
        self._crashes = Crashes(function.name, self._roster.seats)
        self._breaker = self._crashes.breaker
        self._waiting = WaitingRoom(function.name, limits.in_flight_bytes, counters)
        self._waiting_alone = WaitingRoom(function.name, limits.in_flight_bytes, counters)
        self._waits_since_s: float | None = None  # since when something has been waiting all the time
        self._assign_due = False
        self._looked_up_s = 0.0
        self._closed = False
        self._quiet = trio.Event()
        self.is_frozen = False  #: its code has changed and may be broken: keep the processes there are
        self.predecessor: Generation | None = None
        self._successor: Generation | None = None  # new code has come: what has no process yet goes there

    # -- the face ----------------------------------------------------------------------------------------

    @property
    def batch(self) -> int:
        """Messages that one turn may hold."""
        return 1 if self.hello is None else self.hello.batch

    @property
    def waiting(self) -> int:
        """Turns that no process has room for."""
        return len(self._waiting.waiting) + len(self._waiting_alone.waiting)

    @property
    def breaker_open(self) -> bool:
        """Are calls refused because the processes die before they answer anything?"""
        return self._breaker.open

    @property
    def crash(self) -> str | None:
        """How its last process ended that had answered nothing."""
        return self._crashes.words

    @property
    def in_flight(self) -> int:
        return sum(worker.in_flight for worker in self._roster.seats)

    @property
    def processes(self) -> Sequence[ProcessView]:
        return [
            ProcessView(
                worker.child.pid,
                "leaving" if worker.leaving else worker.life.value,
                worker.in_flight,
                worker.depth,
                worker.answered,
                worker.strays,
                worker.child.started_s,
            )
            for worker in self._roster.seats
        ]

    async def send_message_in(self, message: MessageIn) -> Flight:
        """Step 3. Parks while no process has room."""
        if not message.exclusive and not self.waiting:
            worker = self._roster.seat_for(len(message.turn.requests), perf_counter())
            if worker is not None:
                return worker.send(message)
        if self._successor is not None:
            return await self._successor.send_message_in(message)
        if self._closed:
            raise self._shutting_down()
        self._refuse_hopeless()
        gate = self._waiting_alone if message.exclusive else self._waiting
        gate.admit(message)
        self._assign_soon()  # when this walk is parked
        return await gate.wait(message)

    def begun_s(self, turn: Turn) -> float | None:
        """When a process could begin this turn; None: it waits behind another, here or in a process."""
        for worker in self._roster.seats:
            began_s = worker.begun_s(turn)
            if began_s is not None:
                return began_s
        return None if self.predecessor is None else self.predecessor.begun_s(turn)

    def report(self) -> tuple[bool, str]:
        """(well, sentence) for the start-up lines."""
        if self.problem is not None:
            return False, self.problem
        if self._breaker.open:
            return False, self._crashes.sentence(perf_counter())
        if self.hello is None:
            words = self._crashes.words
            return (True, "has not spoken yet") if words is None else (False, words)
        if self.hello is SILENT:
            return True, "speaks no hello: one message at a time"
        hello = self.hello
        names = "any handler" if hello.handlers is None else f"handlers {', '.join(sorted(hello.handlers))}"
        return (
            True,
            f"{hello.runtime or 'a runtime'}, {names}, pipeline {hello.pipeline}, batch {hello.batch}",
        )

    # -- time and ends -----------------------------------------------------------------------------------

    def start(self) -> None:
        """The first process, to read its hello, and what `min` asks for."""
        if self.hello is not None:
            self.known.set()
        for _ in range(max(1, self.function.processes.min)):
            self._start()

    def sweep(self, now_s: float) -> None:
        """Every 50 ms."""
        for gate in (self._waiting, self._waiting_alone):
            if gate.waiting:
                gate.withdraw(_is_abandoned, Abandoned)
        for worker in tuple(self._roster.seats):
            worker.sweep(now_s)
        if self._closed or self._successor is not None:
            return
        for worker in () if self.is_frozen else self._roster.to_retire(now_s):
            worker.leave(now_s)
        if self._breaker.streak:
            self._crashes.sweep(now_s)
        if self._roster.missing > 0 and self.problem is None and self._crashes.may_start(now_s):
            self._start()
        if self.waiting:
            self._assign()

    def hand_over(self, successor: Generation) -> None:
        """What waits here is cut anew and goes there, and so does what comes late. Then `drain`."""
        self._successor = successor
        for gate in (self._waiting, self._waiting_alone):
            for walk in gate.take(len(gate.waiting)):
                walk.throw(Abandoned())

    async def drain(self) -> None:
        """Let what is here finish, then send every process home. `sweep` must go on meanwhile."""
        while self.waiting or self.in_flight:
            self._quiet = trio.Event()
            await self._quiet.wait()
        self._closed = True
        while self._roster.seats:
            for worker in self._roster.seats:
                if not worker.leaving:
                    worker.leave(perf_counter())
            self._quiet = trio.Event()
            await self._quiet.wait()

    def kill(self) -> None:
        """The end: KILL to every group. The exits are still to be served."""
        self._closed = True
        for worker in self._roster.seats:
            worker.leaving = worker.dismissed = True
            worker.child.kill()
        self._fail_waiting(self._shutting_down())

    # -- worker.Host -------------------------------------------------------------------------------------

    def spoke(self, worker: Worker, hello: Hello) -> None:
        self.hello = hello
        self.known.set()
        if self._breaker.streak and hello is not SILENT:
            self._crashes.greeted(worker)

    def freed(self, worker: Worker) -> None:
        if self._breaker.streak and worker.answered:
            self._crashes.answered(worker)
        if self.waiting:
            self._assign()
        elif not worker.in_flight:
            self._quiet.set()

    def left(self, worker: Worker) -> None:
        self._roster.seats.remove(worker)
        self._quiet.set()
        if worker.child.failure is not None:
            self._cannot_start(worker.child.failure)
            return
        if worker.dismissed:
            return
        self._counters.deaths += 1
        if not worker.answered:
            self._died(worker)
        if self.waiting:
            self._assign_soon()

    def _died(self, worker: Worker) -> None:
        """It had answered nothing."""
        ended = self._crashes.died(worker)
        self.known.set()
        if (
            self.function.hello is HelloRule.REQUIRED
            and self._breaker.streak > self.function.rerun
            and not any(seat.spoken for seat in self._roster.seats)
        ):
            # It takes no message before its hello, so no death is ever a message's: this stands for that.
            self._fail_waiting(ended)

    # -- the roster's plan, carried out ------------------------------------------------------------------

    def _assign_soon(self) -> None:
        if not self._assign_due:
            self._assign_due = True
            self._watch.later(self._assign)

    def _assign(self) -> None:
        self._assign_due = False
        while True:
            self._assign_alone()
            self._assign_to_free()
            if not self.waiting:
                self._waits_since_s = None
                return
            now_s = perf_counter()
            if self._waits_since_s is None:
                self._waits_since_s = now_s
            if self._crashes.hopeless(now_s):
                probe = self._crashes.probe
                awaits_hello = probe is not None and not probe.limit  # then it will want one message
                self._fail_waiting(self._crashes.refusal(now_s), keep=int(awaits_hello))
                return
            if self._closed or not self._roster.wants_another(now_s - self._waits_since_s):
                return
            if not self._crashes.may_start(now_s) or not self._start():
                return

    def _assign_alone(self) -> None:
        gate = self._waiting_alone
        gate.withdraw(_is_abandoned, Abandoned)
        while gate.waiting:
            worker = self._roster.seat_alone(len(gate.waiting[0].item.turn.requests))
            if worker is None:
                return
            walk = gate.take(1)[0]
            walk.resume(worker.send(walk.item))
        self._roster.release_reserved()

    def _assign_to_free(self) -> None:
        gate = self._waiting
        now_s = perf_counter()
        while gate.waiting and (room := self._roster.room(now_s)):
            taken = gate.take(room)
            for number, walk in enumerate(taken):
                turn = walk.item.turn
                worker = self._roster.seat_for(len(turn.requests), now_s)
                if turn.abandoned:
                    walk.throw(Abandoned())
                elif worker is not None:
                    walk.resume(worker.send(walk.item))
                elif len(turn.requests) > self.batch:
                    # The function's new code takes smaller turns: have this one cut again.
                    walk.throw(Abandoned())
                else:
                    gate.waiting[:0] = taken[number:]
                    return

    def _start(self) -> bool:
        if self.is_frozen and self._roster.seats:
            return False
        self._looked_up_s = perf_counter()
        try:
            recipe = Recipe.of(self.function, self._sandboxes)
            worker = Worker(self, self.function, recipe, self._limits, self._watch, self._log_line)
        except CannotStart as problem:
            self._cannot_start(Failure(str(problem), is_shortage=False))
            return False
        except OSError as error:
            detail = f"function {self.function.name}: no process could be started: {error.strerror}"
            self._cannot_start(Failure(detail, is_shortage=True))
            return False
        self.problem = None
        self._counters.starts += 1
        self._crashes.started(worker)
        if self.hello is SILENT:
            worker.spoken = True  # nothing is to be learned from its first word
        self._roster.seats.append(worker)
        return True

    def _cannot_start(self, failure: Failure) -> None:
        if not failure.is_shortage:  # which may be over in a moment
            self.problem = failure.sentence
        self.known.set()
        if not self._roster.seats:
            self._fail_waiting(RuntimeBroken(Code.NO_RUNTIME, failure.sentence, retry_after_s=1))

    def _refuse_hopeless(self) -> None:
        if self.problem is not None and not self._roster.seats:
            if perf_counter() - self._looked_up_s >= _LOOK_AGAIN_S and self._start():
                return
            raise RuntimeBroken(Code.NO_RUNTIME, self.problem, retry_after_s=5)
        if self._breaker.open and self._crashes.hopeless(now_s := perf_counter()):
            raise self._crashes.refusal(now_s)

    def _shutting_down(self) -> RuntimeBroken:
        detail = f"function {self.function.name}: this node is shutting down"
        return RuntimeBroken(Code.DRAINING, detail, retry_after_s=1)

    def _fail_waiting(self, error: RuntimeBroken, keep: int = 0) -> None:
        """Fail what is parked, but the first `keep`."""
        for gate in (self._waiting_alone, self._waiting):
            kept, walks = gate.waiting[:keep], gate.waiting[keep:]
            gate.waiting = kept
            keep -= len(kept)
            for walk in walks:
                again = RuntimeBroken(
                    error.code, error.detail, retry_after_s=error.retry_after_s, extra=error.extra
                )
                walk.throw(again)


def _is_abandoned(message: MessageIn) -> bool:
    return message.turn.abandoned
