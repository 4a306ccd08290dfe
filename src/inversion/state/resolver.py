"""Commits whose outcome is not known yet, and commits that wait for a locked row.

Each keeps its turn parked, so its entity takes no other. An unknown one is sent again, identical, on a
connection of ours (it waits on the row while the old backend may still be at work), then looked up under
a row lock; `decide` is storage.md's table for what is found. Tried on until nobody waits for it any more.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import Enum
from functools import partial
from typing import Final, assert_never

from inversion.errors import Abandoned, Code, Conflict, InversionError, Outcome, Outrun
from inversion.gate import Bridge, Gate, Walk
from inversion.state import rows, sql
from inversion.state.dialing import ConnectionLost
from inversion.state.lane import Backoff, Lane
from inversion.state.postgres import Connection, StatementFailed, refused
from inversion.state.rows import Commit

CommitWalk = Walk[Commit, None]

LOCKED: Final = "55P03"  #: lock_not_available
#: Refusals that a later try may not meet: a locked row, a deadlock, a statement that took too long.
TRANSIENT: Final = (LOCKED, "40001", "40P01", "57014")
#: As many as a gathered commit has.
_MOST: Final = 64


class Finding(Enum):
    """What became of a commit."""

    APPLIED = "applied"
    NEVER_LANDS = "never lands"  #: another turn took its slot: run again
    SEND_AGAIN = "send again"  #: what it was to replace is still there
    UNKNOWN = "unknown"  #: the entity moved on too far to tell


def decide(
    turn: bytes,
    replaced: bytes | None,
    *,
    returned: bool,
    row: tuple[bytes, bytes | None] | None,
    keyed: bool = False,
    record: bytes | None = None,
    consumes: bool = False,
    outrun: bool = False,
) -> Finding:
    """The table: `row` is the entity's (turn, prev), read under a lock after the commit was sent again.

    `record` is the turn that answered one of its keys, read after that; `keyed`: it would have left one.
    `outrun`: not all that it consumes is there any more, when it was sent again.
    """
    if returned or record == turn:
        return Finding.APPLIED
    if record is not None:
        return Finding.NEVER_LANDS  # run again, it finds the record and replays it
    if row is None and replaced is None:
        # Of no entity: gone by this turn or by another. Whoever delivers finds the same either way.
        return Finding.UNKNOWN if outrun else Finding.SEND_AGAIN
    newest, before = row or (None, None)
    if turn in (newest, before):
        return Finding.APPLIED
    if row is not None and newest == replaced:
        return Finding.NEVER_LANDS if outrun else Finding.SEND_AGAIN
    if row is not None and before == replaced:
        return Finding.NEVER_LANDS
    if consumes and not outrun:
        return Finding.NEVER_LANDS  # what it consumes is still there: deliver again
    return Finding.NEVER_LANDS if keyed else Finding.UNKNOWN


def unknown(detail: str) -> InversionError:
    return InversionError(Code.DEADLINE, detail, outcome=Outcome.UNKNOWN)


class Resolver:
    """A walk of its own with a connection of its own, opened when there is something to resolve."""

    def __init__(self, lane: Lane, later: Callable[[Callable[[], None]], None]) -> None:
        self._lane = lane
        self._later = later
        self._doubtful: dict[CommitWalk, None] = {}
        self._stuck: dict[CommitWalk, None] = {}
        self._idle: Gate[None, None] = Gate()

    @property
    def doubtful(self) -> int:
        """How many commits have an unknown outcome."""
        return len(self._doubtful)

    def doubt(self, walks: Iterable[CommitWalk]) -> None:
        """Take commits that were sent and whose outcome is unknown."""
        self._doubtful.update(dict.fromkeys(walks))
        self._call()

    def wait_out(self, walk: CommitWalk) -> None:
        """Take a commit that was refused for now: it goes on alone, the others need not wait for it."""
        self._stuck[walk] = None
        self._call()

    def sweep(self) -> None:
        """Let those go that nobody waits for any more."""
        for walk in [walk for walk in self._doubtful if walk.item.forsaken]:
            del self._doubtful[walk]
            walk.throw(unknown("the commit's outcome was not known at the deadline"))
        for walk in [walk for walk in self._stuck if walk.item.forsaken]:
            del self._stuck[walk]
            walk.throw(Abandoned())

    def look(self) -> None:
        """While it rests, a connection that has died is let go of."""
        if self._idle.waiting:
            self._lane.close_if_dead()

    async def run(self, bridge: Bridge) -> None:
        backoff = Backoff()
        while True:
            while not (self._doubtful or self._stuck):
                await self._idle.wait(None)
                backoff.reset()
            connection = await self._lane.connected(bridge)
            before = len(self._doubtful) + len(self._stuck)
            try:
                await self._resolve(connection)
                await self._try_stuck(connection)
            except ConnectionLost:
                self._lane.close()
            if 0 < before <= len(self._doubtful) + len(self._stuck):
                await bridge.run(backoff.pause)

    def _call(self) -> None:
        for walk in self._idle.take(1):
            self._later(partial(walk.resume, None))

    async def _resolve(self, connection: Connection) -> None:
        walks = list(self._doubtful)[:_MOST]
        if not walks:
            return
        try:
            await self._resolve_together(connection, walks)
        except StatementFailed:
            # One row is locked, say: each for itself, and what fails stays for the next pass.
            for walk in walks:
                if walk not in self._doubtful:
                    continue  # the sweep has said `unknown` of it: nothing is sent for it any more
                try:
                    await self._resolve_together(connection, [walk])
                except StatementFailed:
                    if walk in self._doubtful:  # to the end of the line
                        del self._doubtful[walk]
                        self._doubtful[walk] = None

    async def _resolve_together(self, connection: Connection, walks: Sequence[CommitWalk]) -> None:
        commits = [walk.item for walk in walks]
        statement, parameters = rows.commit_statement(commits)
        sent = await connection.execute(statement, parameters)
        if sent.warned:
            return
        returned, outrun = rows.applied_of(statement, sent)
        found: Mapping[int, tuple[bytes, bytes | None]] = {}
        records: dict[int, bytes] = {}
        if len(returned) < len(commits):
            rest = await connection.execute(sql.FIND, rows.find_parameters(commits))
            if rest.warned:
                return
            found = {
                place: (rest.value(row, 1) or b"", rest.value(row, 2))
                for row, place in enumerate(rows.places(rest))
            }
            keys = rows.keys_of(
                [(place, commit.turn) for place, commit in enumerate(commits) if commit.records]
            )
            if keys:  # under the row locks of the answer before, or later
                kept = await connection.execute(sql.RECORDED, rows.recorded_parameters(keys))
                records = {keys[at].place: one.turn for at, one in rows.recorded(kept).items()}
        for place, walk in enumerate(walks):
            commit = walk.item
            finding = decide(
                commit.id,
                commit.replaced,
                returned=commit.id in returned,
                row=found.get(place),
                keyed=any(request.idempotency is not None for request in commit.turn.requests),
                record=records.get(place),
                consumes=commit.consequences is not None and commit.consequences.consumed > 0,
                outrun=commit.id in outrun,
            )
            self._settle(walk, finding)

    def _settle(self, walk: CommitWalk, finding: Finding) -> None:
        if finding is Finding.SEND_AGAIN or walk not in self._doubtful:
            return
        del self._doubtful[walk]
        match finding:
            case Finding.APPLIED:
                walk.resume(None)
            case Finding.NEVER_LANDS:
                walk.item.turn.commit_sent = False
                walk.throw(Conflict())
            case Finding.UNKNOWN:
                walk.throw(unknown("the connection broke in a commit and the entity has moved on"))
            case _:
                assert_never(finding)

    async def _try_stuck(self, connection: Connection) -> None:
        for walk in list(self._stuck):
            if walk not in self._stuck:
                continue
            turn = walk.item.turn
            if turn.abandoned:
                del self._stuck[walk]
                walk.throw(Abandoned())
                continue
            turn.commit_sent = True
            try:
                statement, parameters = rows.commit_statement([walk.item])
                sent = await connection.execute(statement, parameters)
            except StatementFailed as failure:
                turn.commit_sent = False
                if failure.sqlstate not in TRANSIENT and self._leaves(walk):
                    walk.throw(refused("the commit", failure))
            except ConnectionLost as lost:
                if lost.sent and self._leaves(walk):
                    self._doubtful[walk] = None
                elif not lost.sent:
                    turn.commit_sent = False
                raise
            else:
                if self._leaves(walk):
                    applied, outrun = rows.applied_of(statement, sent)
                    if sent.warned:
                        self._doubtful[walk] = None
                    elif applied:
                        walk.resume(None)
                    else:
                        turn.commit_sent = False
                        walk.throw(Outrun() if outrun else Conflict())

    def _leaves(self, walk: CommitWalk) -> bool:
        """Whether it was still here: the sweep may have let it go while its statement ran."""
        if walk not in self._stuck:
            return False
        del self._stuck[walk]
        return True
