"""Loads and commits in batches: what `transition` calls the store.

`load_state` answers from the cache or parks at the gate of loads; `store_state` parks at the gate of
commits, or, when nothing is to be committed and the state came from the cache, at the gate of loads with
a check that it is still the newest. Gatherers with a connection each serve the gates: walks, so that a
commit costs no switch of trio tasks. While PostgreSQL is away everything stays parked: the node's sweep
answers callers at their deadline and calls `sweep` here.
"""

from __future__ import annotations

from collections.abc import Coroutine, Sequence
from functools import partial
from math import inf
from typing import Final

import trio

from inversion.config import Limits
from inversion.errors import Abandoned, Code, Overrun, RuntimeBroken
from inversion.gate import Bridge, GatheredGate, Walk
from inversion.ids import new_turn_id
from inversion.messages import NO_STATE, Address, Answer, Change, MessageOut, State, Stored, Turn
from inversion.observe.metrics import Counters
from inversion.state import migrate, sql
from inversion.state.cache import StateCache
from inversion.state.committer import Committer
from inversion.state.consequences import Births, consequences_of, versions_with
from inversion.state.dialing import ConnectionLost, Settings, UnfitServer
from inversion.state.lane import Knocking, Lane, Log
from inversion.state.loader import Loader, Loading, Read, Readers
from inversion.state.postgres import Connection, StatementFailed
from inversion.state.resolver import Resolver
from inversion.state.rows import STATELESS_KEY, Check, Commit, records_of
from inversion.state.sending import Sender
from inversion.state.sweeper import KEPT, Kept, sweep_for_ever
from inversion.watch import Watch

#: Members of an Enum are looked up slowly, and this is for each turn.
_KEEP: Final = Change.KEEP
#: How often idle connections are looked at: a dead one makes the node not ready.
_LOOK_INTERVAL_S: Final = 1.0


def _quiet(_sentence: str) -> None:
    """Says nothing."""


