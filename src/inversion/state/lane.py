"""One connection kept up for one gatherer: it reconnects with back-off and never gives up.

While there is no connection the gate's walks stay parked: the node's deadline sweep answers their callers.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeVar

import trio

from inversion.gate import Bridge, GatheredGate, Walk
from inversion.state import sql
from inversion.state.postgres import Connection, ConnectionLost, Settings, StatementFailed, UnfitServer
from inversion.watch import Watch

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

#: What a lane says to people: a sentence.
Log = Callable[[str], None]

_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 1.0


class Backoff:
    """Pauses that grow from 50 ms to 1 s, with jitter so that a fleet does not knock in step."""

    __slots__ = ("_pause_s",)

    def __init__(self) -> None:
        self._pause_s = _FIRST_PAUSE_S

    def reset(self) -> None:
        self._pause_s = _FIRST_PAUSE_S

    async def pause(self) -> None:
        await trio.sleep(self._pause_s * random.uniform(0.5, 1.0))
        self._pause_s = min(self._pause_s * 2, _LONGEST_PAUSE_S)


class Lane:
    """A connection with `statements` prepared. One walk uses it; `look` and `sweep` are the node's."""

    def __init__(
        self, conninfo: str, settings: Settings, statements: Sequence[sql.Statement], watch: Watch, log: Log
    ):
        self._conninfo = conninfo
        self._settings = settings
        self._statements = statements
        self._watch = watch
        self._log = log
        self._connection: Connection | None = None
        self._idle = False
        self._complaint = ""

    @property
    def up(self) -> bool:
        return self._connection is not None and not self._connection.closed

    async def connected(self, bridge: Bridge) -> Connection:
        """For a walk: the connection, opened anew if need be; tries until there is one."""
        if self._connection is None or self._connection.closed:
            return await bridge.run(self._reconnect)
        return self._connection

    async def open(self, check: Callable[[Connection], Awaitable[None]] | None = None) -> Connection:
        """For a trio task: one try. The connection that comes of it is for walks.

        Raises ConnectionLost, StatementFailed, UnfitServer, or what `check` raises.
        """
        connection = await Connection.open(self._conninfo, self._settings)
        try:
            if check is not None:
                await check(connection)
            for statement in self._statements:
                await connection.prepare(statement)
        except BaseException:
            connection.close()
            raise
        for warning in connection.warnings:
            self._complain(warning)
        if self._complaint.startswith("no database"):
            self._complain("the database is back")
        connection.hand_over(self._watch)
        self._connection = connection
        return connection

    async def gather(self, gate: GatheredGate[ItemT, ResultT], most: int) -> list[Walk[ItemT, ResultT]]:
        """Wait for walks; none when the connection may have been lost meanwhile."""
        self._idle = True
        walks = await gate.gather(most)
        self._idle = False
        return walks

    def look(self) -> bool:
        """Whether all is well. If not, stir the gate: a new connection is there before it is needed."""
        return not self._idle or self._connection is None or self._connection.alive()

    def sweep(self, now_s: float) -> None:
        """Give up a statement that has had no reply for too long."""
        if self._connection is not None:
            self._connection.sweep(now_s)

    def close_if_dead(self) -> None:
        """For a connection that nobody uses just now."""
        if self._connection is not None and not self._connection.closed:
            self._connection.alive()  # closes it if it is not

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()

    async def _reconnect(self) -> Connection:
        backoff = Backoff()
        while True:
            try:
                return await self.open()
            except (ConnectionLost, StatementFailed, UnfitServer) as failure:
                self._complain(f"no database: {failure}")
                await backoff.pause()

    def _complain(self, sentence: str) -> None:
        """Say it once, not at every try."""
        if sentence != self._complaint:
            self._complaint = sentence
            self._log(sentence)
