"""Requests to one host that are too many: when each comes back."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inversion.delivery.hosts import AT_ONCE, MOST, Host


def test_a_host_is_full_when_as_many_wait_as_run() -> None:
    host = Host(held=MOST - 1)
    assert not host.is_full
    host.held += 1
    assert host.is_full


def test_those_turned_away_come_back_at_the_rate_at_which_the_host_answers() -> None:
    host = Host()
    for _ in range(100):
        host.took(1.6)  # ten a second
    pauses = [host.turn_away(0.0) for _ in range(50)]
    gaps = [later - sooner for sooner, later in pairwise(pauses)]
    assert gaps == pytest.approx([1.6 / AT_ONCE] * 49)


def test_a_host_with_room_again_has_nobody_come_back_late() -> None:
    host = Host(held=MOST)
    for _ in range(100_000):
        host.turn_away(0.0)
    assert host.turn_away(0.0) == 300.0
    while host.held >= AT_ONCE:
        host.leave()
    assert host.turn_away(0.0) < 1.0


@given(
    st.lists(
        st.one_of(st.tuples(st.just("took"), st.floats(0, 300)), st.tuples(st.just("away"), st.floats(0, 5))),
        max_size=200,
    )
)
def test_a_pause_is_never_too_short_nor_so_long_that_a_recovery_is_missed(
    steps: list[tuple[str, float]],
) -> None:
    host, now_s = Host(), 0.0
    for what, seconds in steps:
        if what == "took":
            host.took(seconds)
        else:
            now_s += seconds
            assert 0.2 <= host.turn_away(now_s) <= 300.0 + 1e-6
