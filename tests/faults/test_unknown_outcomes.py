"""Every row of the table "Unknown outcomes" (storage.md): what a node finds when it comes back, and says.

A node behind a proxy loses a commit, and is kept away from the database while another node (without a
proxy) changes the same entity; then it finds out. Its caller's answer and the rows must agree.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path

import orjson
import psycopg
import pytest
import trio
from front_door import Answer
from wire_proxy import BIND, SYNC, Spoil, Trick, WireProxy, wire_proxy

from fix_command import for_serve
from fix_matrix import Row
from fix_node import LiveNode, StartNode
from fix_outage import JOURNAL, ask

SUPPRESS = """
CREATE FUNCTION public.suppress() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER suppress BEFORE INSERT OR UPDATE ON inversion.entity
   FOR EACH ROW WHEN (NEW.key LIKE 'kept%') EXECUTE FUNCTION public.suppress()
"""


class Two:
    """A node behind a proxy, another without one, and one entity per case."""

    def __init__(self, node: LiveNode, proxy: WireProxy, other: LiveNode, url: str, row: Row) -> None:
        self.node = node
        self.proxy = proxy
        self.other = other
        self.url = url
        self.row = row
        self.count = 0

    @property
    def key(self) -> str:
        return f"e{self.count}"

    def tokens(self, key: str | None = None) -> list[str]:
        where = f"key = '{key or self.key}'"
        rows = ask(self.url, f"SELECT state, version FROM inversion.entity WHERE {where}")
        if not rows:
            return []
        found: list[str] = orjson.loads(str(rows[0][0]))["tokens"]
        assert len(found) == rows[0][1]
        return found

    async def add(self, node: LiveNode, token: str, *lines: bytes, key: str | None = None) -> Answer:
        return await node.call(f"journal/{key or self.key}/add", token, *lines)

    async def lose(
        self,
        trick: Trick,
        at: bytes,
        *lines: bytes,
        existing: bool,
        meanwhile: Callable[[Spoil], Awaitable[None]],
        key: str | None = None,
    ) -> Answer:
        """A call of token `mine` whose commit meets the trick; `meanwhile` the node has no database."""
        self.count += 1
        if existing:
            assert (await self.add(self.node, "first", key=key)).status == 200
        spoil = self.proxy.spoil_next(trick, at=at, entity=key or self.key, then_shut=True)
        answers: list[Answer] = []

        async def call() -> None:
            answers.append(await self.add(self.node, "mine", *lines, key=key))

        with trio.fail_after(30):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(call)
                await spoil.happened.wait()
                self.row.fired(f"{trick.value}, {'existing' if existing else 'new'} entity")
                await meanwhile(spoil)
                self.proxy.wake()
        self.row.recovered()
        return answers[0]

    async def others(self, count: int, *lines: bytes) -> None:
        """The other node's calls, each a turn of its own."""
        for number in range(count):
            assert (await self.add(self.other, f"other{number}", *lines)).status == 200


@pytest.fixture
async def two(start_node: StartNode, database_url: str, tmp_path: Path, row: Row) -> AsyncIterator[Two]:
    (tmp_path / "other").mkdir()
    toml = for_serve(JOURNAL)
    async with AsyncExitStack() as stack:
        proxy = await stack.enter_async_context(wire_proxy(database_url))
        node = await stack.enter_async_context(start_node(toml, database_url=proxy.url))
        other = await stack.enter_async_context(start_node(toml, folder=tmp_path / "other"))
        yield Two(node, proxy, other, database_url, row)


async def nothing(spoil: Spoil) -> None:
    """Nobody else comes."""


def said(answer: Answer) -> tuple[int, str, str]:
    """Status, outcome, code."""
    code = "ok" if answer.status == 200 else str(orjson.loads(answer.body)["code"])
    return answer.status, answer.fields["inversion-outcome"], code


APPLIED = (200, "applied", "ok")
UNKNOWN = (504, "unknown", "deadline")
KEY = b"Idempotency-Key: once"


@pytest.mark.fault("D4", "what the resolver finds: sent again and returned; its own turn is the newest")
async def test_a_lost_commit_that_nobody_followed_is_applied_once(two: Two) -> None:
    for _ in range(two.row.times):
        for lines in ((), (KEY,)):
            for existing in (False, True):
                for trick, at in ((Trick.CUT, BIND), (Trick.CUT_REPLY, SYNC)):
                    answer = await two.lose(trick, at, *lines, existing=existing, meanwhile=nothing)
                    assert said(answer) == APPLIED
                    assert two.tokens() == ["first"] * existing + ["mine"]
                    assert answer.fields["etag"] == f'"{1 + existing}"'


@pytest.mark.fault("D4", "what the resolver finds: its turn is the one before; a record with its turn")
async def test_a_commit_that_landed_and_was_followed_is_known_by_prev_or_by_its_record(two: Two) -> None:
    for _ in range(two.row.times):
        for existing in (False, True):
            for lines, followers in (((), 1), ((KEY,), 1), ((KEY,), 3)):
                answer = await two.lose(
                    Trick.CUT_REPLY,
                    SYNC,
                    *lines,
                    existing=existing,
                    meanwhile=lambda _, n=followers: two.others(n),
                )
                assert said(answer) == APPLIED
                assert answer.fields["etag"] == f'"{1 + existing}"'
                assert two.tokens().index("mine") == existing
                assert len(two.tokens()) == 1 + existing + followers


