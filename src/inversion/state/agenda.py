"""The schedules' rows: what each has dealt with, and the one statement that fires it. One connection.

Whoever moves `last_at` of a row brings the messages into being, in the same statement: no instant is fired
twice, and none is lost between. The database's clock is the only one.
Raises ConnectionLost and StatementFailed as `Connection` does; nothing here is tried again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import attrs

from inversion.ids import new_id
from inversion.names import NO_KEY
from inversion.protocol.cron import SENDER, Firing, Schedule
from inversion.state import arrays, sql
from inversion.state.dialing import Settings
from inversion.state.postgres import Connection


class Place(NamedTuple):
    """A schedule by its name."""

    function: str
    name: str


class Standing(NamedTuple):
    """How far a schedule is, and what time it is, by the database."""

    last_s: int  #: the newest instant that is dealt with
    fired_s: int  #: when a message was last born of it; 0: never
    now_ms: int

    @property
    def now_s(self) -> int:
        return self.now_ms // 1_000


@attrs.frozen(slots=True, eq=False)
class Agenda:
    """The statements of one node."""

    _connection: Connection

    @classmethod
    async def open(cls, conninfo: str) -> Agenda:
        return cls(await Connection.open(conninfo, Settings()))

    def close(self) -> None:
        self._connection.close()

    async def adopt(self, schedules: Mapping[Place, Schedule]) -> None:
        """Those that nobody has seen yet, or that are no longer what they were, begin now."""
        rules = arrays.texts([schedule.rule.encode() for schedule in schedules.values()])
        await self._connection.execute(sql.ADOPT_SCHEDULES, [*_places(list(schedules)), rules])

    async def look(self, places: Sequence[Place]) -> Mapping[Place, Standing]:
        """How far each of these is; one that is not among them has no row."""
        rows = await self._connection.execute(sql.LOOK_AT_SCHEDULES, _places(places))
        found = {}
        for row in range(rows.count):
            at, *said = (
                int.from_bytes(rows.value(row, column) or b"", "big", signed=True) for column in range(4)
            )
            found[places[at - 1]] = Standing(*said)
        return found

    async def fire(self, place: Place, schedule: Schedule, last_s: int, firing: Firing) -> bool:
        """Whether it was this call that did."""
        function = place.function.encode()
        parameters = [
            function,
            place.name.encode(),
            last_s.to_bytes(8, "big", signed=True),
            firing.last_s.to_bytes(8, "big", signed=True),
            (NO_KEY if schedule.key is None else schedule.key).encode(),
            f"{SENDER}{place.function}/{place.name}".encode(),
            schedule.handler.encode(),
            schedule.message,
            arrays.int8s(firing.instants_s),
            arrays.texts([new_id().encode() for _ in firing.instants_s]),
        ]
        return bool((await self._connection.execute(sql.FIRE_SCHEDULE, parameters)).count)

    async def forget(self, places: Sequence[Place]) -> None:
        """Say that these are alive; what nobody has said of for long is no longer known."""
        await self._connection.execute(sql.KEEP_SCHEDULES, _places(places))
        await self._connection.execute(sql.FORGET_SCHEDULES)


def _places(places: Sequence[Place]) -> list[bytes]:
    return [
        arrays.texts([place.function.encode() for place in places]),
        arrays.texts([place.name.encode() for place in places]),
    ]
