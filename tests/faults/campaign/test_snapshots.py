"""What is said of snapshots: nothing of one that can be, something of each in which a thing is amiss."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import attrs
import pytest
from tests.faults.campaign.clockwork import Program, program_of
from tests.faults.campaign.snapshots import (
    Cast,
    Message,
    Snapshot,
    Timer,
    faults_of,
    strangers,
    unlike_foretold,
)

PROGRAM = Program("clock", (), frozenset(("a1",)), frozenset(("b2",)), 5)
CAST = Cast(["rich", "poor", "new"], ["teller"], ["ear"], {"ball": 10}, {"clock": PROGRAM}, ["paper"])


def account(balance: int, paid: int = 0, told: int = 0) -> dict[str, Any]:
    counts = {"paid": paid, "taken": 0, "told": told, "lost": 0, "unheard": 0, "unknown": 0}
    return {"balance": balance, **counts, "wrong": []}


def good() -> Snapshot:
    return Snapshot(
        {
            "rich": account(700, paid=3),
            "poor": account(1_120) | {"lost": 5, "unheard": 1, "unknown": 1},
            "teller": {"sent": 4},
            "ear": {"heard": {"teller": 2, "paper": 1}, "wrong": []},
            "paper": {"sent": 3},
            "ball-a": {"left": 10, "hops": 1, "wrong": []},
            "ball-b": {"left": 9, "hops": 1, "wrong": []},
            "clock": {"wound": {"b": "b2", "c": "c3"}, "rung": ["a1"], "ticks": 3, "wrong": []},
            "clock-bell": {"wound": {}, "rung": ["c3"], "ticks": None, "wrong": []},
        },
        [
            Message("poor", "rich", "take", {"amount": 110}),
            Message("rich", "poor", "told", {"error": {"message": "70"}}),
            Message("rich", "poor", "told", {"response": 120}),
            Message("ear", "teller", "hear", {"of": "teller", "number": 4}),
            Message("ear", "teller", "hear", {"of": "teller", "number": 3}),
            Message("ball-a", "ball-b", "hop", {"left": 8}),
            Message("ear", "paper", "hear", {"of": "paper", "number": 2}),
            Message("rich", "poor", "nobody", {}),
            Message("poor", "", "unheard", {"error": {"message": "a has no handler nobody"}}),
            Message("poor", "", "unheard", {"error": {"message": "no handler nobody"}}),
        ],
        [
            Timer("clock", "b", "clock", "ring", {"token": "b2"}, True),
            Timer("clock", "tick", "clock", "tick", {"left": 2}, True),
        ],
        [],
        2,
        Counter({"paper": 1}),
    )


def test_nothing_is_said_of_what_can_be() -> None:
    assert list(faults_of(good(), CAST)) == []
    assert list(strangers(good(), CAST.keys)) == []
    assert list(faults_of(Snapshot({}, [], [], [], 0), CAST)) == []


def without(number: int) -> Callable[[Snapshot], Snapshot]:
    return lambda good: attrs.evolve(good, messages=[*good.messages[:number], *good.messages[number + 1 :]])


def again(number: int) -> Callable[[Snapshot], Snapshot]:
    return lambda good: attrs.evolve(good, messages=[*good.messages, good.messages[number]])


def but(key: str, **changed: object) -> Callable[[Snapshot], Snapshot]:
    return lambda good: attrs.evolve(good, states={**good.states, key: {**good.states[key], **changed}})


def timer(number: int, **changed: Any) -> Callable[[Snapshot], Snapshot]:
    def change(good: Snapshot) -> Snapshot:
        timers = list(good.timers)
        timers[number] = attrs.evolve(timers[number], **changed)
        return attrs.evolve(good, timers=timers)

    return change


@pytest.mark.parametrize(
    "amiss",
    [
        *(without(number) for number in range(10) if number != 6),
        *(again(number) for number in range(10)),
        lambda good: attrs.evolve(good, publications=Counter()),
        but("paper", sent=1),
        but("poor", balance=1_119),
        but("ear", heard={"teller": 3}),
        but("ear", wrong=["4 after 2"]),
        but("ball-a", hops=2),
        but("clock", wound={"c": "c3"}),
        but("clock", rung=["b2"]),
        but("clock", ticks=4),
        but("clock-bell", rung=[]),
        timer(0, body={"token": "b1"}),
        timer(0, punctual=False),
        timer(1, owner="another"),
        lambda good: attrs.evolve(good, timers=good.timers[:1]),
        lambda good: attrs.evolve(good, misdirected=1),
        lambda good: attrs.evolve(good, letters=["hop of ball-a: {}"]),
    ],
)
def test_something_is_said_of_what_cannot_be(amiss: Callable[[Snapshot], Snapshot]) -> None:
    assert list(faults_of(amiss(good()), CAST))


def test_a_program_that_rang_too_seldom_or_too_often_is_told() -> None:
    assert list(unlike_foretold(good(), PROGRAM)) == []
    for rung in ([], ["a1", "a1"]):
        assert list(unlike_foretold(but("clock", rung=rung)(good()), PROGRAM))


def test_a_message_for_who_has_ended_is_told() -> None:
    cast = CAST.copy()
    del cast.chains["ball"]
    assert list(strangers(good(), cast.keys)) == ["a hop for ball-a, which has ended"]


def test_programs_wind_all_sorts_of_timers_and_leave_none_of_an_hour() -> None:
    programs = [program_of(f"some-{number}") for number in range(200)]
    assert any(each.ticks for each in programs)
    assert sum(len(each.once) for each in programs) > 100
    assert sum(len(each.never) for each in programs) > 100
    for each in programs:
        latest = {
            asked["name"]: asked.get("token") for handler, asked in each.instructions if handler != "tick"
        }
        assert {token for token in latest.values() if token is not None} == each.once
