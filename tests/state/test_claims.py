"""What one claim takes of a pair of entities, against a real PostgreSQL: none without those before it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from walking import sql

from inversion.ids import new_turn_id
from inversion.state.arrays import texts
from inversion.state.dialing import Settings
from inversion.state.outbox import Outbox
from inversion.state.postgres import Connection
from inversion.state.sql import BACKLOG, statement

NODE, OTHER = new_turn_id(), new_turn_id()


@asynccontextmanager
async def an_outbox(url: str) -> AsyncIterator[Outbox]:
    outbox = await Outbox.open(url, NODE)
    try:
        yield outbox
    finally:
        outbox.close()


def put(url: str, sender: str, *ages_s: float, owners: tuple[bytes | None, ...] = ()) -> None:
    """Messages 0, 1, ... of a sender to b/y, due so many seconds ago."""
    for seq, (age_s, owner) in enumerate(zip(ages_s, owners or (None,) * len(ages_s), strict=True)):
        sql(
            url,
            "INSERT INTO inversion.message (function, key, sender, sender_version, seq, id, handler, body,"
            " hops, owner, attempt, failures, due_at, born_at) VALUES ('b', 'y',"
            f" '{sender}', 1, {seq}, '{sender} {seq}', 'call', '1', 1,"
            f" {'NULL' if owner is None else repr(owner.hex())}, 1, 0,"
            f" now() - {age_s} * interval '1 s', now())",
        )


async def claimed(outbox: Outbox, room: int) -> list[str]:
    return [each.id for each in await outbox.claim({"b": room})]


async def test_what_is_due_first_is_not_taken_without_those_before_it(database_url: str) -> None:
    put(database_url, "a/x", 1.0, 2.0, 3.0)  # the first was put off: it is due last
    async with an_outbox(database_url) as outbox:
        assert await claimed(outbox, 2) == []
        found = [await claimed(outbox, 1) for _ in range(3)]
    assert found == [["a/x 0"], ["a/x 1"], ["a/x 2"]]


async def test_a_gap_holds_up_all_behind_it_and_nobody_else(database_url: str) -> None:
    put(database_url, "a/x", 4.0, -60.0, 4.0, 4.0)  # the second is in a pause
    put(database_url, "a/z", 3.0, 2.0)
    async with an_outbox(database_url) as outbox:
        assert await claimed(outbox, 10) == ["a/x 0", "a/z 0", "a/z 1"]
        assert await claimed(outbox, 10) == []
    due = sql(
        database_url,
        "SELECT DISTINCT due_at > now() + interval '50 s' FROM inversion.message WHERE seq > 0"
        " AND sender = 'a/x'",
    )
    assert due == [(True,)]


async def test_behind_one_that_this_node_has_more_are_taken_behind_anothers_none(database_url: str) -> None:
    put(database_url, "a/x", -9.0, 1.0, owners=(NODE, None))
    put(database_url, "a/z", -9.0, 1.0, 1.0, owners=(OTHER, None, None))
    async with an_outbox(database_url) as outbox:
        assert await claimed(outbox, 10) == ["a/x 1"]


async def test_many_that_stand_before_their_first_do_not_keep_it_waiting(database_url: str) -> None:
    """The first of each of fifty pairs was put off; the four hundred behind each have been due for longer."""
    sql(
        database_url,
        "INSERT INTO inversion.message (function, key, sender, sender_version, seq, id, handler, body, hops,"
        " attempt, failures, due_at, born_at)"
        " SELECT 'b', 'k' || p, 'a/x', v, 0, p || ' ' || v, 'call', '1', 1, 1, 1,"
        " now() - CASE WHEN v = 1 THEN 1 ELSE 60 END * interval '1 s' + v * interval '1 ms', now()"
        " FROM generate_series(1, 50) AS p, generate_series(1, 400) AS v",
    )
    found: dict[str, list[int]] = {}
    rounds = 0
    async with an_outbox(database_url) as outbox:
        while sum(map(len, found.values())) < 500:
            rounds += 1
            for each in await outbox.claim({"b": 10}):
                found.setdefault(each.target.key or "", []).append(each.sender_version)
    assert rounds < 200
    for versions in found.values():
        assert versions == list(range(1, len(versions) + 1))


async def test_what_only_waits_for_room_stays_in_its_place(database_url: str) -> None:
    put(database_url, "a/z", *(60.0 - seq for seq in range(50)))
    places = "SELECT seq, due_at FROM inversion.message WHERE seq >= 5 ORDER BY seq"
    before = sql(database_url, places)
    async with an_outbox(database_url) as outbox:
        outbox.displaced = 1  # it looks further than it takes
        assert await claimed(outbox, 5) == [f"a/z {seq}" for seq in range(5)]
        assert outbox.displaced == 0
    assert sql(database_url, places) == before


async def test_what_waits_is_counted_without_reading_the_whole_table(database_url: str) -> None:
    sql(
        database_url,
        "INSERT INTO inversion.message (function, key, sender, sender_version, seq, id, handler, body, hops,"
        " attempt, failures, due_at, born_at)"
        " SELECT 'b', 'k', 'a/x', v, 0, v::text, 'call', '1', 1, 0, 0, now(), now()"
        " FROM generate_series(1, 30000) AS v",
    )
    sql(database_url, "ANALYZE inversion.message")
    connection = await Connection.open(database_url, Settings())
    try:
        explained = statement(f"EXPLAIN {BACKLOG.text.decode()}")
        plan = await connection.execute(explained, [texts([b"b", b"c", b"d"])])
        lines = [(plan.value(row, 0) or b"").decode() for row in range(plan.count)]
    finally:
        connection.close()
    scans = [line.split("(")[0].strip() for line in lines if "Scan" in line and " message " in f"{line} "]
    assert len(scans) == 3
    assert all("Index Scan using message_due" in scan for scan in scans), scans
