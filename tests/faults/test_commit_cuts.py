"""D4, D5: a commit is cut, held, delayed, dripped or swallowed on its way to PostgreSQL and back.

A node behind wire_proxy.py, each trick under eight loads: keyed or not, new entities or existing ones,
commits of one entity or of several. In all of them each call is applied exactly once, and its caller is
told so: no 504 for as long as the deadline lets the node find out.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AsyncExitStack
from functools import partial
from itertools import product

import pytest
import trio
from ledger import Entry, Ledger
from wire_proxy import BIND, EXECUTE, SYNC, Spoil, Trick, WireProxy, wire_proxy

from fix_command import for_serve
from fix_matrix import Row
from fix_node import LiveNode, StartNode
from fix_outage import JOURNAL, ask
from inversion.state import store as store_module
from inversion.state.dialing import Settings

#: From the fault to the answer of everybody who was under way; the promise is 1 s, on a machine of its own.
PROMPT_S = 5.0
#: A connection that does not answer is given up after this, here.
REPLY_TIMEOUT_S = 1.0
#: What a statement that was applied to nothing completes with.
NOTHING = ([b"INSERT 0 0"], [b"UPDATE 0"], [b"SELECT 0"])
WAITING = (
    "SELECT count(*) FROM pg_stat_activity WHERE application_name = 'inversion'"
    " AND wait_event_type = 'Lock' AND datname = current_database()"
)

LOADS = [
    {"keyed": keyed, "fresh": fresh, "several": several}
    for keyed, fresh, several in product((False, True), repeat=3)
]


class Scene:
    """A node behind the proxy, a ledger, and the loads one after another."""

    def __init__(self, node: LiveNode, proxy: WireProxy, url: str, row: Row) -> None:
        self.node = node
        self.proxy = proxy
        self.url = url
        self.row = row
        self.ledger = Ledger()
        self._under_way: list[Entry] = []

    def loads(self) -> Iterator[dict[str, bool]]:
        for _ in range(self.row.times):
            yield from LOADS

    def load(self, number: int, *, keyed: bool, fresh: bool, several: bool):  # type: ignore[no-untyped-def]
        keys = [f"l{number}-{n}" for n in range(8 if several else 1)]
        return self.ledger.load(self.node.started.url, keys=keys, hot=0, keyed=keyed, fresh=fresh)

    async def spoiled(self, trick: Trick, at: bytes, several: bool) -> Spoil:
        """The next commit has met the trick."""
        spoil = self.proxy.spoil_next(trick, at=at, members=2 if several else 1)
        with trio.fail_after(20):
            await spoil.happened.wait()
        self._under_way = self.ledger.unanswered()
        assert self._under_way
        self.row.fired(f"{trick.value} ({at.decode()}), {spoil.seen_members} in the commit")
        return spoil

    async def all_answered(self) -> None:
        """Everybody who was under way has an answer. Notes the recovery."""
        await self.ledger.until(lambda: all(e.answered_s > e.sent_s for e in self._under_way))
        assert self.row.recovered() < PROMPT_S

    async def until_waiting(self) -> None:
        """Someone of ours waits for a row lock."""
        with trio.fail_after(20):
            while await trio.to_thread.run_sync(ask, self.url, WAITING) == [(0,)]:
                pass

    def check(self) -> None:
        assert set(self.ledger.told()) == {"ok"}, self.ledger.told()
        self.ledger.check(self.url)


@pytest.fixture
async def scene(start_node: StartNode, database_url: str, row: Row, monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    monkeypatch.setattr(store_module, "Settings", partial(Settings, reply_timeout_s=REPLY_TIMEOUT_S))
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(wire_proxy(database_url))
        node = await stack.enter_async_context(start_node(for_serve(JOURNAL), database_url=proxy.url))
        yield Scene(node, proxy, database_url, row)


@pytest.mark.parametrize(
    ("trick", "at"),
    [
        pytest.param(Trick.CUT, BIND, marks=pytest.mark.fault("D4", "a commit cut before it was forwarded")),
        pytest.param(
            Trick.CUT, SYNC, marks=pytest.mark.fault("D4", "a commit cut between its Execute and its Sync")
        ),
        pytest.param(
            Trick.CUT_REPLY, SYNC, marks=pytest.mark.fault("D4", "a commit done, its reply cut off")
        ),
        pytest.param(Trick.DRIP, BIND, marks=pytest.mark.fault("D4", "a commit and its reply byte by byte")),
        pytest.param(
            Trick.SWALLOW, EXECUTE, marks=pytest.mark.fault("D4", "half-open before a commit's Execute")
        ),
        pytest.param(
            Trick.SWALLOW_REPLY, SYNC, marks=pytest.mark.fault("D4", "half-open after a commit was done")
        ),
        pytest.param(Trick.RESET, SYNC, marks=pytest.mark.fault("D5", "RST before a commit's Sync")),
        pytest.param(
            Trick.RESET_REPLY, SYNC, marks=pytest.mark.fault("D5", "RST instead of a commit's reply")
        ),
    ],
)
@pytest.mark.timeout(60 * 20)
async def test_a_commit_that_was_cut_is_applied_exactly_once(scene: Scene, trick: Trick, at: bytes) -> None:
    with trio.fail_after(50 * scene.row.times):
        for number, load in enumerate(scene.loads()):
            async with scene.load(number, **load):
                await scene.ledger.more(10)
                await scene.spoiled(trick, at, load["several"])
                await scene.all_answered()
                await scene.ledger.more(5)
    scene.check()


@pytest.mark.fault("D4", "the server still holds the row while the resolver comes, then commits")
@pytest.mark.timeout(60 * 20)
async def test_a_commit_that_lands_while_the_resolver_waits_is_applied_exactly_once(scene: Scene) -> None:
    with trio.fail_after(50 * scene.row.times):
        for number, load in enumerate(scene.loads()):
            async with scene.load(number, **load):
                await scene.ledger.more(10)
                spoil = await scene.spoiled(Trick.HOLD, SYNC, load["several"])
                await scene.until_waiting()
                assert await spoil.release() not in NOTHING
                await scene.all_answered()
                await scene.ledger.more(5)
    scene.check()


@pytest.mark.fault("D4", "the server still holds the row while the resolver comes, then rolls back")
@pytest.mark.timeout(60 * 20)
async def test_a_commit_that_is_undone_while_the_resolver_waits_is_applied_exactly_once(scene: Scene) -> None:
    with trio.fail_after(50 * scene.row.times):
        for number, load in enumerate(scene.loads()):
            async with scene.load(number, **load):
                await scene.ledger.more(10)
                spoil = await scene.spoiled(Trick.HOLD, SYNC, load["several"])
                await scene.until_waiting()
                await spoil.drop()
                await scene.all_answered()
                await scene.ledger.more(5)
    scene.check()


@pytest.mark.fault("D4", "delayed in the network and executed after the resolver is done")
@pytest.mark.timeout(60 * 20)
async def test_a_commit_that_arrives_after_the_resolver_is_done_is_a_conflict(scene: Scene) -> None:
    with trio.fail_after(50 * scene.row.times):
        for number, load in enumerate(scene.loads()):
            async with scene.load(number, **load):
                await scene.ledger.more(10)
                spoil = await scene.spoiled(Trick.HOLD, BIND, load["several"])
                await scene.all_answered()
                assert await spoil.release() in NOTHING
                await scene.ledger.more(5)
    scene.check()
