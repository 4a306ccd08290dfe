"""How many messages of a function a node holds, by what it was seen to do."""

from __future__ import annotations

from inversion.delivery.pace import Pace


def after(pace: Pace, *done_each_tenth: int, held: int) -> Pace:
    """A tenth of a second each, with so many done in it and so many held at its end."""
    for count in done_each_tenth:
        for _ in range(count):
            pace.done()
        pace.held = held
        pace.look(pace._looked_s + 0.1)
    return pace


def test_a_function_nobody_knows_gets_few_and_a_fast_one_soon_many() -> None:
    assert Pace().most == 16
    assert after(Pace(), 100, held=8).most == 250


def test_one_that_has_become_slow_gets_few_again() -> None:
    assert after(Pace(), 100, *[1] * 50, held=8).most == 16


def test_one_that_had_nothing_to_do_is_as_fast_as_before() -> None:
    assert after(after(Pace(), 100, held=8), *[0] * 50, held=0).most == 250
