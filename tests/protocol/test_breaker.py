"""The breaker, on plain numbers: time and chance are arguments."""

from __future__ import annotations

from itertools import pairwise

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from inversion.protocol.breaker import (
    DEATHS,
    FIRST_PAUSE_S,
    HEALTHY_S,
    LONGEST_CLOSED_PAUSE_S,
    LONGEST_PAUSE_S,
    PROBES_IN_S,
    WINDOW_S,
    Breaker,
)

MOST_STARTS_A_MINUTE = 12
ROUNDING_S = 1e-6


@attrs.frozen
class Life:
    """One process of a function whose processes all die without an answer."""

    lasts_s: float
    chance: float
    called_after_s: float  #: how long after it was allowed somebody wanted the next one
    spoken: bool
    overdue: bool


lives = st.builds(
    Life,
    lasts_s=st.one_of(st.just(0.0), st.floats(0, 40)),
    chance=st.one_of(st.just(0.0), st.floats(0, 1)),
    called_after_s=st.one_of(st.just(0.0), st.just(0.0), st.floats(0, 100)),
    spoken=st.booleans(),
    overdue=st.integers(0, 9).map(lambda n: n == 0),
)


def run(breaker, lives, now_s=100.0):
    """Start after start, each as soon as it is allowed: when they were."""
    starts_s = []
    for life in lives:
        assert breaker.may_start(now_s)
        breaker.started(now_s)
        starts_s.append(now_s)
        now_s += life.lasts_s
        breaker.died(now_s, life.chance, spoken=life.spoken, overdue=life.overdue)
        now_s = max(now_s, breaker.next_start_s) + life.called_after_s
    return starts_s


def looping(times, chance):
    return [Life(0.01, chance, called_after_s=0.0, spoken=False, overdue=False)] * times


def die(breaker, times=1, now_s=100.0, **also):
    for _ in range(times):
        breaker.died(now_s, 1.0, **{"spoken": False, **also})


@given(st.lists(lives, max_size=80))
def test_while_every_process_dies_no_minute_sees_more_than_twelve_starts(lives):
    starts_s = run(Breaker(), lives)
    for first, last in zip(starts_s, starts_s[MOST_STARTS_A_MINUTE:], strict=False):
        assert last - first > 60 - ROUNDING_S


@given(st.lists(lives, max_size=40))
def test_the_next_try_is_never_further_away_than_the_longest_pause(lives):
    breaker = Breaker()
    now_s = 100.0
    for life in lives:
        breaker.started(now_s)
        now_s += life.lasts_s
        breaker.died(now_s, life.chance, spoken=life.spoken, overdue=life.overdue)
        wait_s = max(0.0, breaker.next_start_s - now_s)
        assert wait_s <= max(LONGEST_PAUSE_S, PROBES_IN_S) + ROUNDING_S
        assert breaker.open or wait_s <= LONGEST_CLOSED_PAUSE_S + ROUNDING_S
        assert breaker.may_start(now_s + wait_s + ROUNDING_S)
        now_s += wait_s


@given(st.lists(lives, max_size=40))
def test_the_same_lives_and_chances_give_the_same_starts(lives):
    assert run(Breaker(), lives) == run(Breaker(), lives)


@given(st.lists(lives, max_size=40))
def test_an_answer_of_a_later_process_ends_any_trouble(lives):
    breaker = Breaker()
    now_s = run(breaker, lives)[-1] + 50 if lives else 100.0
    breaker.started(now_s)
    if breaker.streak:
        breaker.answered(now_s + 1, started_s=now_s)
    assert not breaker.open
    assert breaker.streak == 0
    assert breaker.may_start(now_s)


def test_all_is_well_at_first():
    breaker = Breaker()
    assert not breaker.open
    assert breaker.streak == 0
    assert breaker.may_start(-1e9)


def test_the_pauses_double_from_a_tenth_of_a_second_to_thirty():
    breaker = Breaker()
    pauses_s = []
    now_s = 100.0
    for _ in range(12):
        breaker.started(now_s)
        breaker.died(now_s, 1.0, spoken=False)
        pauses_s.append(breaker.next_start_s - now_s)
        now_s = breaker.next_start_s
    assert pauses_s[:7] == pytest.approx([FIRST_PAUSE_S * 2**death for death in range(7)])
    assert pauses_s[7] == pytest.approx(20.4), "not 12.8: it would be the fourth probe in half a minute"
    assert pauses_s[8:] == pytest.approx([25.6, 30, 30, 30])


