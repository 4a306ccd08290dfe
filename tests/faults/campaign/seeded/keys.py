"""Requests that come again with the same Idempotency-Key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

import attrs
from tests.faults.campaign.seeded.switch import put, rewrite

from inversion import mailbox
from inversion.messages import Recorded, State, Turn
from inversion.state import loader, rows, store, sweeper

_LOOKING: Final = ("COMMIT_KEYED", "COMMIT_KEYED_EACH")
_KEYED: Final = (*_LOOKING, "COMMIT_KEYED_NEW")
_RECORDED: Final = "     WHERE (n.turn IN (SELECT up.turn FROM up)) IS TRUE\n"
_ONCE: Final = "        ON CONFLICT (function, key, id) DO NOTHING\n"


def keys_not_looked_up() -> None:
    """An Idempotency-Key is recorded, and no commit asks whether it was."""

    async def nothing(connection: object, walks: object) -> dict[int, Any]:
        return {}

    put(loader, "_records", nothing)
    for name in _LOOKING:
        rewrite(
            name,
            "\n       AND NOT EXISTS"
            " (SELECT 1 FROM known AS k WHERE k.function = m.function AND k.key = m.key)",
        )
    for name in _KEYED:
        rewrite(name, _RECORDED, by=_RECORDED + _ONCE)


def records_not_kept() -> None:
    """No answer is kept."""
    put(store, "records_of", lambda *_: ())


def refusals_not_recorded() -> None:
    """Only what was applied is kept under its key."""
    original = rows.records_of

    def applied_only(turn: Turn, answers: Any, versions: Any, content_type: str) -> list[rows.Record]:
        return [each for each in original(turn, answers, versions, content_type) if each.status == 200]

    put(store, "records_of", applied_only)


def keys_forgotten_at_once() -> None:
    """The retention is over as soon as it begins."""
    original = sweeper.sweep

    async def sweep_all(conninfo: str, kept: sweeper.Kept, window_s: float) -> int:
        return await original(conninfo, sweeper.Kept(0.0, kept.outputs_s), window_s)

    put(sweeper, "sweep", sweep_all)
    put(sweeper, "PAUSE_S", 0.2)


def equal_keys_in_one_turn() -> None:
    """Two requests with one key may share a turn."""
    put(mailbox, "_repeats_one_of", lambda request, requests: False)
    for name in _KEYED:
        rewrite(name, _RECORDED, by=_RECORDED + _ONCE)


def replay_tells_the_newest_version() -> None:
    """A recorded answer is told with the version of today."""
    _replayed_otherwise(lambda turn, records, state: _of_today(records, state))


def _of_today(records: Mapping[str, Recorded], state: State) -> Mapping[str, Recorded]:
    return {id_: attrs.evolve(each, version=state.version) for id_, each in records.items()}


def body_not_compared() -> None:
    """A key brings its recorded answer, whatever is asked for with it."""

    def of_the_same(turn: Turn, records: Mapping[str, Recorded], state: State) -> Mapping[str, Recorded]:
        hashes = {each.idempotency.id: each.idempotency.hash for each in turn.requests if each.idempotency}
        return {id_: attrs.evolve(each, hash=hashes.get(id_, b"")) for id_, each in records.items()}

    _replayed_otherwise(of_the_same)


def _replayed_otherwise(changed: Any) -> None:
    original = store.PostgresStore.load_state

    async def load(self: store.PostgresStore, turn: Turn) -> State:
        state = await original(self, turn)
        return state._replace(records=changed(turn, state.records, state)) if state.records else state

    put(store.PostgresStore, "load_state", load)


def last_stateless_answer_wins() -> None:
    """Of two answers to one stateless request the later one is kept, and both are told."""
    rewrite(
        "COMMIT_KEYED",
        _ONCE + "    RETURNING turn",
        by="        ON CONFLICT (function, key, id) DO UPDATE\n"
        "       SET turn = excluded.turn, body = excluded.body\n    RETURNING turn",
    )


BUGS: Final = (
    keys_not_looked_up,
    records_not_kept,
    refusals_not_recorded,
    keys_forgotten_at_once,
    equal_keys_in_one_turn,
    replay_tells_the_newest_version,
    body_not_compared,
    last_stateless_answer_wins,
)
