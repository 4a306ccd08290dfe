"""Those rows of the table "Unknown outcomes" that are about messages: what a turn consumes is there, or gone.

A node behind a proxy loses the commit of a turn that consumes a message, and is kept away from the database
while another node (without a proxy) changes the same entity twice; then it finds out.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import orjson
import pytest
import trio
from wire_proxy import BIND, SYNC, Trick, WireProxy, wire_proxy

from fix_command import for_serve
from fix_matrix import Row
from fix_node import PYTHON, LiveNode, StartNode
from fix_outage import ask

OBEDIENT = Path(__file__).parent.parent / "functions" / "obedient.py"
TOML = "".join(
    f"""
        [functions.{name}]
        command = ["{PYTHON}", "{OBEDIENT}"]
        processes = {{ min = 1, max = 2 }}
        """
    for name in ("a", "b")
)
PATIENCE_S = 60.0


class Two:
    """A node behind a proxy, another without one, and a target for each case."""

    def __init__(self, node: LiveNode, proxy: WireProxy, other: LiveNode, url: str) -> None:
        self.node = node
        self.proxy = proxy
        self.other = other
        self.url = url
        self.count = 0

    @property
    def key(self) -> str:
        return f"target{self.count}"

    def state(self) -> dict[str, object]:
        rows = ask(
            self.url, f"SELECT state FROM inversion.entity WHERE function = 'b' AND key = '{self.key}'"
        )
        found: dict[str, object] = orjson.loads(str(rows[0][0])) if rows else {}
        return found

    def messages(self) -> list[tuple[object, ...]]:
        return ask(self.url, "SELECT owner IS NOT NULL FROM inversion.message")

    async def lose(self, row: Row, trick: Trick, at: bytes, *, existing: bool) -> None:
        """The node's turn that consumes a message loses its commit; the node has no database from then on."""
        self.count += 1
        if existing:
            assert (await self.node.call(f"b/{self.key}", {"add": 0, "as": "first"})).status == 200
        message = {"pause": 0.5, "add": 1, "as": "mine"}
        send = {"send": {"function": "b", "key": self.key, "handler": "call", "message": message}}
        assert (await self.node.call("a/x", {"do": [send]})).status == 200
        spoil = self.proxy.spoil_next(trick, at=at, entity=self.key, then_shut=True)
        with trio.fail_after(PATIENCE_S):
            await spoil.happened.wait()
        row.fired(f"{trick.value}, {'existing' if existing else 'new'} entity")

    async def others(self, count: int) -> None:
        """The other node's calls of the target, each a turn of its own."""
        for number in range(count):
            answer = await self.other.call(f"b/{self.key}", {"add": 0, "as": f"other{number}"})
            assert answer.status == 200

    async def until_consumed(self) -> None:
        with trio.fail_after(PATIENCE_S):
            while self.messages():  # noqa: ASYNC110 (the database)
                await trio.sleep(0.05)

    def check_once(self) -> list[object]:
        state = self.state()
        seen = state["seen"]
        assert isinstance(seen, list)
        assert (state["count"], seen.count("mine")) == (1, 1)
        assert not ask(self.url, "SELECT 1 FROM inversion.dead_letter")
        return seen


@pytest.fixture
async def two(start_node: StartNode, database_url: str, tmp_path: Path) -> AsyncIterator[Two]:
    (tmp_path / "other").mkdir()
    toml = for_serve(TOML)
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(wire_proxy(database_url))
        node = await stack.enter_async_context(start_node(toml, database_url=proxy.url))
        other = await stack.enter_async_context(start_node(toml, folder=tmp_path / "other"))
        yield Two(node, proxy, other, database_url)


@pytest.mark.fault("D4", "what the resolver finds: moved on by two, what it consumes is still there")
async def test_a_lost_turn_whose_message_still_waits_is_delivered_again(two: Two, row: Row) -> None:
    for _ in range(row.times):
        for existing in (False, True):
            await two.lose(row, Trick.CUT, BIND, existing=existing)
            await two.others(3)
            assert two.messages() == [(True,)]  # leased, so the other node has let it be
            two.proxy.wake()
            await two.until_consumed()
            row.recovered()
            seen = two.check_once()
            assert seen[-1] == "mine"  # after what it was to come before


@pytest.mark.fault("D4", "what the resolver finds: moved on by two, what it consumed is gone by its own turn")
async def test_a_turn_that_landed_unheard_and_was_followed_is_done_with_its_message(
    two: Two, row: Row
) -> None:
    for _ in range(row.times):
        for existing in (False, True):
            await two.lose(row, Trick.CUT_REPLY, SYNC, existing=existing)
            assert two.messages() == []
            await two.others(3)
            two.proxy.wake()
            answer = await two.node.call(f"b/{two.key}", {"add": 0, "as": "last"})  # it is not stuck
            assert answer.status == 200
            row.recovered()
            seen = two.check_once()
            assert seen.index("mine") == existing


@pytest.mark.fault("D4", "what the resolver finds: moved on by two, what it consumes is gone by another node")
async def test_a_lost_turn_whose_message_another_node_has_delivered_is_done(two: Two, row: Row) -> None:
    for _ in range(row.times):
        for existing in (False, True):
            await two.lose(row, Trick.CUT, BIND, existing=existing)
            # Its lease runs out. In real time: ten seconds.
            ask(two.url, "UPDATE inversion.message SET due_at = now()")
            await two.until_consumed()
            await two.others(3)
            two.proxy.wake()
            answer = await two.node.call(f"b/{two.key}", {"add": 0, "as": "last"})
            assert answer.status == 200
            row.recovered()
            seen = two.check_once()
            assert seen.index("mine") == existing
