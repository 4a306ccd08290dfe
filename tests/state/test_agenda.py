"""The schedules' rows: an instant is fired by one of those who try, and by the database's clock."""

from __future__ import annotations

import pytest
import trio
from walking import sql

from inversion.protocol.cron import Firing, Schedule
from inversion.state.agenda import Agenda, Place

PLACE = Place("f", "tick")
TICK = Schedule("tick", "* * * * *", key="k", message=b'{"n":1}')
BORN = "SELECT function, key, sender, sender_version, seq, handler, body, owner FROM inversion.message"


async def adopted(url: str, *schedules: Schedule) -> Agenda:
    agenda = await Agenda.open(url)
    await agenda.adopt({Place("f", each.name): each for each in schedules or (TICK,)})
    return agenda


async def test_of_many_who_fire_an_instant_one_does(database_url: str) -> None:
    """Each over a connection of its own, as nodes do."""
    with trio.fail_after(30):
        agendas = [await adopted(database_url) for _ in range(6)]
        sql(database_url, "UPDATE inversion.cron SET last_at = last_at - interval '1 hour'")
        done = []
        for number in range(20):
            last_s = (await agendas[0].look([PLACE]))[PLACE].last_s
            firing = Firing((last_s + 60, last_s + 120), last_s + 120, None)

            async def fire(agenda: Agenda, last_s: int = last_s, firing: Firing = firing) -> None:
                done.append(await agenda.fire(PLACE, TICK, last_s, firing))

            async with trio.open_nursery() as nursery:
                for agenda in agendas:
                    nursery.start_soon(fire, agenda)
            assert sum(done) == number + 1, "a round without a winner, or with two"
        for agenda in agendas:
            agenda.close()
    born = sql(database_url, BORN)
    assert len(born) == 40
    assert len({row[3] for row in born}) == 40
    assert {row[:3] + row[4:] for row in born} == {("f", "k", "~cron/f/tick", 0, "call", '{"n":1}', None)}


async def test_what_is_not_due_by_the_databases_clock_is_not_fired(database_url: str) -> None:
    with trio.fail_after(30):
        agenda = await adopted(database_url)
        standing = (await agenda.look([PLACE]))[PLACE]
        ahead_s = standing.now_s + 3_600
        assert not await agenda.fire(PLACE, TICK, standing.last_s, Firing((ahead_s,), ahead_s, None))
        agenda.close()
    assert sql(database_url, BORN) == []


async def test_an_instant_whose_message_still_waits_is_not_doubled(database_url: str) -> None:
    """Somebody has set the row back."""
    with trio.fail_after(30):
        agenda = await adopted(database_url)
        last_s = (await agenda.look([PLACE]))[PLACE].last_s
        for _ in range(2):
            sql(database_url, f"UPDATE inversion.cron SET last_at = to_timestamp({last_s - 60})")
            assert await agenda.fire(PLACE, TICK, last_s - 60, Firing((last_s,), last_s, None))
        agenda.close()
    assert len(sql(database_url, BORN)) == 1


async def test_what_is_left_out_moves_the_row_and_is_no_firing(database_url: str) -> None:
    with trio.fail_after(30):
        agenda = await adopted(database_url)
        standing = (await agenda.look([PLACE]))[PLACE]
        sql(database_url, f"UPDATE inversion.cron SET last_at = to_timestamp({standing.last_s - 60}.75)")
        assert await agenda.fire(PLACE, TICK, standing.last_s - 60, Firing((), standing.last_s, None))
        after = (await agenda.look([PLACE]))[PLACE]
        agenda.close()
    assert (after.last_s, after.fired_s) == (standing.last_s, 0)
    assert sql(database_url, BORN) == []


@pytest.mark.parametrize(("changed", "anew"), [("* * * * *", False), ("0 * * * *", True)])
async def test_adopting_again_begins_anew_only_where_the_rule_has_changed(
    database_url: str, changed: str, anew: bool
) -> None:
    with trio.fail_after(30):
        agenda = await adopted(database_url)
        sql(database_url, "UPDATE inversion.cron SET last_at = last_at - interval '1 hour'")
        before = (await agenda.look([PLACE]))[PLACE]
        (await adopted(database_url, Schedule("tick", changed))).close()
        after = (await agenda.look([PLACE]))[PLACE]
        agenda.close()
    assert (after.last_s > before.last_s) == anew


async def test_rows_that_nobody_has_had_for_a_month_are_forgotten(database_url: str) -> None:
    with trio.fail_after(30):
        agenda = await adopted(
            database_url, TICK, Schedule("gone", "* * * * *"), Schedule("away", "* * * * *")
        )
        sql(
            database_url,
            "UPDATE inversion.cron SET seen_at = now() - interval '31 days' WHERE name <> 'away'",
        )
        sql(
            database_url, "UPDATE inversion.cron SET seen_at = now() - interval '29 days' WHERE name = 'away'"
        )
        await agenda.forget([PLACE])
        assert set(await agenda.look([PLACE, Place("f", "gone"), Place("f", "away")])) == {
            PLACE,
            Place("f", "away"),
        }
        agenda.close()