def test_the_jitter_is_full():
    for chance in (0.0, 0.25, 1.0):
        breaker = Breaker()
        breaker.died(100.0, chance, spoken=False)
        assert breaker.next_start_s - 100.0 == pytest.approx(chance * FIRST_PAUSE_S)


def test_the_fifth_death_in_half_a_minute_opens_it():
    breaker = Breaker()
    die(breaker, DEATHS - 1)
    assert not breaker.open
    die(breaker)
    assert breaker.open


def test_deaths_further_apart_do_not_open_it_and_the_pauses_stay_short():
    breaker = Breaker()
    for number in range(20):
        die(breaker, now_s=100.0 + number * WINDOW_S / (DEATHS - 1))
        assert breaker.next_start_s <= 100.0 + number * WINDOW_S / (DEATHS - 1) + LONGEST_CLOSED_PAUSE_S
    assert not breaker.open


def test_a_required_hello_that_never_came_opens_it_at_once():
    breaker = Breaker()
    die(breaker, overdue=True)
    assert breaker.open


def test_three_probes_in_half_a_minute_and_no_more_however_short_the_pauses():
    breaker = Breaker()
    starts_s = run(breaker, looping(20, chance=0.0))
    probes_s = starts_s[DEATHS:]
    assert all(
        later - earlier > PROBES_IN_S - ROUNDING_S
        for earlier, later in zip(probes_s, probes_s[3:], strict=False)
    )
    assert [later - earlier < 1 for earlier, later in pairwise(probes_s[:4])] == [True, True, False]


def test_an_answer_of_a_process_older_than_the_trouble_does_not_end_it():
    breaker = Breaker()
    die(breaker, DEATHS)
    breaker.answered(101.0, started_s=99.0)
    assert breaker.open
    breaker.answered(103.0, started_s=102.0)
    assert not breaker.open


def test_a_hello_closes_it_if_no_process_had_come_so_far():
    silent, spoken = Breaker(), Breaker()
    die(silent, DEATHS)
    die(spoken, DEATHS - 1)
    die(spoken, spoken=True)
    for breaker in (silent, spoken):
        breaker.greeted(started_s=101.0)
    assert not silent.open
    assert spoken.open, "it dies of its messages: only an answer shows that it works"


def test_a_minute_of_life_ends_the_trouble():
    breaker = Breaker()
    die(breaker, DEATHS)
    breaker.lives(100.0 + HEALTHY_S, started_s=101.0)
    assert breaker.open
    breaker.lives(101.0 + HEALTHY_S, started_s=101.0)
    assert not breaker.open
    assert breaker.streak == 0


def test_a_minute_without_a_death_is_a_new_beginning():
    breaker = Breaker()
    die(breaker, DEATHS - 1)
    die(breaker, now_s=100.0 + HEALTHY_S)
    assert not breaker.open
    assert breaker.streak == 1
    assert breaker.next_start_s == pytest.approx(100.0 + HEALTHY_S + FIRST_PAUSE_S)


def test_a_function_that_answered_in_the_midst_of_its_deaths_stays_closed_for_half_a_minute():
    """It is some messages that kill it: who sends others is to be served."""
    breaker = Breaker()
    die(breaker, DEATHS - 1)
    breaker.answered(102.0, started_s=101.0)
    die(breaker, 4 * DEATHS, now_s=102.0 + WINDOW_S - 1)
    assert not breaker.open
    assert not breaker.may_start(102.0 + WINDOW_S - 1), "its starts are paced all the same"
    die(breaker, now_s=102.0 + WINDOW_S)
    assert breaker.open


def test_what_has_come_back_and_breaks_again_opens_as_at_first():
    breaker = Breaker()
    die(breaker, DEATHS)
    breaker.answered(102.0, started_s=101.0)
    die(breaker, DEATHS, now_s=103.0)
    assert breaker.open
