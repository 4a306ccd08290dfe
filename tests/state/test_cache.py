"""The cache of states: bounded in bytes, the least recently used leave."""

from __future__ import annotations

from inversion.messages import Address, State
from inversion.state.cache import StateCache


def at(key: str) -> Address:
    return Address("f", key)


def test_the_cache_is_bounded_in_bytes_and_the_least_recently_used_leave() -> None:
    cache = StateCache(10_000)
    for n in range(100):
        cache.put(at(f"{n:02}"), State(b"x" * 500, n, b"t" * 16))
        cache.get(at("00"))
        assert cache.held_bytes <= 10_000
    assert 5 < len(cache) < 20
    assert cache.get(at("00")) is not None
    assert cache.get(at("99")) is not None
    assert cache.get(at("01")) is None


def test_a_state_larger_than_the_cache_is_not_kept() -> None:
    cache = StateCache(1_000)
    cache.put(at("big"), State(b"x" * 5_000, 1, b"t" * 16))
    assert (len(cache), cache.held_bytes) == (0, 0)


def test_replaced_and_dropped_entries_give_their_bytes_back() -> None:
    cache = StateCache(100_000)
    cache.put(at("k"), State(b"x" * 5_000, 1, b"t" * 16))
    cache.put(at("k"), State(b"x", 2, b"u" * 16))
    assert cache.held_bytes < 1_000
    cache.drop(at("k"))
    cache.drop(at("k"))
    assert (len(cache), cache.held_bytes) == (0, 0)
