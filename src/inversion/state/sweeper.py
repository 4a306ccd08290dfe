"""Forgets what nobody may ask for any more: recorded answers, sends and dead letters, past their retention.

Small batches by the database's clock, rows that somebody has locked are left for the next time, so that any
number of nodes may sweep at once. It has a connection of its own for as long as a sweep lasts.
"""

from __future__ import annotations

import random
from typing import Final

import attrs
import trio

from inversion.state import sql
from inversion.state.dialing import ConnectionLost, Settings, UnfitServer
from inversion.state.lane import Log
from inversion.state.postgres import Connection, StatementFailed

#: Between two sweeps, shortened by up to a half so that the nodes of a fleet do not sweep in step.
PAUSE_S: Final = 60.0
#: What one statement deletes at most (queries.sql); fewer, and there is nothing more to do.
_MOST: Final = 1_000
#: The first sweep of a node looks at everything, those after it not again at what was passed over; what
#: another had locked is found by somebody's first.
_ALL_S: Final = 36_525 * 86_400.0
_SLACK_S: Final = 600.0


@attrs.frozen(slots=True)
class Kept:
    """How long what is kept is kept."""

    keys_s: float  #: answers to keyed requests, and that something was sent
    outputs_s: float  #: answers to messages from outside
    dead_letters_s: float | None = None  #: None: until somebody drops them


KEPT: Final = Kept(86_400.0, 86_400.0)


async def sweep_for_ever(conninfo: str, kept: Kept, log: Log) -> None:
    """Sweep now and then until cancelled; a database that is away is tried again the next time."""
    swept_s: float | None = None
    while True:
        await trio.sleep(PAUSE_S * random.uniform(0.5, 1.0))
        begun_s = trio.current_time()
        window_s = _ALL_S if swept_s is None else begun_s - swept_s + _SLACK_S
        try:
            await sweep(conninfo, kept, window_s)
        except ConnectionLost:
            continue  # the lanes complain of that
        except (StatementFailed, UnfitServer) as failure:
            log(f"old answers could not be deleted: {failure}")
        else:
            swept_s = begun_s


async def sweep(conninfo: str, kept: Kept, window_s: float = _ALL_S) -> int:
    """Delete what was recorded longer ago than it is kept, by no more than the window; how much there was.

    Raises ConnectionLost, StatementFailed, UnfitServer.
    """
    connection = await Connection.open(conninfo, Settings())
    count = 0
    try:
        for retention_s, outputs in ((kept.keys_s, 0), (kept.outputs_s, 1)):
            parameters = [int(retention_s * 1_000), int(window_s * 1_000), outputs]
            while True:
                swept = await connection.execute(
                    sql.SWEEP_REQUESTS, [each.to_bytes(8, "big") for each in parameters]
                )
                count += swept.count
                if swept.count < _MOST:
                    break
        if kept.dead_letters_s is not None:
            retention = int(kept.dead_letters_s * 1_000).to_bytes(8, "big")
            while (swept := await connection.execute(sql.SWEEP_DEAD_LETTERS, [retention])).count:
                count += swept.count
        return count
    finally:
        connection.close()
