"""Gathers loads, checks and reads of states into one statement each time.

While the database is away they stay parked at the gate. A turn is let go when nobody waits for it any
more; a reader has no turn and brings its own deadline.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import attrs

from inversion.errors import Conflict, StoreUnavailable
from inversion.gate import Bridge, Gate, GatheredGate, Walk
from inversion.messages import NO_STATE, Address, Recorded, State, Turn
from inversion.observe.metrics import Counters
from inversion.state import rows, sql
from inversion.state.dialing import ConnectionLost
from inversion.state.lane import Backoff, Lane
from inversion.state.postgres import Connection, StatementFailed, refused
from inversion.state.resolver import LOCKED, TRANSIENT
from inversion.state.rows import Check

_MOST_LOADS: Final = 64
#: What a gathered load should bring at most, by the average of those before it.
_LOAD_BYTES: Final = 4 << 20


@attrs.define(slots=True, eq=False)
class Read:
    """Somebody wants to look at an entity; no turn."""

    address: Address
    deadline_s: float
    forsaken: bool = False


Loading = Turn | Read | Check
LoadWalk = Walk[Loading, State]


class Loader:
    """Takes from the gate of loads, over one connection; several share a gate. `run` is a walk."""

    def __init__(self, lane: Lane, gate: GatheredGate[Loading, State], counters: Counters) -> None:
        self._lane = lane
        self._gate = gate
        self._counters = counters
        self._average_state_bytes = 0.0

    async def run(self, bridge: Bridge) -> None:
        while True:
            connection = await self._lane.connected(bridge)
            most = int(_LOAD_BYTES / (self._average_state_bytes + 1))
            walks = await self._lane.gather(self._gate, max(1, min(most, _MOST_LOADS)))
            checks = [walk for walk in walks if isinstance(walk.item, Check)]
            loads = [walk for walk in walks if not isinstance(walk.item, Check)] if checks else walks
            again = bool(loads) and await self._load(connection, loads)
            again = (bool(checks) and await self._check(connection, checks)) or again
            if again:  # the whole table is locked, say: reading takes no row locks
                await bridge.run(Backoff().pause)

    async def _load(self, connection: Connection, walks: Sequence[LoadWalk]) -> bool:
        """Whether some were parked again, to be tried after a pause."""
        addresses = [walk.item.address for walk in walks]
        try:
            found = await connection.execute(sql.LOAD, rows.load_parameters(addresses))
            records = await _records(connection, walks)
        except ConnectionLost:
            self._park(walks)
        except StatementFailed as failure:
            if len(walks) > 1 and failure.sqlstate != LOCKED:
                half = len(walks) // 2
                first = await self._load(connection, walks[:half])
                return await self._load(connection, walks[half:]) or first
            return self._refused(walks, failure)
        else:
            self._counters.load_batches += 1
            self._counters.loads += len(walks)
            for place, (walk, state) in enumerate(
                zip(walks, rows.loaded_states(found, len(walks)), strict=True)
            ):
                self._average_state_bytes += (len(state.value or b"") - self._average_state_bytes) / 64
                walk.resume(state._replace(records=records[place]) if place in records else state)
        return False

    async def _check(self, connection: Connection, walks: Sequence[LoadWalk]) -> bool:
        """Whether they were parked again, to be tried after a pause."""
        checks = [walk.item for walk in walks if isinstance(walk.item, Check)]
        try:
            found = await connection.execute(sql.OUTDATED, rows.check_parameters(checks))
        except ConnectionLost:
            self._park(walks)
        except StatementFailed as failure:
            return self._refused(walks, failure)
        else:
            self._counters.checks += len(walks)
            outdated = set(rows.places(found)) if found.count else ()
            for place, walk in enumerate(walks):
                if place in outdated:
                    walk.throw(Conflict())
                else:
                    walk.resume(NO_STATE)
        return False

    def _refused(self, walks: Sequence[LoadWalk], failure: StatementFailed) -> bool:
        if failure.sqlstate in TRANSIENT:  # their callers' deadlines decide
            self._park(walks)
            return True
        for walk in walks:
            walk.throw(refused("to read the state", failure))
        return False

    def _park(self, walks: Sequence[LoadWalk]) -> None:
        for walk in walks:
            self._gate.park(walk)


async def _records(connection: Connection, walks: Sequence[LoadWalk]) -> Mapping[int, Mapping[str, Recorded]]:
    """By the place of a walk: the recorded answers to its requests, by their Idempotency.id.

    After the states: what is recorded later than the state was read, the commit finds.
    """
    keys = rows.keys_of(
        [(place, walk.item) for place, walk in enumerate(walks) if isinstance(walk.item, Turn)]
    )
    records: dict[int, dict[str, Recorded]] = {}
    if keys:
        found = await connection.execute(sql.RECORDED, rows.recorded_parameters(keys))
        for number, recorded in rows.recorded(found).items():
            records.setdefault(keys[number].place, {})[keys[number].id] = recorded
    return records


class Readers(Gate[Read, State]):
    """Where readers wait, each for a walk of its own at the gate of loads.

    So a reader leaves at its deadline though its statement is under way.
    """

    def __init__(self, loads: Gate[Loading, State]) -> None:
        super().__init__()
        self._loads = loads

    def park(self, walk: Walk[Read, State]) -> None:
        super().park(walk)
        Walk[Loading, State](self._fetch(walk), _ended).start()

    def sweep(self, now_s: float) -> None:
        """Tell those whose deadline has passed."""
        for walk in self.waiting:
            walk.item.forsaken = now_s >= walk.item.deadline_s
        self.withdraw(_forsaken, _too_late)

    async def _fetch(self, reader: Walk[Read, State]) -> None:
        read = reader.item  # a reader that has left waits elsewhere, for something else
        try:
            state = await self._loads.wait(read)
        except Exception as error:
            if self._leaves(reader, read):
                reader.throw(error)
        else:
            if self._leaves(reader, read):
                reader.resume(state)

    def _leaves(self, reader: Walk[Read, State], read: Read) -> bool:
        """Whether it was still here: its deadline may have passed while its statement ran."""
        if read.forsaken:
            return False
        self.waiting.remove(reader)
        return True


def _forsaken(read: Read) -> bool:
    return read.forsaken


def _too_late() -> Exception:
    return StoreUnavailable("the database did not answer in time")


def _ended(error: Exception | None) -> None:
    if error is not None:
        raise error
