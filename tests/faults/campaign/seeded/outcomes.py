"""Commits whose outcome is not known yet, guessed instead of resolved."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

from tests.faults.campaign.seeded.switch import put, rewrite

from inversion.errors import Conflict, InversionError, Outcome
from inversion.messages import Turn
from inversion.protocol import verdict
from inversion.state import resolver, rows, sql
from inversion.state.resolver import Finding


def run_again_when_unknown() -> None:
    """A commit whose answer was lost is taken for one that failed: the turn runs again."""

    def doubt(self: resolver.Resolver, walks: Sequence[resolver.CommitWalk]) -> None:
        for walk in list(walks):
            walk.item.turn.commit_sent = False
            walk.throw(Conflict())

    put(resolver.Resolver, "doubt", doubt)


def applied_when_unknown() -> None:
    """A commit whose answer was lost is taken for one that succeeded."""

    def doubt(self: resolver.Resolver, walks: Sequence[resolver.CommitWalk]) -> None:
        for walk in list(walks):
            walk.resume(None)

    put(resolver.Resolver, "doubt", doubt)


def unknown_said_not_applied() -> None:
    """`not_applied` is said where nobody knows."""
    for module, name in ((verdict, "expired"), (verdict, "cut_short"), (resolver, "unknown")):
        put(module, name, _denied(vars(module)[name]))

    def doubt(self: resolver.Resolver, walks: Sequence[resolver.CommitWalk]) -> None:
        for walk in list(walks):
            walk.throw(resolver.unknown("the connection broke in a commit"))

    put(resolver.Resolver, "doubt", doubt)


def deadline_said_not_applied() -> None:
    """At the deadline `not_applied` is said, though the commit was sent."""
    put(verdict, "expired", _denied(verdict.expired))


def _denied(original: Callable[..., Any]) -> Callable[..., Any]:
    def deny(*given: Turn | str | None) -> InversionError:
        error: InversionError = original(*given)
        error.outcome = Outcome.NOT_APPLIED
        return error

    return deny


def plain_select_resolver() -> None:
    """A commit that a plain SELECT does not show is taken as never landed: it may be at work still."""
    rewrite("FIND", "\n   FOR UPDATE OF e")

    async def look(self: Any, connection: Any, walks: Sequence[resolver.CommitWalk]) -> None:
        found = await connection.execute(sql.FIND, rows.find_parameters([walk.item for walk in walks]))
        newest = {place: found.value(row, 1) for row, place in enumerate(rows.places(found))}
        for place, walk in enumerate(walks):
            landed = newest.get(place) == walk.item.id
            self._settle(walk, Finding.APPLIED if landed else Finding.NEVER_LANDS)

    put(resolver.Resolver, "_resolve_together", look)


def moved_on_taken_as_applied() -> None:
    """Where the entity has moved on, the commit is taken as one of those that moved it."""
    _decided_otherwise(Finding.APPLIED)


def moved_on_taken_as_never_landed() -> None:
    """Where the entity has moved on, the commit is taken as one that did not."""
    _decided_otherwise(Finding.NEVER_LANDS)


def _decided_otherwise(instead: Finding) -> None:
    decide = resolver.decide

    def guess(*given: Any, **facts: Any) -> Finding:
        found = decide(*given, **facts)
        return instead if found is Finding.UNKNOWN else found

    put(resolver, "decide", guess)


BUGS: Final = (
    run_again_when_unknown,
    applied_when_unknown,
    unknown_said_not_applied,
    deadline_said_not_applied,
    plain_select_resolver,
    moved_on_taken_as_applied,
    moved_on_taken_as_never_landed,
)
