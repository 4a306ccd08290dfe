"""The pool as a pure planner: whom to give a message, when to start another process, whom to send home.

A `Seat` is what the planner knows of one process; its worker keeps it true. Light load goes to the first
seats, so that the others fall idle and can be retired. A process gets as many frames as it answers in about
5 ms, at most its `pipeline`: a slow process must not hoard what another could do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Generic, TypeVar

import attrs

from inversion.config import Processes

#: Work a process holds. Longer, and messages queue behind a slow one; shorter, and a fast one starves
#: while its next frames are on their way.
HELD_S: Final = 0.005
#: Weights of a new measurement. A short time shows what the process can do; a long one may only show that
#: the machine is busy, and believing it would keep frames from a process that answers them in one go.
_SHORTER: Final = 0.5
_LONGER: Final = 0.02
#: An answer that came together with the hello took no measurable time.
_SHORTEST_S: Final = 1e-6
#: Messages wait all this time before another process is started beside a running one: a burst that is over
#: sooner needs no second process.
PATIENCE_S: Final = 0.01

#: A process that has not answered for so long, beyond four times what it usually takes, may never: others
#: are asked first. A busy machine's hiccups are shorter.
STALLED_S: Final = 0.02


@attrs.define(slots=True, eq=False)
class Seat:
    """One process as the planner sees it."""

    idle_since_s: float
    limit: int = 1  #: frames it may hold at all: the conversation's depth
    batch: int = 1  #: messages it takes in one frame
    spoken: bool = False  #: its first frame has come: how to speak with it is known
    leaving: bool = False
    in_flight: int = 0
    exclusive: bool = False  #: what is in flight keeps it to itself
    reserved: bool = False  #: an exclusive message waits for it to finish
    depth: int = 1  #: frames it gets: `limit`, or less when it is slow
    service_s: float = 0.0  #: smoothed seconds for one frame; 0: not measured yet
    head_began_s: float = 0.0  #: when it could begin the oldest frame in flight

    def has_room(self, now_s: float) -> bool:
        """Takes another frame. Not while its oldest is out for long: what came behind would hang with it."""
        if self.in_flight >= self.depth or self.exclusive or self.reserved or self.leaving:
            return False
        return not self.in_flight or now_s - self.head_began_s < STALLED_S + 4 * self.service_s

    def served(self, frames: int, busy_s: float) -> None:
        """`frames` were answered in `busy_s` of work: plan with that."""
        sample_s = max(busy_s / frames, _SHORTEST_S)
        known_s = self.service_s
        if not known_s:
            self.service_s = sample_s
        else:
            self.service_s += (sample_s - known_s) * (_SHORTER if sample_s < known_s else _LONGER)
        self.plan_depth()

    def plan_depth(self) -> None:
        if self.service_s * self.limit <= HELD_S:
            self.depth = self.limit if self.service_s else min(1, self.limit)
        else:
            self.depth = min(self.limit, max(1, int(HELD_S / self.service_s)))


SeatT = TypeVar("SeatT", bound=Seat)


class Roster(Generic[SeatT]):
    """The seats of one function on one node."""

    def __init__(self, processes: Processes, idle_s: float) -> None:
        self.seats: list[SeatT] = []
        self._processes = processes
        self._idle_s = idle_s

    def seat_for(self, messages: int, now_s: float) -> SeatT | None:
        """The first seat that takes a frame of so many messages now."""
        for seat in self.seats:
            if seat.batch >= messages and seat.has_room(now_s):
                return seat
        return None

    def seat_alone(self, messages: int) -> SeatT | None:
        """A seat with nothing in flight, for a message that wants to be alone; else one is kept free."""
        able = [s for s in self.seats if not s.leaving and s.limit > 0 and s.batch >= messages]
        free = next((seat for seat in able if not seat.in_flight), None)
        if free is not None:
            free.reserved = False
            return free
        if able and not any(seat.reserved for seat in able):
            min(able, key=lambda seat: seat.in_flight).reserved = True
        return None

    def release_reserved(self) -> None:
        """No exclusive message waits any more."""
        for seat in self.seats:
            seat.reserved = False

    def room(self, now_s: float) -> int:
        """Frames that could be handed out now."""
        return sum(seat.depth - seat.in_flight for seat in self.seats if seat.has_room(now_s))

    def wants_another(self, waited_s: float) -> bool:
        """Should one more process be started, when messages have been waiting so long?"""
        staying = 0
        for seat in self.seats:
            if not seat.leaving:
                if not seat.spoken:
                    return False  # one start at a time: it may be all that is needed
                staying += 1
        if len(self.seats) > self._processes.max:
            return False  # one that leaves may overlap with its successor, no more than that
        return not staying or (staying < self._processes.max and waited_s >= PATIENCE_S)

    def to_retire(self, now_s: float) -> Sequence[SeatT]:
        """Idle seats beyond the minimum, longest idle first."""
        staying = [seat for seat in self.seats if not seat.leaving]
        spare = len(staying) - self._processes.min
        if spare <= 0:
            return ()
        idle = [s for s in staying if not s.in_flight and now_s - s.idle_since_s >= self._idle_s]
        idle.sort(key=lambda seat: seat.idle_since_s)
        return idle[:spare]

    @property
    def missing(self) -> int:
        """Seats below the minimum."""
        return self._processes.min - sum(not seat.leaving for seat in self.seats)
