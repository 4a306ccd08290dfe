"""Loads and commits in batches: what `transition` calls the store.

`load_state` answers from the cache or parks at the gate of loads; `store_state` parks at the gate of
commits, or, when nothing is to be committed and the state came from the cache, at the gate of loads with
a check that it is still the newest. Gatherers with a connection each serve the gates. While PostgreSQL is
away everything stays parked: the node's sweep answers callers at their deadline and calls `sweep` here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import attrs
import trio

from inversion.config import Limits
from inversion.errors import Abandoned, Code, Conflict, Overrun, RuntimeBroken
from inversion.gate import Gate, Walk
from inversion.ids import new_id_bytes
from inversion.messages import NO_STATE, Address, Answer, Change, MessageOut, State, Stored, Turn
from inversion.observe.metrics import Counters
from inversion.state import migrate, rows, sql
from inversion.state.cache import StateCache
from inversion.state.committer import Committer
from inversion.state.lane import Backoff, Lane, Log
from inversion.state.postgres import Connection, ConnectionLost, Settings, StatementFailed, refused
from inversion.state.resolver import LOCKED, TRANSIENT, Resolver
from inversion.state.rows import Check, Commit

_MOST_LOADS: Final = 64
#: What a gathered load should bring at most, by the average of those before it.
_LOAD_BYTES: Final = 4 << 20
#: How often idle connections are looked at: a dead one makes the node not ready.
_LOOK_INTERVAL_S: Final = 1.0


@attrs.define(slots=True, eq=False)
class _Read:
    """Somebody wants to look at an entity; no turn."""

    address: Address
    forsaken: bool = False
    state: State | None = None
    error: Exception | None = None


_Loading = Turn | _Read | Check
_LoadWalk = Walk[_Loading, State]


def _quiet(_sentence: str) -> None:
    """Says nothing."""


class PostgresStore:
    """The store of one node. `run` it as a task; the rest is called by turns and the node's sweep."""

    def __init__(
        self,
        conninfo: str,
        limits: Limits,
        *,
        loaders: int = 1,
        committers: int = 2,
        log: Log = _quiet,
        counters: Counters | None = None,
    ) -> None:
        self._limits = limits
        self._log = log
        self._counters = counters or Counters()
        settings = Settings()
        self._load_lanes = [Lane(conninfo, settings, (sql.LOAD, sql.OUTDATED), log) for _ in range(loaders)]
        self._commit_lanes = [
            Lane(conninfo, settings, (sql.COMMIT, sql.UNLOCKED), log) for _ in range(committers)
        ]
        self._resolver = Resolver(Lane(conninfo, settings, (sql.COMMIT, sql.FIND), log))
        self._loads: Gate[_Loading, State] = Gate()
        self._commits: Gate[Commit, None] = Gate()
        self._average_state_bytes = 0.0
        self._looked_s = 0.0
        self.cache = StateCache(limits.cache_bytes)

    @property
    def available(self) -> bool:
        """Whether a connection is up."""
        return any(lane.up for lane in (*self._load_lanes, *self._commit_lanes))

    @property
    def waiting(self) -> int:
        """How many turns and reads wait for a statement to take them along."""
        return len(self._loads.waiting) + len(self._commits.waiting)

    @property
    def doubtful(self) -> int:
        """How many commits have an outcome that is not known yet."""
        return self._resolver.doubtful

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; started when the first connection was verified.

        Waits for a database that is away. Raises UnfitServer, NotMigrated, SchemaTooNew, SchemaChanged.
        """
        try:
            await self._open_first(self._load_lanes[0])
            async with trio.open_nursery() as nursery:
                for lane in self._load_lanes:
                    nursery.start_soon(self._load_forever, lane)
                for lane in self._commit_lanes:
                    nursery.start_soon(Committer(lane, self._commits, self._resolver, self._counters).run)
                nursery.start_soon(self._resolver.run)
                task_status.started()
        finally:
            for lane in (*self._load_lanes, *self._commit_lanes):
                lane.close()

    def sweep(self, now_s: float) -> None:
        """Let go of what nobody waits for any more; now and then look at idle connections."""
        self._loads.withdraw(_forsaken, Abandoned)
        self._commits.withdraw(_forsaken, Abandoned)
        self._resolver.sweep()
        if now_s - self._looked_s >= _LOOK_INTERVAL_S:
            self._looked_s = now_s
            for lane in (*self._load_lanes, *self._commit_lanes):
                lane.look()

    async def load_state(self, turn: Turn) -> State:
        """Step 2. The state of the turn's entity, from the cache if it is there."""
        address = turn.address
        if address.key is None:
            return NO_STATE
        cached = self.cache.get(address)
        if cached is not None:
            self._counters.cache_hits += 1
            return cached
        self._counters.cache_misses += 1
        state = await self._loads.wait(turn)
        self.cache.put(address, State(state.value, state.version, state.turn))
        return state

    async def store_state(self, turn: Turn, state: State, out: MessageOut) -> Stored:
        """Step 5. One commit for the turn, or the check that its answers are not outdated."""
        address = turn.address
        answers = out.answers
        if address.key is None:
            return Stored(answers, [None] * len(answers), out.content_type)
        if out.change is Change.KEEP:
            if not state.fresh:
                await self._confirm(Check(turn, state.turn))
            return Stored(answers, [state.version] * len(answers), out.content_type)
        versions = _versions(state.version, answers)
        value = self._checked(out)
        commit = Commit(
            turn,
            address.function.encode(),
            address.key.encode(),
            versions[-1],
            new_id_bytes(),
            state.turn,
            value,
        )
        try:
            await self._commits.wait(commit)
        except Exception:
            self.cache.drop(address)
            raise
        self._counters.transitions += versions[-1] - state.version
        self.cache.put(address, State(value, versions[-1], commit.id))
        return Stored(answers, versions, out.content_type)

    async def read_state(self, address: Address) -> State:
        """The newest committed state, gathered with the loads. Called under trio; bounded by the caller."""
        read = _Read(address)
        done = trio.Event()

        async def wait_for_state() -> None:
            read.state = await self._loads.wait(read)

        def ended(error: Exception | None) -> None:
            read.error = error
            done.set()

        walk: _LoadWalk = Walk(wait_for_state(), ended)
        walk.start()
        try:
            await done.wait()
        finally:
            read.forsaken = True
        if read.error is not None:
            raise read.error
        assert read.state is not None
        return read.state

    async def _confirm(self, check: Check) -> None:
        try:
            await self._loads.wait(check)
        except Exception:
            self.cache.drop(check.address)
            raise

    def _checked(self, out: MessageOut) -> bytes | None:
        """The new state, fit for a text column: within the limit, UTF-8, no NUL."""
        if out.change is Change.DELETE:
            return None
        value = out.state
        if value is None:
            raise ValueError("a message-out that puts the state must carry one")
        if len(value) > self._limits.state_bytes:
            raise Overrun(
                Code.STATE_TOO_LARGE,
                f"the new state has {len(value)} bytes, the limit is {self._limits.state_bytes}",
            )
        if 0 in value or not (value.isascii() or _is_utf8(value)):
            raise RuntimeBroken(Code.PROTOCOL_ERROR, "the new state is not UTF-8 text, or holds a raw NUL")
        return value

    async def _open_first(self, lane: Lane) -> None:
        backoff = Backoff()
        complaint = ""
        while True:
            try:
                await lane.open(migrate.check)
                return
            except (ConnectionLost, StatementFailed) as failure:
                if complaint != (complaint := f"no database yet: {failure}"):
                    self._log(complaint)
                await backoff.pause()

    async def _load_forever(self, lane: Lane) -> None:
        while True:
            connection = await lane.connected()
            most = int(_LOAD_BYTES / (self._average_state_bytes + 1))
            walks = await lane.gather(self._loads, max(1, min(most, _MOST_LOADS)))
            checks = [walk for walk in walks if isinstance(walk.item, Check)]
            loads = [walk for walk in walks if not isinstance(walk.item, Check)] if checks else walks
            if loads:
                await self._load(connection, loads)
            if checks:
                await self._check(connection, checks)

    async def _load(self, connection: Connection, walks: Sequence[_LoadWalk]) -> None:
        addresses = [walk.item.address for walk in walks]
        try:
            found = await connection.execute(sql.LOAD, rows.load_parameters(addresses))
        except ConnectionLost:
            self._park(walks)
        except StatementFailed as failure:
            if len(walks) > 1 and failure.sqlstate != LOCKED:
                half = len(walks) // 2
                await self._load(connection, walks[:half])
                await self._load(connection, walks[half:])
            else:
                await self._refused(walks, failure)
        else:
            self._counters.load_batches += 1
            self._counters.loads += len(walks)
            for walk, state in zip(walks, rows.loaded_states(found, len(walks)), strict=True):
                self._average_state_bytes += (len(state.value or b"") - self._average_state_bytes) / 64
                walk.resume(state)

    async def _check(self, connection: Connection, walks: Sequence[_LoadWalk]) -> None:
        checks = [walk.item for walk in walks if isinstance(walk.item, Check)]
        try:
            found = await connection.execute(sql.OUTDATED, rows.check_parameters(checks))
        except ConnectionLost:
            self._park(walks)
        except StatementFailed as failure:
            await self._refused(walks, failure)
        else:
            self._counters.checks += len(walks)
            outdated = set(rows.places(found)) if found.count else ()
            for place, walk in enumerate(walks):
                if place in outdated:
                    walk.throw(Conflict())
                else:
                    walk.resume(NO_STATE)

    async def _refused(self, walks: Sequence[_LoadWalk], failure: StatementFailed) -> None:
        if failure.sqlstate not in TRANSIENT:
            for walk in walks:
                walk.throw(refused("to read the state", failure))
            return
        # The whole table is locked, say: reading takes no row locks. Their callers' deadlines decide.
        self._park(walks)
        await Backoff().pause()

    def _park(self, walks: Sequence[_LoadWalk]) -> None:
        for walk in walks:
            self._loads.park(walk)


def _forsaken(item: _Loading | Commit) -> bool:
    return item.forsaken


def _versions(version: int, answers: Sequence[Answer]) -> list[int]:
    """The version after each message; those that changed the state are versions of their own."""
    versions = []
    for answer in answers:
        version += answer.changed
        versions.append(version)
    return versions


def _is_utf8(value: bytes) -> bool:
    try:
        value.decode()
    except UnicodeDecodeError:
        return False
    return True
