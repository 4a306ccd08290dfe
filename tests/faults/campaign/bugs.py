"""A node with one bug on purpose: `python bugs.py NAME serve ...`, for the campaign to find.

The bugs live here and replace parts of a node that runs; nothing of them ships. Each is a promise of
storage.md that somebody might forget; what it takes to see it is the business of the ordinary campaign.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

from inversion import mailbox
from inversion.errors import Conflict, Outcome
from inversion.messages import Turn
from inversion.protocol import verdict
from inversion.state import committer, loader, resolver, rows, sql, store

_RECORDED: Final = "     WHERE (n.turn IN (SELECT up.turn FROM up)) IS TRUE\n"


def _without(statement: sql.Statement, part: str, *, by: str = "") -> sql.Statement:
    text = statement.text.decode()
    assert part in text, f"the statement has changed: {part}"
    return sql.statement(text.replace(part, by))


def no_check() -> None:
    """A commit replaces whatever is there."""
    condition = " WHERE e.turn = excluded.prev"
    sql.COMMIT = _without(sql.COMMIT, condition)
    sql.COMMIT_KEYED = _without(sql.COMMIT_KEYED, condition)
    sql.COMMIT_ONE = _without(sql.COMMIT_ONE, " AND turn = $5::uuid")


def stale_cached_read() -> None:
    """What commits nothing is answered from the cache, unchecked."""

    async def trust(self: loader.Loader, connection: object, walks: Sequence[loader.LoadWalk]) -> bool:
        for walk in walks:
            walk.resume(loader.NO_STATE)
        return False

    loader.Loader._check = trust


def conflict_taken_for_success() -> None:
    """A member of a batch that does not come back is taken as applied."""

    def settle(walks: Sequence[resolver.CommitWalk], sent: object) -> None:
        for walk in walks:
            walk.resume(None)

    committer._settle = settle


def reply_before_commit() -> None:
    """Answered when the statement is about to be sent."""

    async def commit(self: committer.Committer, connection: Any, walks: list[resolver.CommitWalk]) -> None:
        statement = rows.commit_statement([walk.item for walk in walks])
        for walk in walks:
            walk.item.turn.commit_sent = True
            walk.resume(None)
        try:
            await connection.execute(*statement)
        except (committer.ConnectionLost, committer.StatementFailed):
            return

    committer.Committer._commit = commit


def run_again_when_unknown() -> None:
    """A commit whose answer was lost is taken for one that failed: the turn runs again."""

    def doubt(self: resolver.Resolver, walks: Sequence[resolver.CommitWalk]) -> None:
        for walk in list(walks):
            walk.item.turn.commit_sent = False
            walk.throw(Conflict())

    resolver.Resolver.doubt = doubt


def applied_when_unknown() -> None:
    """A commit whose answer was lost is taken for one that succeeded."""

    def doubt(self: resolver.Resolver, walks: Sequence[resolver.CommitWalk]) -> None:
        for walk in list(walks):
            walk.resume(None)

    resolver.Resolver.doubt = doubt


def unknown_said_not_applied() -> None:
    """`not_applied` is said where nobody knows."""

    def denied(original: Callable[..., Any]) -> Callable[..., Any]:
        def deny(*given: object) -> Any:
            error = original(*given)
            error.outcome = Outcome.NOT_APPLIED
            return error

        return deny

    for module, name in ((verdict, "expired"), (verdict, "cut_short"), (resolver, "unknown")):
        setattr(module, name, denied(getattr(module, name)))

    def doubt(self: resolver.Resolver, walks: Sequence[resolver.CommitWalk]) -> None:
        for walk in list(walks):
            walk.throw(resolver.unknown("the connection broke in a commit"))

    resolver.Resolver.doubt = doubt


def keys_not_looked_up() -> None:
    """An Idempotency-Key is recorded, and no commit asks whether it was."""

    async def nothing(connection: object, walks: object) -> dict[int, Any]:
        return {}

    loader._records = nothing
    condition = (
        "\n       AND NOT EXISTS (SELECT 1 FROM known AS k WHERE k.function = m.function AND k.key = m.key)"
    )
    sql.COMMIT_KEYED = _without(sql.COMMIT_KEYED, condition)
    sql.COMMIT_KEYED = _without(
        sql.COMMIT_KEYED, _RECORDED, by=_RECORDED + "        ON CONFLICT (function, key, id) DO NOTHING\n"
    )


def refusals_not_recorded() -> None:
    """Only what was applied is kept under its key."""
    original = rows.records_of

    def applied_only(turn: Turn, answers: Any, versions: Any, content_type: str) -> list[rows.Record]:
        return [each for each in original(turn, answers, versions, content_type) if each.status == 200]

    store.records_of = applied_only


def one_version_for_a_turn() -> None:
    """Every answer of a turn has the version of its end."""
    original = store._versions
    store._versions = lambda version, answers: [original(version, answers)[-1]] * len(answers)


def late_answers_accepted() -> None:
    """A turn whose callers were told that it was not applied is committed all the same."""
    Turn.abandoned = property(lambda self: False)


def equal_keys_in_one_turn() -> None:
    """Two requests with one key may share a turn."""
    mailbox._repeats_one_of = lambda request, requests: False
    sql.COMMIT_KEYED = _without(
        sql.COMMIT_KEYED, _RECORDED, by=_RECORDED + "        ON CONFLICT (function, key, id) DO NOTHING\n"
    )


BUGS: Final[dict[str, Callable[[], None]]] = {
    each.__name__: each
    for each in (
        no_check,
        stale_cached_read,
        conflict_taken_for_success,
        reply_before_commit,
        run_again_when_unknown,
        applied_when_unknown,
        unknown_said_not_applied,
        keys_not_looked_up,
        refusals_not_recorded,
        one_version_for_a_turn,
        late_answers_accepted,
        equal_keys_in_one_turn,
    )
}


def main() -> None:
    name = sys.argv.pop(1)
    BUGS[name]()
    from inversion.cli import main as run

    run()


if __name__ == "__main__":
    main()