class PostgresStore:
    """The store of one node. `run` it as a task; the rest is called by turns and the node's sweep."""

    def __init__(
        self,
        conninfo: str,
        limits: Limits,
        watch: Watch,
        *,
        loaders: int = 1,
        committers: int = 2,
        kept: Kept = KEPT,
        log: Log = _quiet,
        counters: Counters | None = None,
    ) -> None:
        self._conninfo = conninfo
        self._kept = kept
        self._limits = limits
        self._log = log
        self._counters = counters or Counters()
        self._watch = watch
        self.knocking = Knocking(log)  #: also for whoever else of this node connects
        lane = partial(Lane, conninfo, Settings(), watch=watch, log=log, knocking=self.knocking)
        self._load_lanes = [lane((sql.LOAD, sql.OUTDATED, sql.RECORDED)) for _ in range(loaders)]
        commits = (sql.COMMIT, sql.COMMIT_ONE, sql.COMMIT_KEYED, sql.COMMIT_KEYED_EACH, *sql.SAYING)
        self._commit_lanes = [lane((*commits, sql.COMMIT_KEYED_NEW, sql.UNLOCKED)) for _ in range(committers)]
        self._resolver_lane = lane((*commits, sql.FIND, sql.RECORDED))
        self._resolver = Resolver(self._resolver_lane, watch.later)
        self._loads: GatheredGate[Loading, State] = GatheredGate(watch.later)
        self._commits: GatheredGate[Commit, None] = GatheredGate(watch.later)
        self._readers = Readers(self._loads)
        self.sender = Sender(
            lane((sql.SEND, sql.RECORDED)), GatheredGate(watch.later), limits.queue.function, self._counters
        )
        self.births: Births | None = None  #: who runs messages at once that are born here; None: nobody
        self._looked_s = 0.0
        self._newer: Sequence[str] = ()  #: migrations that this release does not know
        self.cache = StateCache(limits.cache_bytes)

    @property
    def available(self) -> bool:
        """Whether turns can be loaded and committed."""
        return all(any(lane.answers for lane in lanes) for lanes in (self._load_lanes, self._commit_lanes))

    @property
    def waiting(self) -> int:
        """How many turns and reads wait for a statement to take them along."""
        return len(self._loads.waiting) + len(self._commits.waiting)

    @property
    def doubtful(self) -> int:
        """How many commits have an outcome that is not known yet."""
        return self._resolver.doubtful

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; started when the first connections were verified.

        Waits for a database that is away. Raises UnfitServer, NotMigrated, SchemaTooNew, SchemaChanged.
        """
        gatherers = _Gatherers()
        try:
            await self._open_first(self._load_lanes[0])
            await self._open_first(self._commit_lanes[0])
            for name in self._newer:
                self._log(f"the database has migration {name} of a newer inversion: this one may serve it")
            async with trio.open_nursery() as nursery:
                bridge = Bridge(nursery)
                for lane in self._load_lanes:
                    gatherers.start(Loader(lane, self._loads, self._counters).run(bridge))
                for lane in self._commit_lanes:
                    committer = Committer(lane, self._commits, self._resolver, self._counters)
                    gatherers.start(committer.run(bridge))
                gatherers.start(self._resolver.run(bridge))
                gatherers.start(self.sender.run(bridge))
                nursery.start_soon(sweep_for_ever, self._conninfo, self._kept, self._log)
                task_status.started()
                await gatherers.failure()
        finally:
            gatherers.close()
            for lane in (*self._load_lanes, *self._commit_lanes, self._resolver_lane):
                lane.close()
            self.sender.close()

    def dismiss_readers(self) -> None:
        """Let go of everybody who only wants to look."""
        self._readers.sweep(inf)

    def sweep(self, now_s: float) -> None:
        """Let go of what nobody waits for any more; now and then look at idle connections."""
        self._readers.sweep(now_s)
        self._loads.withdraw(_forsaken, Abandoned)
        self._commits.withdraw(_forsaken, Abandoned)
        self._resolver.sweep()
        self.sender.sweep(now_s)
        for lane in (*self._load_lanes, *self._commit_lanes, self._resolver_lane):
            lane.sweep(now_s)
        if now_s - self._looked_s >= _LOOK_INTERVAL_S:
            self._looked_s = now_s
            for lane in self._load_lanes:
                if not lane.look():
                    self._loads.stir()
            for lane in self._commit_lanes:
                if not lane.look():
                    self._commits.stir()
            self._resolver.look()
            self.sender.look()

    async def load_state(self, turn: Turn) -> State:
        """Step 2. The state of the turn's entity, from the cache if it is there."""
        address = turn.address
        if address.key is None:
            if turn.requests[0].idempotency is None:
                return NO_STATE
            return await self._loads.wait(turn)
        cached = self.cache.get(address)
        if cached is not None and not turn.looks:
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
        keyed = _keyed(turn)
        if _talks(turn, answers):
            return await self._store_with_messages(turn, state, out)
        if address.key is None:
            if keyed:
                await self._record(turn, out)
            return Stored(answers, [None] * len(answers), out.content_type)
        if out.change is not _KEEP:
            versions = _versions(state.version, answers)
            value = self._checked(out)
        elif keyed:  # the answer is kept, and whatever is kept changes the turn
            versions, value = [state.version] * len(answers), state.value
        else:
            if not state.fresh:
                await self._confirm(Check(turn, state.turn))
            return Stored(answers, [state.version] * len(answers), out.content_type)
        commit = Commit(
            turn,
            address.function.encode(),
            address.key.encode(),
            versions[-1],
            new_turn_id(),
            state.turn,
            value,
            records_of(turn, answers, versions, out.content_type) if keyed else (),
        )
        try:
            await self._commits.wait(commit)
        except Exception:
            self.cache.drop(address)
            raise
        self._counters.transitions += versions[-1] - state.version
        self.cache.put(address, State(value, versions[-1], commit.id))
        return Stored(answers, versions, out.content_type)

    async def _store_with_messages(self, turn: Turn, state: State, out: MessageOut) -> Stored:
        """Step 5 of a turn that consumes or causes messages: it always commits, errors too."""
        address, answers = turn.address, out.answers
        versions = versions_with(turn, state.version, answers)
        value = state.value if out.change is _KEEP else self._checked(out)
        made = consequences_of(turn, answers, versions, self.births, out.content_type)
        commit = Commit(
            turn,
            address.function.encode(),
            STATELESS_KEY if address.key is None else address.key.encode(),
            versions[-1],
            new_turn_id(),
            state.turn,
            value,
            records_of(turn, answers, versions, out.content_type),
            made,
        )
        try:
            await self._commits.wait(commit)
        except Exception:
            if address.key is not None:
                self.cache.drop(address)
            raise
        if address.key is not None:
            self._counters.transitions += versions[-1] - state.version
            self.cache.put(address, State(value, versions[-1], commit.id))
        if self.births is not None:
            if made.leased:
                self.births.born(made.leased)
            if made.due:
                self.births.stir()
        if address.key is None:
            return Stored(answers, [None] * len(answers), out.content_type)
        return Stored(answers, versions, out.content_type)

    async def read_state(self, address: Address, deadline_s: float) -> State:
        """For a walk: the newest committed state, gathered with the loads.

        Raises StoreUnavailable when the deadline (perf_counter) has passed.
        """
        return await self._readers.wait(Read(address, deadline_s))

    async def _record(self, turn: Turn, out: MessageOut) -> None:
        """Keep the answer to a stateless call. Raises Conflict when another was kept before."""
        records = records_of(turn, out.answers, [0], out.content_type)
        function = turn.address.function.encode()
        await self._commits.wait(Commit(turn, function, STATELESS_KEY, 0, new_turn_id(), None, None, records))

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

    async def _check(self, connection: Connection) -> None:
        self._newer = await migrate.check(connection)

    async def _open_first(self, lane: Lane) -> None:
        """Open a lane that the start waits for. A refusal that is the first word of all is a wrong URL."""
        while True:
            await self.knocking.turn()
            try:
                await lane.open(self._check, explain=not self.knocking.waited)
                return
            except (ConnectionLost, StatementFailed) as failure:
                if isinstance(failure, ConnectionLost) and failure.unwelcome and not self.knocking.waited:
                    raise UnfitServer(f"{failure}: check the database URL") from None
                self.knocking.failed(failure, "no database yet")


