"""When something that failed is tried again: pauses, limits, Retry-After."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from inversion.config import Retry
from inversion.protocol.retrying import Again, GiveUp, after_failure, longest_pause_s

POLICY = Retry(attempts=10, max_age_s=1_000.0, pause_s=1.0, longest_pause_s=60.0)


def test_the_longest_pause_doubles_up_to_its_limit() -> None:
    assert [longest_pause_s(POLICY, failures) for failures in range(1, 9)] == [1, 2, 4, 8, 16, 32, 60, 60]
    assert longest_pause_s(POLICY, 100_000) == 60


def test_the_jitter_is_full() -> None:
    assert after_failure(POLICY, failures=3, age_s=0, chance=0.0) == Again(0.0)
    assert after_failure(POLICY, failures=3, age_s=0, chance=0.5) == Again(2.0)
    assert after_failure(POLICY, failures=3, age_s=0, chance=1.0) == Again(4.0)


def test_it_gives_up_at_the_last_attempt_and_not_before() -> None:
    assert isinstance(after_failure(POLICY, failures=9, age_s=0, chance=1.0), Again)
    assert after_failure(POLICY, failures=10, age_s=0, chance=1.0) == GiveUp(
        "failed 10 times: retry.attempts is 10"
    )
    assert isinstance(after_failure(Retry(attempts=1), failures=1, age_s=0, chance=1.0), GiveUp)


def test_it_gives_up_at_the_maximum_age_and_tries_once_more_right_then() -> None:
    assert after_failure(POLICY, failures=7, age_s=990, chance=1.0) == Again(10.0)
    assert isinstance(after_failure(POLICY, failures=7, age_s=1_000, chance=1.0), GiveUp)


def test_retry_after_is_waited_for_and_the_jitter_comes_on_top() -> None:
    assert after_failure(POLICY, failures=2, age_s=0, chance=0.0, retry_after_s=30) == Again(30.0)
    assert after_failure(POLICY, failures=2, age_s=0, chance=1.0, retry_after_s=30) == Again(32.0)


def test_who_is_told_to_wait_longer_than_there_is_time_gives_up_at_once() -> None:
    assert after_failure(POLICY, failures=1, age_s=400, chance=1.0, retry_after_s=599) == Again(600.0)
    assert isinstance(after_failure(POLICY, failures=1, age_s=400, chance=0.0, retry_after_s=600), GiveUp)


@given(
    policy=st.builds(
        Retry,
        attempts=st.integers(1, 1_000),
        max_age_s=st.floats(0.001, 1e7),
        pause_s=st.floats(0, 100),
        longest_pause_s=st.floats(100, 1e5),
    ),
    chances=st.lists(st.floats(0, 1), min_size=1, max_size=50),
    told=st.none() | st.floats(0, 1e6),
)
def test_every_walk_ends_within_attempts_and_age(
    policy: Retry, chances: list[float], told: float | None
) -> None:
    age_s = 0.0
    for failures in range(1, policy.attempts + 1):
        chance = chances[failures % len(chances)]
        decision = after_failure(policy, failures=failures, age_s=age_s, chance=chance, retry_after_s=told)
        if isinstance(decision, GiveUp):
            return
        assert decision.after_s >= 0
        if told is not None:
            assert decision.after_s >= told
        age_s += decision.after_s
        assert age_s <= policy.max_age_s * (1 + 1e-9)
    raise AssertionError("tried more often than retry.attempts")
