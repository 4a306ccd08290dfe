"""`mode = "cgi"`: one process per request, as many at a time as `processes.max` says; the rest waits here.

Of who waits nothing is read beyond what came with the head, so waiting costs no memory; it is as long as
the function's timeout at most. A pool takes no messages: a CGI program is called by HTTP alone.
"""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Final

import attrs
import trio

from inversion.calls import not_called
from inversion.config import Function, Limits
from inversion.errors import Code, RequestRefused, RuntimeBroken
from inversion.gate import Gate
from inversion.messages import SILENT, Hello, MessageIn, Turn
from inversion.observe.metrics import FunctionCounters
from inversion.processes.cgi_call import CgiCall
from inversion.processes.cgi_client import Client, ClientGone
from inversion.processes.child import CannotStart, Recipe
from inversion.processes.flight import Flight, Generation
from inversion.processes.lines_mode import ProcessView
from inversion.processes.log_lines import LogLine
from inversion.processes.sandbox import Sandboxes
from inversion.watch import Watch

#: Started in one loop pass; each takes a tenth of a millisecond that others wait for.
_STARTS_AT_ONCE: Final = 4
#: Looking a missing command up again costs some stat calls.
_LOOK_AGAIN_S: Final = 1.0


@attrs.frozen(slots=True, eq=False)
class _Waiting:
    """A request without a process."""

    client: Client
    until_s: float


class CgiPool:
    """The processes of one CGI program."""

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
        self._most_waiting = limits.queue.function
        self._sandboxes = sandboxes
        self.problem: str | None = None  #: why no process can be started
        self.hello: Hello | None = attrs.evolve(
            SILENT, handlers={}
        )  # what is sent to it is a dead letter at once
        self.batch = 1
        self.breaker_open = False  #: there is none
        self.known = trio.Event()
        self._watch = watch
        self._log_line = log_line
        self._counters = counters
        self._gate: Gate[_Waiting, None] = Gate()
        self._calls: set[CgiCall] = set()
        self._recipe: Recipe | None = None
        self._looked_up_s = 0.0
        self._closed = False
        self._start_due = False
        self._quiet = trio.Event()
        self.predecessor: Generation | None = None
        self._successor: CgiPool | None = None

    @property
    def waiting(self) -> int:
        return len(self._gate.waiting)

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
        name, most = self.function.name, self.function.processes.max
        return True, f"CGI at /v1/http/{name}/, one process per request, at most {most} at a time"

    async def begin(self, env: Mapping[str, str], client: Client, *, takes_body: bool) -> CgiCall:
        """Start a process for a request. Parks while `processes.max` run. Raises InversionError."""
        if self._successor is not None:
            return await self._successor.begin(env, client, takes_body=takes_body)
        if self._closed:
            raise self._shutting_down()
        if self.problem is not None and perf_counter() - self._looked_up_s < _LOOK_AGAIN_S:
            raise RuntimeBroken(Code.NO_RUNTIME, self.problem, retry_after_s=5)
        if self._gate.waiting or len(self._calls) >= self.function.processes.max:
            await self._wait(client)
            if self._successor is not None:
                return await self._successor.begin(env, client, takes_body=takes_body)
        return self._start(env, client, takes_body)

    async def send_message_in(self, message: MessageIn) -> Flight:
        """No message comes this far but an effect of another function."""
        raise not_called(self.function)

    def begun_s(self, turn: Turn) -> float | None:
        return None

    def start(self) -> None:
        """Look the command up, so that a problem is known before the first request."""
        self.known.set()
        try:
            recipe = self._look_up()
        except RuntimeBroken:
            return  # told by `problem`
        with contextlib.suppress(OSError):  # a shortage: the first request tries again
            recipe.spawner.get_ready()

    def sweep(self, now_s: float) -> None:
        """Every 50 ms."""
        if self._gate.waiting:
            self._gate.withdraw(lambda each: now_s >= each.until_s, self._too_late)
        for call in tuple(self._calls):
            call.sweep(now_s)

    def hand_over(self, successor: Generation) -> None:
        """What waits here goes there, and so does what comes late. Then `drain`."""
        assert isinstance(successor, CgiPool)  # a change of mode needs a restart
        self._successor = successor
        for walk in self._gate.take(self.waiting):
            walk.resume(None)

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
        for walk in self._gate.take(self.waiting):
            walk.throw(self._shutting_down())

    async def _wait(self, client: Client) -> None:
        if self.waiting >= self._most_waiting:
            raise RequestRefused(
                Code.QUEUE_FULL,
                f"{self._most_waiting} requests wait for function {self.function.name} "
                "(limits.queue.function)",
                retry_after_s=1,
            )
        await self._gate.wait(_Waiting(client, perf_counter() + self.function.timeout_s))

    def _ended(self, call: CgiCall) -> None:
        """Its process is reaped, or could not be started: there is room for another."""
        self._calls.remove(call)
        failure = call.child.failure
        if failure is not None and not failure.is_shortage:
            self._recipe = None
            self.problem = failure.sentence
        self._counters.deaths += call.crashed and not call.told_to_end
        self._counters.timeouts += call.timed_out
        self._quiet.set()
        self._start_soon()

    def _start_soon(self) -> None:
        if self._gate.waiting and not self._start_due:
            self._start_due = True
            self._watch.later(self._start_waiting)

    def _start_waiting(self) -> None:
        self._start_due = False
        self._gate.withdraw(lambda each: each.client.left(), ClientGone)
        room = self.function.processes.max - len(self._calls)
        for walk in self._gate.take(max(0, min(room, _STARTS_AT_ONCE))):
            walk.resume(None)
        if len(self._calls) < self.function.processes.max:
            self._start_soon()

    def _start(self, env: Mapping[str, str], client: Client, takes_body: bool) -> CgiCall:
        recipe = self._recipe or self._look_up()
        try:
            call = CgiCall(
                self.function,
                env,
                client,
                takes_body,
                recipe,
                self._watch,
                self._log_line,
                self._ended,
            )
        except OSError as shortage:  # this node has no files or processes left just now: this one's bad luck
            detail = f"function {self.function.name}: no process could be started: {shortage.strerror}"
            raise RuntimeBroken(Code.NO_RUNTIME, detail, retry_after_s=1) from None
        self._counters.starts += 1
        self._calls.add(call)
        return call

    def _look_up(self) -> Recipe:
        self._looked_up_s = perf_counter()
        try:
            self._recipe = Recipe.of(self.function, self._sandboxes)
        except CannotStart as problem:
            self._recipe = None
            self.problem = str(problem)
            raise RuntimeBroken(Code.NO_RUNTIME, self.problem, retry_after_s=5) from None
        self.problem = None
        return self._recipe

    def _too_late(self) -> RequestRefused:
        name, most = self.function.name, self.function.processes.max
        detail = f"function {name}: none of its {most} processes became free within its timeout"
        return RequestRefused(Code.DEADLINE, f"{detail} (processes.max)")

    def _shutting_down(self) -> RuntimeBroken:
        detail = f"function {self.function.name}: this node is shutting down"
        return RuntimeBroken(Code.DRAINING, detail, retry_after_s=1)