class _Gatherers:
    """The walks of one `run`."""

    def __init__(self) -> None:
        self._coroutines: list[Coroutine[object, object, None]] = []
        self._failed = trio.Event()
        self._error: Exception | None = None

    def start(self, coroutine: Coroutine[object, object, None]) -> None:
        self._coroutines.append(coroutine)
        Walk[object, object](coroutine, self._ended).start()

    async def failure(self) -> None:
        """Wait for ever, or raise what ended one of them."""
        await self._failed.wait()
        raise self._error or RuntimeError("a gatherer of the store ended")

    def close(self) -> None:
        for coroutine in self._coroutines:
            coroutine.close()

    def _ended(self, error: Exception | None) -> None:
        self._error = self._error or error
        self._failed.set()


def _keyed(turn: Turn) -> bool:
    for request in turn.requests:  # noqa: SIM110 (once a turn: the generator would cost the most)
        if request.idempotency is not None:
            return True
    return False


def _talks(turn: Turn, answers: Sequence[Answer]) -> bool:
    """Whether it consumes or causes messages."""
    for request in turn.requests:
        if request.delivery is not None:
            return True
    for answer in answers:  # noqa: SIM110 (as above)
        if answer.effects:
            return True
    return False


def _forsaken(item: Loading | Commit) -> bool:
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
