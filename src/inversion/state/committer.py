"""Gathers the commits of turns into one statement each time: what waits goes along, nothing lingers.

Entities in a batch are distinct, for a node has one turn of an entity in flight. Commits of locked rows go
on alone (resolver); any other batch that the server refuses is halved until the member at fault stands
alone. Idempotency-Keys are taken for new, without a look, until one was not: then each is looked up for a
while.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Final

from inversion.errors import Abandoned, Conflict, Outrun
from inversion.gate import Bridge, GatheredGate
from inversion.observe.metrics import Counters
from inversion.state import rows, sql
from inversion.state.dialing import ConnectionLost
from inversion.state.lane import Lane
from inversion.state.postgres import Connection, Rows, StatementFailed, refused
from inversion.state.resolver import LOCKED, TRANSIENT, CommitWalk, Resolver
from inversion.state.rows import Commit

#: Measured: beyond 64 rows a batch gains nothing and its members wait longer.
_MOST_ROWS: Final = 64
#: Larger states than this in sum: several statements, so that small neighbours need not wait for all.
_MOST_BYTES: Final = 4 << 20
#: Not about any member of the batch: privileges, a missing table, a full disk. No use in halving.
_OF_THE_SERVER: Final = ("28", "3D", "3F", "42", "53", "58")
#: A key that was not new costs its batch a second statement and the server's log an error. Looking costs a
#: keyed commit a seventh of the server's work: where keys come again all the time it is cheaper.
_LOOKS_S: Final = 10.0
_KEY_USED: Final = "23505"
_READ_ONLY: Final = "25006"  #: the server became a standby under us


class Committer:
    """Takes from the gate of commits, over one connection; several share a gate. `run` is a walk."""

    def __init__(
        self, lane: Lane, gate: GatheredGate[Commit, None], resolver: Resolver, counters: Counters
    ) -> None:
        self._lane = lane
        self._gate = gate
        self._resolver = resolver
        self._counters = counters
        self._looks_until_s = 0.0  #: keys are looked up

    async def run(self, bridge: Bridge) -> None:
        while True:
            connection = await self._lane.connected(bridge)
            walks = await self._lane.gather(self._gate, _MOST_ROWS)
            if walks:
                walks = self._cut(walks)
                if connection.alive():
                    await self._commit(connection, walks)
                else:
                    self._park(walks)

    def _cut(self, walks: list[CommitWalk]) -> list[CommitWalk]:
        """Keep what fits into one statement, the rest goes back."""
        room_bytes = _MOST_BYTES
        timers: set[tuple[bytes, bytes, bytes]] = set()
        for place, walk in enumerate(walks):
            room_bytes -= len(walk.item.state or b"")
            consequences = walk.item.consequences
            if consequences is not None:
                room_bytes -= consequences.weight_bytes
                if consequences.touched:
                    # One statement cannot change a row twice: a timer is consumed here and cancelled there.
                    if not timers.isdisjoint(consequences.touched):
                        room_bytes = -1
                    timers.update(consequences.touched)
            if room_bytes < 0 < place:
                self._park(walks[place:])
                return walks[:place]
        return walks

    def _park(self, walks: Sequence[CommitWalk]) -> None:
        for walk in walks:
            self._gate.park(walk)

    async def _commit(
        self, connection: Connection, walks: Sequence[CommitWalk], *, looks: bool = False
    ) -> None:
        sending: list[CommitWalk] = []
        for walk in walks:
            turn = walk.item.turn
            if turn.abandoned:  # a 504 has gone out and said `not_applied`
                walk.throw(Abandoned())
            else:
                turn.commit_sent = True
                sending.append(walk)
        if not sending:
            return
        try:
            statement, parameters = rows.commit_statement(
                [walk.item for walk in sending], looks=looks or perf_counter() < self._looks_until_s
            )
            sent = await connection.execute(statement, parameters)
        except ConnectionLost as lost:
            self._counters.database_losses += 1
            if lost.sent:
                self._counters.unknown_outcomes += len(sending)
                self._resolver.doubt(sending)
            else:
                _not_sent(sending)
                self._park(sending)
        except StatementFailed as failure:
            _not_sent(sending)
            if statement is sql.COMMIT_KEYED_NEW and failure.sqlstate == _KEY_USED:
                self._looks_until_s = perf_counter() + _LOOKS_S
                await self._commit(connection, sending, looks=True)
            else:
                await self._refused(connection, sending, failure)
        else:
            self._counters.commit_batches += 1
            self._counters.commits += len(sending)
            if sent.warned:
                self._counters.unknown_outcomes += len(sending)
                self._resolver.doubt(sending)
            else:
                _settle(sending, statement, sent)

    async def _refused(
        self, connection: Connection, walks: Sequence[CommitWalk], failure: StatementFailed
    ) -> None:
        if failure.sqlstate == _READ_ONLY:
            connection.close()
            self._park(walks)
        elif failure.sqlstate.startswith(_OF_THE_SERVER):
            for walk in walks:
                walk.throw(refused("the commit", failure))
        elif (
            failure.sqlstate == LOCKED
            and len(walks) > 1
            and (locked := await self._locked(connection, walks))
        ):
            for walk in locked:
                self._resolver.wait_out(walk)
            await self._commit(connection, [walk for walk in walks if walk not in locked])
        elif len(walks) > 1:
            half = len(walks) // 2
            await self._commit(connection, walks[:half])
            await self._commit(connection, walks[half:])
        elif failure.sqlstate in TRANSIENT:
            self._resolver.wait_out(walks[0])
        else:
            walks[0].throw(refused("the commit", failure))

    async def _locked(self, connection: Connection, walks: Sequence[CommitWalk]) -> set[CommitWalk]:
        """Those whose row somebody else has locked: found at once, halving would wait for each half."""
        try:
            free = await connection.execute(sql.UNLOCKED, rows.find_parameters([walk.item for walk in walks]))
        except StatementFailed:
            return set(walks)  # the whole table
        except ConnectionLost:
            return set()
        unlocked = set(rows.places(free))
        return {
            walk
            for place, walk in enumerate(walks)
            if place not in unlocked and walk.item.replaced is not None
        }


def _not_sent(walks: Sequence[CommitWalk]) -> None:
    for walk in walks:
        walk.item.turn.commit_sent = False


def _settle(walks: Sequence[CommitWalk], statement: sql.Statement, sent: Rows) -> None:
    if sent.count == len(walks) and (statement not in sql.SAYING or rows.all_applied(sent)):
        for walk in walks:
            walk.resume(None)
        return
    applied, outrun = rows.applied_of(statement, sent)
    for walk in walks:
        if walk.item.id in applied:
            walk.resume(None)
        else:
            walk.item.turn.commit_sent = False
            walk.throw(Outrun() if walk.item.id in outrun else Conflict())
