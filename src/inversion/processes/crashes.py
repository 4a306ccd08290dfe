"""What a pool does about processes that die: it asks the breaker, and words what callers are told.

Tells the breaker of every end, hello and answer that may matter, knows which process is the probe, and keeps
the last words of the dead. While all is well a pool only looks whether `breaker` has a `streak`.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from time import perf_counter

from inversion.errors import Code, RuntimeBroken
from inversion.messages import SILENT
from inversion.observe.logs import get_logger
from inversion.processes.worker import Worker
from inversion.protocol.breaker import Breaker

_log = get_logger("functions")


class Crashes:
    """Of one function; `seats` is the pool's list of processes."""

    def __init__(self, function: str, seats: Sequence[Worker]) -> None:
        self.words: str | None = None  #: how the last process ended that had answered nothing
        self._function = function
        self._seats = seats
        self.breaker = Breaker()
        self._extra: Mapping[str, object] = {}  # exit status and stderr of that process
        self._was_open = False

    # -- what happens ------------------------------------------------------------------------------------

    def started(self, worker: Worker) -> None:
        self.breaker.started(worker.child.started_s)
        worker.probe = self.breaker.open

    def died(self, worker: Worker) -> RuntimeBroken:
        """It is gone, nobody had asked it to go, and it had answered nothing. Returns how it ended."""
        ended = worker.how_it_ended()
        last_words = str(ended.extra.get("stderr", "")).rpartition("\n")[2]
        self.words = f"{ended.detail}: {last_words}" if last_words else ended.detail
        self._extra = ended.extra
        spoken = worker.hello is not None and worker.hello is not SILENT
        self.breaker.died(perf_counter(), random.random(), spoken=spoken, overdue=worker.overdue)
        self._heed()
        return ended

    def answered(self, worker: Worker) -> None:
        self.breaker.answered(perf_counter(), worker.child.started_s)
        self._heed()

    def greeted(self, worker: Worker) -> None:
        self.breaker.greeted(worker.child.started_s)
        self._heed()

    def sweep(self, now_s: float) -> None:
        for worker in self._seats:
            if not worker.leaving:
                self.breaker.lives(now_s, worker.child.started_s)
        self._heed()

    def _heed(self) -> None:
        """Something was learned: has the breaker opened or closed?"""
        if self.breaker.open is self._was_open:
            return
        self._was_open = self.breaker.open
        if self._was_open:
            _log.warning("breaker_open", function=self._function, reason=self.words)
            return
        _log.info("breaker_closed", function=self._function)
        for worker in self._seats:
            worker.probe = False

    # -- what follows ------------------------------------------------------------------------------------

    @property
    def probe(self) -> Worker | None:
        """The process that is to show whether the function works again."""
        return next((worker for worker in self._seats if worker.probe), None)

    def may_start(self, now_s: float) -> bool:
        return self.breaker.may_start(now_s) and not (self.breaker.open and self.probe)

    def hopeless(self, now_s: float) -> bool:
        """The breaker is open, and nobody could take one more message soon."""
        if not self.breaker.open or any(not (seat.leaving or seat.probe) for seat in self._seats):
            return False
        probe = self.probe
        return not (self.breaker.may_start(now_s) if probe is None else probe.has_room(now_s))

    def refusal(self, now_s: float) -> RuntimeBroken:
        """What a caller is told while it is hopeless."""
        return RuntimeBroken(
            Code.BREAKER_OPEN,
            f"function {self._function}: {self.sentence(now_s)}",
            retry_after_s=max(1, math.ceil(self.breaker.next_start_s - now_s)),
            extra=self._extra,
        )

    def sentence(self, now_s: float) -> str:
        """For the start-up lines and the admin door."""
        wait_s = self.breaker.next_start_s - now_s
        if self.probe is not None:
            again = "a try is under way"
        else:
            again = f"next try in {wait_s:.1f} s" if wait_s > 0 else "the next call tries again"
        words = (self.words or "").removeprefix(f"function {self._function}: ")
        return f"breaker open, {again}: {words}"
