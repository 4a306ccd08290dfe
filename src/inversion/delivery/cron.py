"""Fires schedules: those of inversion.toml, and of hellos where inversion.toml has none of that name.

Every node does; the statement that fires sees to it that one of them does it. Waiting is by this node's
monotonic clock from what the database says of the time, and no longer than POLL_S, so that neither a wall
clock nor one that jumps is of consequence. A node without schedules asks the database nothing.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Final, NamedTuple

import trio

from inversion.calls import SpokenPool
from inversion.config import Function
from inversion.observe import logs
from inversion.observe.metrics import Counters
from inversion.protocol.cron import ON_TIME_S, Firing, Schedule, next_after, plan, words_of
from inversion.protocol.schedules import Read, misfit
from inversion.state.agenda import Agenda, Place, Standing
from inversion.state.dialing import ConnectionLost, UnfitServer
from inversion.state.lane import Backoff, Knocking
from inversion.state.postgres import StatementFailed

#: How late a schedule may be noticed that a reload or a hello brought, or that somebody set back in the
#: database. What is known fires at its second.
POLL_S: Final = 2.0
#: Nodes that all wait for the same second do not all ask in the same millisecond, and who lost a race looks
#: again after that.
_SPREAD_S: Final = 0.1
#: How often rows are kept alive: what is older than 30 days is forgotten.
_KEEP_S: Final = 3_600.0
_log = logs.get_logger("cron")


class Shown(NamedTuple):
    """What /metrics says of a schedule."""

    next_s: float  #: 0: never
    fired_s: float
    lag_s: float  #: how long the oldest instant that is due has been so


class Cron:
    """Of one node. `run` it as a task. `stir` is called when messages were born."""

    def __init__(
        self,
        conninfo: str,
        functions: Mapping[str, Function],
        pools: Mapping[str, SpokenPool],
        counters: Counters,
        knocking: Knocking,
        stir: Callable[[], None],
    ) -> None:
        self.shown: Mapping[str, Shown] = {}  #: by function/schedule
        self._conninfo = conninfo
        self._functions = functions  # a reload changes it
        self._pools = pools
        self._counters = counters
        self._knocking = knocking  #: of the store: one node's tries stand in one line
        self._stir = stir
        self._adopted: dict[Place, str] = {}
        self._following: dict[Place, tuple[str, int, int | None]] = {}  # rule, last instant, the next one
        self._heard: dict[str, Read] = {}
        self._warned: set[tuple[Place, str]] = set()
        self._kept_s = 0.0

    async def run(self) -> None:
        """Serve until cancelled; a database that is away is tried again."""
        backoff = Backoff()
        while True:
            while not self._wanted():  # noqa: ASYNC110 (a reload or a hello may bring the first one)
                await trio.sleep(POLL_S)
            await self._knocking.turn()
            try:
                agenda = await Agenda.open(self._conninfo)
            except (ConnectionLost, StatementFailed, UnfitServer) as failure:
                self._knocking.failed(failure, "no database")
                continue
            self._knocking.succeeded()
            try:
                while wanted := self._wanted():
                    pause_s = await self._look(agenda, wanted)
                    backoff.reset()
                    await trio.sleep(pause_s)
            except ConnectionLost:
                await backoff.pause()
            except StatementFailed as failure:
                _log.error("schedules_refused_by_the_database", reason=str(failure))
                await backoff.pause()
            finally:
                agenda.close()

    def _wanted(self) -> Mapping[Place, Schedule]:
        """All schedules of this node."""
        wanted: dict[Place, Schedule] = {}
        for name, function in self._functions.items():
            pool = self._pools.get(name)
            hello = None if pool is None else pool.hello
            schedules = function.cron
            if hello is not None and (hello.cron.schedules or hello.cron.faults):
                self._hear(name, hello.cron)
                schedules = {**hello.cron.schedules, **function.cron}
            for schedule in schedules.values():
                place = Place(name, schedule.name)
                handlers = None if hello is None else hello.handlers
                fault = misfit(schedule, stateful=function.state, handlers=handlers)
                if fault is not None and (place, fault) not in self._warned:
                    self._warned.add((place, fault))
                    _log.warning(f"schedule {name}/{schedule.name} will fail: {fault}")
                wanted[place] = schedule
        if not wanted:
            self.shown = {}
        return wanted

    def _hear(self, function: str, read: Read) -> None:
        """Each process says the same hello again: what is wrong with it is said once."""
        if self._heard.get(function) != read:
            self._heard[function] = read
            self._counters.cron_faults += len(read.faults)
            for fault in read.faults:
                _log.error(f"function {function}: its hello: cron{fault}; this one is left out")

    async def _look(self, agenda: Agenda, wanted: Mapping[Place, Schedule]) -> float:
        """One round; how long to wait until the next."""
        new = {at: each for at, each in wanted.items() if self._adopted.get(at) != each.rule}
        if new:
            await agenda.adopt(new)
            for place, schedule in new.items():
                self._adopted[place] = schedule.rule
        for place in self._adopted.keys() - wanted.keys():
            del self._adopted[place]  # if it comes back, it is looked at anew
        standings = await agenda.look(list(wanted))
        shown: dict[str, Shown] = {}
        pause_s = POLL_S
        for place, schedule in wanted.items():
            standing = standings.get(place)
            if standing is None:  # somebody deleted its row
                del self._adopted[place]
                continue
            next_s = self._next(place, schedule, standing.last_s)
            lag_s = 0
            if next_s is not None and next_s <= standing.now_s:
                lag_s = standing.now_s - next_s
                try:
                    await self._fire(agenda, place, schedule, standing)
                    pause_s = 0.0
                except StatementFailed as failure:  # the others are fired all the same
                    _log.error("not_fired", schedule=f"{place.function}/{place.name}", reason=str(failure))
            elif next_s is not None:
                pause_s = min(pause_s, next_s - standing.now_ms / 1_000)
            shown[f"{place.function}/{place.name}"] = Shown(next_s or 0, standing.fired_s, lag_s)
        self.shown = shown
        await self._keep(agenda, wanted)
        return pause_s + random.uniform(0.0, _SPREAD_S)

    def _next(self, place: Place, schedule: Schedule, last_s: int) -> int | None:
        """The first instant that is not dealt with; found out once."""
        known = self._following.get(place)
        if known is None or known[:2] != (schedule.rule, last_s):
            following_s = next_after(schedule.expression, schedule.zone, last_s)
            known = self._following[place] = schedule.rule, last_s, following_s
        return known[2]

    async def _fire(self, agenda: Agenda, place: Place, schedule: Schedule, standing: Standing) -> None:
        firing = plan(schedule, standing.last_s, standing.now_s)
        if firing is None or not await agenda.fire(place, schedule, standing.last_s, firing):
            return  # another node was faster
        self._counters.cron_fired += len(firing.instants_s)
        if firing.instants_s:
            self._stir()
        self._tell(place, schedule, firing, standing.now_s)

    def _tell(self, place: Place, schedule: Schedule, firing: Firing, now_s: int) -> None:
        shown = f"{place.function}/{place.name}"
        if firing.left_out is not None:
            first, before = (words_of(instant_s) for instant_s in firing.left_out)
            policy = schedule.missed.value
            _log.warning("missed", schedule=shown, policy=policy, left_out_from=first, before=before)
        late = [one for one in firing.instants_s if now_s - one > ON_TIME_S]
        if late:
            _log.warning("fired_late", schedule=shown, count=len(late), first=words_of(late[0]))

    async def _keep(self, agenda: Agenda, wanted: Mapping[Place, Schedule]) -> None:
        """Now and then; never at the start, when others may not have said yet what is theirs."""
        now_s = trio.current_time()
        if not self._kept_s:
            self._kept_s = now_s
        elif now_s - self._kept_s >= _KEEP_S:
            self._kept_s = now_s
            await agenda.forget(list(wanted))
