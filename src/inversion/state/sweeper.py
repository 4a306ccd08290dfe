"""Forgets what nobody may ask for any more: recorded answers past their retention.

Small batches by the database's clock, rows that somebody has locked are left for the next time, so that any
number of nodes may sweep at once. It has a connection of its own for as long as a sweep lasts.
"""

from __future__ import annotations

import random
from typing import Final

import trio

from inversion.state import sql
from inversion.state.dialing import ConnectionLost, Settings, UnfitServer
from inversion.state.lane import Log
from inversion.state.postgres import Connection, StatementFailed

#: Between two sweeps, shortened by up to a half so that the nodes of a fleet do not sweep in step.
PAUSE_S: Final = 60.0
#: What one statement deletes at most (queries.sql); fewer, and there is nothing more to do.
_MOST: Final = 1_000


async def sweep_for_ever(conninfo: str, keys_s: float, log: Log) -> None:
    """Sweep now and then until cancelled; a database that is away is tried again the next time."""
    while True:
        await trio.sleep(PAUSE_S * random.uniform(0.5, 1.0))
        try:
            await sweep(conninfo, keys_s)
        except ConnectionLost:
            continue  # the lanes complain of that
        except (StatementFailed, UnfitServer) as failure:
            log(f"old answers could not be deleted: {failure}")


async def sweep(conninfo: str, keys_s: float) -> int:
    """Delete the answers that were recorded longer ago than that; how many there were.

    Raises ConnectionLost, StatementFailed, UnfitServer.
    """
    connection = await Connection.open(conninfo, Settings())
    retention_ms = int(keys_s * 1_000).to_bytes(8, "big")
    count = 0
    try:
        while True:
            swept = await connection.execute(sql.SWEEP_REQUESTS, [retention_ms])
            count += swept.count
            if swept.count < _MOST:
                return count
    finally:
        connection.close()
