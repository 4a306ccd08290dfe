"""One connection kept up for one gatherer: it reconnects and never gives up.

While there is no connection the gate's walks stay parked: the node's deadline sweep answers their callers.
The lanes of a store share a `Knocking`: while the database is away the node tries about once a second,
not once for each lane.
"""

from __future__ import annotations

import random
from collections.abc import Awaitable, Callable, Sequence
from time import perf_counter
from typing import Final, TypeVar

import trio

from inversion.gate import Bridge, GatheredGate, Walk
from inversion.state import sql
from inversion.state.dialing import ConnectionLost, Settings, UnfitServer
from inversion.state.postgres import Connection, StatementFailed
from inversion.watch import Watch

ItemT = TypeVar("ItemT")
ResultT = TypeVar("ResultT")

#: What a lane says to people: a sentence.
Log = Callable[[str], None]

_FIRST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 1.0
#: A statement takes milliseconds: after this the database is stalled, and others had better not count on it.
_SILENCE_S: Final = 3.0
#: Of one outage; a server may find ever new words.
_MOST_SENTENCES: Final = 20


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


class Knocking:
    """When the lanes of a store may try to connect, and what is said of it.

    While it works, whenever they like. When it fails their tries stand in line, 50 ms to 1 s apart; the
    first that succeeds lets the others go at once.
    """

    __slots__ = ("_log", "_next_s", "_opened", "_pause_s", "_said", "waited")

    def __init__(self, log: Log) -> None:
        self.waited = False  #: a try has failed in the life of this store
        self._log = log
        self._pause_s = 0.0
        self._next_s = 0.0
        self._opened = trio.Event()
        self._said: set[str] = set()

    async def turn(self) -> None:
        """Wait until a try may be made."""
        if self._pause_s:
            at_s = max(self._next_s, trio.current_time() + self._pause_s * random.uniform(0.8, 1.2))
            self._next_s = at_s + self._pause_s
            with trio.move_on_at(at_s):
                await self._opened.wait()

    def failed(self, failure: Exception, what: str) -> None:
        """A try failed."""
        self.waited = True
        self._pause_s = min(max(self._pause_s * 2, _FIRST_PAUSE_S), _LONGEST_PAUSE_S)
        self.say(f"{what}: {failure}")

    def succeeded(self) -> None:
        """A try succeeded."""
        if self._said:
            self._said.clear()
            self._log("the database is back")
        self._pause_s = self._next_s = 0.0
        self._opened.set()
        self._opened = trio.Event()

    def say(self, sentence: str) -> None:
        """Say it once, not at every try."""
        if sentence not in self._said and len(self._said) < _MOST_SENTENCES:
            self._said.add(sentence)
            self._log(sentence)


class Lane:
    """A connection with `statements` prepared. One walk uses it; `look` and `sweep` are the node's."""

    def __init__(
        self,
        conninfo: str,
        settings: Settings,
        statements: Sequence[sql.Statement],
        watch: Watch,
        log: Log,
        knocking: Knocking,
    ):
        self._conninfo = conninfo
        self._settings = settings
        self._statements = statements
        self._watch = watch
        self._log = log
        self._knocking = knocking
        self._connection: Connection | None = None
        self._idle = False
        self._warned: set[str] = set()

    @property
    def up(self) -> bool:
        return self._connection is not None and not self._connection.closed

    @property
    def answers(self) -> bool:
        """Whether it is up and, if something was asked, not silent for long."""
        connection = self._connection
        if connection is None or connection.closed:
            return False
        asked_s = connection.deadline_s - self._settings.reply_timeout_s
        return self._idle or perf_counter() < asked_s + _SILENCE_S

    async def connected(self, bridge: Bridge) -> Connection:
        """For a walk: the connection, opened anew if need be; tries until there is one."""
        if self._connection is None or self._connection.closed:
            return await bridge.run(self._reconnect)
        return self._connection

    async def open(
        self, check: Callable[[Connection], Awaitable[object]] | None = None, *, explain: bool = False
    ) -> Connection:
        """For a trio task: one try. The connection that comes of it is for walks.

        Raises ConnectionLost, StatementFailed, UnfitServer, or what `check` raises.
        """
        connection = await Connection.open(self._conninfo, self._settings, explain=explain)
        try:
            if check is not None:
                await check(connection)
            for statement in self._statements:
                await connection.prepare(statement)
        except BaseException:
            connection.close()
            raise
        for warning in connection.warnings:
            if warning not in self._warned:
                self._warned.add(warning)
                self._log(warning)
        self._knocking.succeeded()
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
        if self._connection is not None and self._connection.farewell:
            self._knocking.say(f"a connection to the database ended: {self._connection.farewell}")
        while True:
            await self._knocking.turn()
            try:
                return await self.open()
            except (ConnectionLost, StatementFailed, UnfitServer) as failure:
                self._knocking.failed(failure, "no database")
