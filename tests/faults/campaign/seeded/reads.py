"""Answers that commit nothing, conditions, and the cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Any, Final

from tests.faults.campaign.seeded.switch import put

from inversion import transition
from inversion.messages import Address, Change, MessageOut, State, Stored, Turn
from inversion.state import cache, loader, rows, store

#: An answer this old is taken for the newest.
_MOMENT_S: Final = 0.1


def stale_cached_read() -> None:
    """What commits nothing is answered from the cache, unchecked."""

    async def trust(self: loader.Loader, connection: object, walks: Sequence[loader.LoadWalk]) -> bool:
        for walk in walks:
            walk.resume(loader.NO_STATE)
        return False

    put(loader.Loader, "_check", trust)


def state_read_from_the_cache() -> None:
    """GET /v1/state shows what this node has seen last."""
    original = store.PostgresStore.read_state

    async def read(self: store.PostgresStore, address: Address, deadline_s: float) -> State:
        return self.cache.get(address) or await original(self, address, deadline_s)

    put(store.PostgresStore, "read_state", read)


def refusals_unchecked() -> None:
    """A function's refusal goes out though the state it was computed from may be old."""
    _unchecked(lambda state, out: all(each.error is not None for each in out.answers))


def absence_unchecked() -> None:
    """That there is nothing is believed to the cache."""
    _unchecked(lambda state, out: state.turn is None)


def mismatch_from_the_cache() -> None:
    """An If-Match is held against the cache alone."""
    _unchecked(lambda state, out: all(each.refusal is not None for each in out.answers))


def _unchecked(which: Callable[[State, MessageOut], bool]) -> None:
    original = store.PostgresStore.store_state

    async def believe(self: store.PostgresStore, turn: Turn, state: State, out: MessageOut) -> Stored:
        if (
            turn.address.key is not None
            and out.change is Change.KEEP
            and not store._keyed(turn)
            and which(state, out)
        ):
            return Stored(out.answers, [state.version] * len(out.answers), out.content_type)
        return await original(self, turn, state, out)

    put(store.PostgresStore, "store_state", believe)


def checked_a_moment_ago() -> None:
    """What was the newest a tenth of a second ago is not looked at again."""
    original = store.PostgresStore._confirm
    latest: dict[Address, tuple[bytes | None, float]] = {}

    async def confirm(self: store.PostgresStore, check: rows.Check) -> None:
        turn, when_s = latest.get(check.address, (b"", 0.0))
        if turn == check.computed_from and perf_counter() - when_s < _MOMENT_S:
            return
        await original(self, check)
        latest[check.address] = check.computed_from, perf_counter()

    put(store.PostgresStore, "_confirm", confirm)


def if_match_ignored() -> None:
    """No condition is looked at."""
    put(transition, "refuse_unmet", lambda turn, state: None)


def loads_matched_by_order() -> None:
    """Of states that are loaded together the first row is taken for the first entity."""

    def loaded(found: Any, count: int) -> list[State]:
        states = [State(None, 0, None, True)] * count
        for row in range(found.count):
            version = int.from_bytes(found.value(row, 1) or b"", "big")
            states[row] = State(found.value(row, 3), version, found.value(row, 2), True)
        return states

    put(rows, "loaded_states", loaded)


def delete_not_cached() -> None:
    """After a delete the cache holds what was there before, as if it were the newest."""
    original = cache.StateCache.put

    def keep(self: cache.StateCache, address: Address, state: State) -> None:
        before = self.get(address)
        if state.value is None and state.turn is not None and before is not None:
            state = state._replace(value=before.value)
        original(self, address, state)

    put(cache.StateCache, "put", keep)


BUGS: Final = (
    stale_cached_read,
    state_read_from_the_cache,
    refusals_unchecked,
    absence_unchecked,
    mismatch_from_the_cache,
    checked_a_moment_ago,
    if_match_ignored,
    loads_matched_by_order,
    delete_not_cached,
)