@pytest.mark.fault("D4", "what the resolver finds: a record of its key by another node's turn")
async def test_a_key_that_another_node_answered_meanwhile_is_replayed(two: Two) -> None:
    for _ in range(two.row.times):
        for existing in (False, True):

            async def the_same_key(spoil: Spoil) -> None:
                answer = await two.add(two.other, "mine", KEY)
                assert said(answer) == APPLIED
                assert "inversion-replayed" not in answer.fields

            answer = await two.lose(Trick.CUT, BIND, KEY, existing=existing, meanwhile=the_same_key)
            assert said(answer) == APPLIED
            assert answer.fields["inversion-replayed"] == "true"
            assert answer.fields["etag"] == f'"{1 + existing}"'
            assert two.tokens() == ["first"] * existing + ["mine"]


@pytest.mark.fault("D4", "what the resolver finds: another turn in its slot; keyed, two turns and no record")
async def test_a_commit_whose_slot_another_took_is_run_again(two: Two) -> None:
    for _ in range(two.row.times):
        # A new entity has no turn that others could have replaced first: without a key two are too many.
        for lines, followers in (((), 1), ((KEY,), 1), ((KEY,), 3)):
            for existing in (False, True):
                held: list[Spoil] = []

                async def overtaken(
                    spoil: Spoil, held: list[Spoil] = held, followers: int = followers
                ) -> None:
                    held.append(spoil)
                    await two.others(followers)

                answer = await two.lose(Trick.HOLD, BIND, *lines, existing=existing, meanwhile=overtaken)
                assert said(answer) == APPLIED
                assert answer.fields["etag"] == f'"{1 + existing + followers}"'
                assert two.tokens()[existing + followers :] == ["mine"]
                before = two.tokens()
                await held[0].release()  # it arrives at last, and does no harm
                assert two.tokens() == before


@pytest.mark.fault("D4", "what the resolver finds: no key, and the entity moved on by two turns")
async def test_a_commit_without_a_key_that_two_turns_followed_is_unknown(two: Two) -> None:
    for _ in range(two.row.times):
        for existing in (False, True):
            for trick, at, landed in ((Trick.CUT, BIND, False), (Trick.CUT_REPLY, SYNC, True)):
                answer = await two.lose(trick, at, existing=existing, meanwhile=lambda _: two.others(3))
                assert said(answer) == UNKNOWN
                assert two.tokens().count("mine") == landed
                assert (await two.add(two.node, "next")).status == 200  # the entity is not stuck
                assert len(two.tokens()) == existing + landed + 4


@pytest.mark.fault("D4", "what the resolver finds: what it was to replace is still there")
async def test_a_commit_that_changed_nothing_though_its_slot_is_free_is_sent_again(two: Two) -> None:
    for _ in range(two.row.times):
        for existing in (False, True):
            kept = f"kept{two.count}"
            if existing:
                assert (await two.add(two.node, "first", key=kept)).status == 200
            ask(two.url, SUPPRESS)

            async def suppressed(spoil: Spoil) -> None:
                two.proxy.wake()
                ran = "SELECT calls FROM pg_stat_user_functions WHERE funcname = 'suppress'"
                while int(str((ask(two.url, ran) or [(0,)])[0][0])) < 3:  # noqa: ASYNC110 (another process)
                    await trio.sleep(0.05)
                ask(two.url, "DROP FUNCTION public.suppress CASCADE")

            ask(two.url, "ALTER ROLE CURRENT_USER SET track_functions = 'all'")
            answer = await two.lose(Trick.CUT, BIND, existing=False, meanwhile=suppressed, key=kept)
            ask(two.url, "ALTER ROLE CURRENT_USER RESET track_functions")
            assert said(answer) == APPLIED
            assert two.tokens(kept) == ["first"] * existing + ["mine"]


@pytest.mark.fault("D4", "what the resolver finds: a locked row, or no database, until the deadline")
async def test_a_commit_that_cannot_be_looked_up_before_the_deadline_is_unknown(two: Two) -> None:
    for _ in range(two.row.times):
        for existing in (False, True):
            for lines in ((), (KEY,)):
                for locked in (False, True):
                    if locked and not existing:
                        continue  # there is no row to lock
                    timeout = b"Inversion-Timeout: 800ms"
                    answer = await two.lose(
                        Trick.CUT,
                        BIND,
                        timeout,
                        *lines,
                        existing=existing,
                        meanwhile=partial(until_unknown, two, locked),
                    )
                    assert said(answer) == UNKNOWN
                    # With its key a repeat finds out.
                    again = await two.add(two.node, "mine" if lines else "next", *lines)
                    assert said(again) == APPLIED
                    # Unknown means it: what was sent before the deadline may arrive after it.
                    assert two.tokens().count("mine") in ((1,) if lines else (0, 1))


async def until_unknown(two: Two, locked: bool, spoil: Spoil) -> None:
    if not locked:
        await trio.sleep(1.2)  # the deadline and the sweep
        return
    with psycopg.connect(two.url) as somebody:
        somebody.execute("SELECT 1 FROM inversion.entity WHERE key = %s FOR UPDATE", [two.key])
        two.proxy.wake()
        await trio.sleep(1.2)
