"""The simulation finds what it is there to find: each seeded bug breaks a promise within the same seeds."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from model_database import Database, Entity, ModelRows
from test_simulation import run

from inversion import mailbox
from inversion.errors import Code, Conflict, InversionError, Outcome
from inversion.messages import Change, Response, Turn
from inversion.state import committer, resolver, rows, sql, store
from inversion.state.resolver import Finding
from inversion.state.rows import STATELESS_KEY

SEEDS = 3_000
Patch = Callable[[pytest.MonkeyPatch], None]


def no_compare_and_set(patch: pytest.MonkeyPatch) -> None:
    def update(self, function, key, version, turn, prev, state):  # type: ignore[no-untyped-def]
        self.entities[function, key] = Entity(version, turn, prev, state)
        return [(turn,)]

    patch.setattr(Database, "_update", update)


def no_look_at_known_keys(patch: pytest.MonkeyPatch) -> None:
    upsert = Database._upsert
    patch.setattr(Database, "_upsert", lambda self, columns, _: upsert(self, columns, frozenset()))


def equal_keys_share_a_turn(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(mailbox, "_repeats_one_of", lambda *_: False)


def unknown_is_called_not_applied(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(
        resolver,
        "unknown",
        lambda detail: InversionError(Code.DEADLINE, detail, outcome=Outcome.NOT_APPLIED),
    )


def deadline_after_sending_is_called_not_applied(patch: pytest.MonkeyPatch) -> None:
    expired = mailbox.verdict.expired

    def forgets(turn: Turn | None) -> InversionError:
        error = expired(turn)
        error.outcome = Outcome.NOT_APPLIED
        return error

    patch.setattr(mailbox.verdict, "expired", forgets)


def what_is_still_there_never_landed(patch: pytest.MonkeyPatch) -> None:
    """A plain look instead of sending it again: the statement that is still on its way lands later."""

    async def look(self, connection, walks):  # type: ignore[no-untyped-def]
        found = await connection.execute(sql.FIND, rows.find_parameters([walk.item for walk in walks]))
        newest = dict(zip(rows.places(found), (found.value(n, 1) for n in range(found.count)), strict=True))
        for place, walk in enumerate(walks):
            landed = newest.get(place) == walk.item.id
            self._settle(walk, Finding.APPLIED if landed else Finding.NEVER_LANDS)

    patch.setattr(resolver.Resolver, "_resolve_together", look)


def what_moved_on_was_applied(patch: pytest.MonkeyPatch) -> None:
    decide = resolver.decide

    def hopeful(*args: object, **facts: object) -> Finding:
        found = decide(*args, **facts)  # type: ignore[arg-type]
        return Finding.APPLIED if found in (Finding.UNKNOWN, Finding.NEVER_LANDS) else found

    patch.setattr(resolver, "decide", hopeful)


def what_moved_on_never_landed(patch: pytest.MonkeyPatch) -> None:
    decide = resolver.decide

    def careless(*args: object, **facts: object) -> Finding:
        found = decide(*args, **facts)  # type: ignore[arg-type]
        return Finding.NEVER_LANDS if found is Finding.UNKNOWN else found

    patch.setattr(resolver, "decide", careless)


def a_cached_read_is_not_confirmed(patch: pytest.MonkeyPatch) -> None:
    async def trust(self: object, check: object) -> None:
        return

    patch.setattr(store.PostgresStore, "_confirm", trust)


def a_check_finds_everything_newest(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Database, "_outdated", lambda *_: [])


def a_member_that_did_not_come_back_is_settled(patch: pytest.MonkeyPatch) -> None:
    def settle(walks, statement, sent):  # type: ignore[no-untyped-def]
        for walk in walks:
            walk.resume(None)

    patch.setattr(committer, "_settle", settle)


def a_late_answer_is_stored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(Turn, "abandoned", property(lambda self: False))


def refusals_are_not_recorded(patch: pytest.MonkeyPatch) -> None:
    records_of = store.records_of

    def answers_only(turn, answers, versions, content_type):  # type: ignore[no-untyped-def]
        kept = records_of(turn, answers, versions, content_type)
        return [record for record in kept if record.status == 200]

    patch.setattr(store, "records_of", answers_only)


def a_delayed_statement_is_forgotten_by_its_sender(patch: pytest.MonkeyPatch) -> None:
    """Lost after sending, and run again as if nothing had been sent."""
    patch.setattr(resolver.Resolver, "doubt", lambda self, walks: [walk.throw(Conflict()) for walk in walks])


def a_version_is_skipped(patch: pytest.MonkeyPatch) -> None:
    versions = store._versions
    patch.setattr(store, "_versions", lambda version, answers: versions(version + version // 3, answers))


def the_compare_and_set_is_on_the_version(patch: pytest.MonkeyPatch) -> None:
    def update(self, function, key, version, turn, prev, state):  # type: ignore[no-untyped-def]
        entity = self.entities.get((function, key))
        if entity is None or version <= entity.version:
            return []
        self.entities[function, key] = Entity(version, turn, prev, state)
        return [(turn,)]

    patch.setattr(Database, "_update", update)


def a_new_entity_overwrites(patch: pytest.MonkeyPatch) -> None:
    upsert = Database._upsert

    def overwrite(self, columns, known):  # type: ignore[no-untyped-def]
        for row in list(zip(*columns, strict=True)):
            if row[4] is None:
                self.entities.pop(row[:2], None)
        return upsert(self, columns, known)

    patch.setattr(Database, "_upsert", overwrite)


def records_are_not_kept(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(store, "records_of", lambda *_: ())


def a_warning_is_ignored(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(ModelRows, "warned", property(lambda self: False, lambda self, _: None), raising=False)


def the_last_answer_of_a_stateless_call_wins(patch: pytest.MonkeyPatch) -> None:
    keyed = Database._commit_keyed

    def overwrite(self, parameters, **how):  # type: ignore[no-untyped-def]
        for place in [place for place in self.requests if place[1] == STATELESS_KEY]:
            del self.requests[place]
        return keyed(self, parameters, **how)

    patch.setattr(Database, "_commit_keyed", overwrite)


def turn_ids_repeat(patch: pytest.MonkeyPatch) -> None:
    patch.setattr(store, "new_turn_id", lambda: b"t" * 16)


def an_answer_goes_out_before_its_commit(patch: pytest.MonkeyPatch) -> None:
    stored = store.PostgresStore.store_state

    async def hurried(self, turn, state, out):  # type: ignore[no-untyped-def]
        if out.change is Change.KEEP:
            return await stored(self, turn, state, out)
        versions = store._versions(state.version, out.answers)
        for request, answer, version in zip(turn.requests, out.answers, versions, strict=True):
            if answer.error is None:
                request.answer(Response(answer.response or b"null", version=version))
        return await stored(self, turn, state, out)

    patch.setattr(store.PostgresStore, "store_state", hurried)


BUGS: list[Patch] = [
    no_compare_and_set,
    no_look_at_known_keys,
    equal_keys_share_a_turn,
    unknown_is_called_not_applied,
    deadline_after_sending_is_called_not_applied,
    what_is_still_there_never_landed,
    what_moved_on_was_applied,
    what_moved_on_never_landed,
    a_cached_read_is_not_confirmed,
    a_check_finds_everything_newest,
    a_member_that_did_not_come_back_is_settled,
    a_late_answer_is_stored,
    records_are_not_kept,
    refusals_are_not_recorded,
    a_delayed_statement_is_forgotten_by_its_sender,
    a_version_is_skipped,
    the_compare_and_set_is_on_the_version,
    a_new_entity_overwrites,
    a_warning_is_ignored,
    the_last_answer_of_a_stateless_call_wins,
    turn_ids_repeat,
    an_answer_goes_out_before_its_commit,
]


def histories_until_found(bug: Patch, first: int, patch: pytest.MonkeyPatch) -> int | None:
    """How many histories from that seed on it takes until a promise is broken; None: none is."""
    bug(patch)
    for seed in range(first, first + SEEDS):
        try:
            run(seed)
        except AssertionError:
            return seed - first + 1
    return None


@pytest.mark.timeout(120)
@pytest.mark.parametrize("bug", BUGS, ids=lambda bug: bug.__name__)
def test_a_seeded_bug_is_found(bug: Patch, monkeypatch: pytest.MonkeyPatch) -> None:
    found = histories_until_found(bug, 0, monkeypatch)
    assert found is not None, f"{bug.__name__} broke no promise in {SEEDS} histories"
