"""How a node brings publications on: what the database refuses, what waits, and what it cannot reach."""

from __future__ import annotations

import trio
from test_messages import sql, until, until_sql
from test_topics import NOTHING_LEFT, do, publish, subscribe

from fix_node import StartNode
from inversion.delivery.fan_out import FanOut
from inversion.ids import new_turn_id
from inversion.messages import Address, Delivery
from inversion.names import TOPIC
from inversion.observe.metrics import Counters
from inversion.state.consequence_rows import LEASE_MS
from inversion.state.lane import Knocking
from inversion.state.outbox import PutOff

REFUSE = """
CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.function = 'b' AND NEW.body LIKE '%refused%' THEN RAISE EXCEPTION 'not this one'; END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER refuse BEFORE INSERT ON inversion.message FOR EACH ROW EXECUTE FUNCTION refuse();
"""


def a_fan_out(given_back: list[PutOff], *deliveries: Delivery) -> FanOut:
    fan_out = FanOut(
        "host=/nowhere",
        new_turn_id(),
        Counters(),
        Knocking(lambda sentence: None),
        lambda: None,
        given_back.append,
    )
    for delivery in deliveries:
        fan_out.take(delivery)
    return fan_out


def publication(seq: int, sender: str = "a/x") -> Delivery:
    return Delivery(Address(TOPIC, "news"), sender, 1, seq, f"m{seq}", "publish", b"1")


async def test_a_publication_that_the_database_refuses_holds_up_no_other_and_is_tried_again(
    start_node: StartNode, obedient_toml: str, database_url: str
) -> None:
    """They may stand in one statement: then each is tried alone."""
    sql(database_url, REFUSE)
    async with start_node(obedient_toml) as node:
        await do(node, "b/x", subscribe())
        await do(node, "a/1", publish({"add": 1, "as": "refused"}))
        for sender in range(2, 6):
            await do(node, f"a/{sender}", publish({"add": 10}))
        await until(node, "b/x", count=40)
        await until_sql(database_url, "SELECT function, owner FROM inversion.message", (TOPIC, None))
        sql(database_url, "DROP TRIGGER refuse ON inversion.message")
        await until(node, "b/x", count=41)
        await until_sql(database_url, NOTHING_LEFT, (0,))


async def test_what_waits_behind_an_earlier_one_keeps_its_lease() -> None:
    fan_out = a_fan_out([], first := publication(0), second := publication(1), other := publication(0, "a/y"))
    lease_s = LEASE_MS / 1_000
    assert list(fan_out.renewals(100.0)) == [first, second, other]
    assert list(fan_out.renewals(100.0 + lease_s / 4)) == []
    assert list(fan_out.renewals(100.0 + lease_s / 2)) == [first, second, other]


async def test_a_node_that_gets_no_connection_leaves_what_was_published_to_others() -> None:
    given_back: list[PutOff] = []
    fan_out = a_fan_out(given_back, publication(0), publication(1))
    assert fan_out.held == 2
    async with trio.open_nursery() as nursery:
        nursery.start_soon(fan_out.run)
        with trio.fail_after(20):
            while len(given_back) < 2:  # noqa: ASYNC110 (it has no event)
                await trio.sleep(0.01)
        assert fan_out.held == 0
        assert all(each.pause_s > 0 and not each.failed for each in given_back)
        fan_out.take(publication(2))
        with trio.fail_after(20):
            while len(given_back) < 3:  # noqa: ASYNC110 (it has no event)
                await trio.sleep(0.01)
        nursery.cancel_scope.cancel()


async def test_a_drain_gives_everything_back_and_takes_no_more() -> None:
    given_back: list[PutOff] = []
    fan_out = a_fan_out(given_back, publication(0), publication(1))
    fan_out.drain()
    assert [each.delivery.seq for each in given_back] == [0, 1]
    assert (fan_out.held, fan_out.room) == (0, 0)


async def test_one_that_is_claimed_again_is_held_once_by_its_newer_claim() -> None:
    fan_out = a_fan_out([], publication(0), again := publication(0))
    assert fan_out.held == 1
    assert list(fan_out.renewals(100.0)) == [again]
