"""What a commit checks, and what may be said of it."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Sequence
from typing import Any, Final

from tests.faults.campaign.seeded.switch import put, rewrite

from inversion import transition
from inversion.messages import Stored, Turn
from inversion.state import committer, migrate, resolver, rows, store
from inversion.state.dialing import Settings
from inversion.state.postgres import Connection, StatementFailed

_REPLACED: Final = " WHERE e.turn = excluded.prev"
_KEYED: Final = ("COMMIT_KEYED", "COMMIT_KEYED_EACH", "COMMIT_KEYED_NEW")
_REPLACED_ONE: Final = " AND turn = $5::uuid"


def no_check() -> None:
    """A commit replaces whatever is there."""
    rewrite("COMMIT", _REPLACED)
    for name in _KEYED:
        rewrite(name, _REPLACED)
    rewrite("COMMIT_ONE", _REPLACED_ONE)


def older_version_replaced() -> None:
    """A commit replaces the turn it was computed from, and any older version."""
    rewrite("COMMIT", _REPLACED, by=" WHERE e.turn = excluded.prev OR e.version < excluded.version")
    for name in _KEYED:
        rewrite(name, _REPLACED, by=" WHERE e.turn = excluded.prev OR e.version < excluded.version")
    for name in _KEYED[:2]:
        rewrite(
            name,
            "(m.prev IS NULL\n            OR m.prev = (SELECT g.turn FROM inversion.entity AS g\n"
            "                          WHERE g.function = m.function AND g.key = m.key))",
            by="true",
        )
    rewrite("COMMIT_ONE", _REPLACED_ONE, by=" AND (turn = $5::uuid OR version < $3::int8)")
    for name, indent in (("COMMIT", ""), ("COMMIT_KEYED_NEW", "    ")):
        rewrite(
            name,
            f"{indent} WHERE m.prev IS NULL\n"
            f"{indent}    OR m.prev = (SELECT g.turn FROM inversion.entity AS g"
            " WHERE g.function = m.function AND g.key = m.key)\n",
        )


def new_entity_overwrites() -> None:
    """Who found nothing writes over what came meanwhile."""
    for name in ("COMMIT", *_KEYED):
        rewrite(name, _REPLACED, by=f"{_REPLACED} OR excluded.prev IS NULL")


def _ids_of(id_of: Callable[[bytes, bytes, int], bytes]) -> None:
    def made(turn: Turn, function: bytes, key: bytes, version: int, id_: bytes, *rest: Any) -> rows.Commit:
        own = (
            id_ if key == rows.STATELESS_KEY else hashlib.sha256(id_of(function, key, version)).digest()[:16]
        )
        return rows.Commit(turn, function, key, version, own, *rest)

    put(store, "Commit", made)


def turn_id_of_the_node() -> None:
    """A node's turns of one entity all have the same id."""
    own = os.urandom(16)
    _ids_of(lambda function, key, version: b"%b %b/%b" % (own, function, key))


def turn_id_of_the_version() -> None:
    """The compare-and-set is on the version number: a turn's id is made of it."""
    _ids_of(lambda function, key, version: b"%b/%b %d" % (function, key, version))


def no_tombstone() -> None:
    """What is deleted is gone, and its versions begin again."""
    check = migrate.check

    async def check_and_clear(connection: Connection) -> Sequence[str]:
        newer = await check(connection)
        try:
            await connection.run_script(_CLEAR)
        except StatementFailed as failure:
            if failure.sqlstate != "55P03":  # the other node has put it there, and serves
                raise
        return newer

    put(migrate, "check", check_and_clear)


_CLEAR: Final = """
SELECT pg_advisory_xact_lock(1);
CREATE OR REPLACE FUNCTION inversion.clear() RETURNS trigger LANGUAGE plpgsql AS
'BEGIN DELETE FROM inversion.entity WHERE function = NEW.function AND key = NEW.key; RETURN NULL; END';
CREATE OR REPLACE TRIGGER clear AFTER INSERT OR UPDATE ON inversion.entity
FOR EACH ROW WHEN (NEW.state IS NULL) EXECUTE FUNCTION inversion.clear()
"""


def conflict_taken_for_success() -> None:
    """A member of a batch that does not come back is taken as applied."""

    def settle(walks: Sequence[resolver.CommitWalk], statement: object, sent: object) -> None:
        for walk in walks:
            walk.resume(None)

    put(committer, "_settle", settle)


def batch_settled_by_order() -> None:
    """When some of a batch come back, the first ones are taken as applied."""
    settle = committer._settle

    def by_order(walks: Sequence[resolver.CommitWalk], statement: Any, sent: Any) -> None:
        for walk in walks[: sent.count]:
            walk.resume(None)
        if sent.count < len(walks):
            settle(walks[sent.count :], statement, _Nothing())

    put(committer, "_settle", by_order)


class _Nothing:
    count = 0


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

    put(committer.Committer, "_commit", commit)


def commit_not_durable() -> None:
    """A commit is acknowledged before it is on the disk."""
    values = vars(Settings)["values"].fget
    put(Settings, "values", property(lambda self: {**values(self), "synchronous_commit": "off"}))


def one_version_for_a_turn() -> None:
    """Every answer of a turn has the version of its end."""
    original = store._versions
    put(store, "_versions", lambda version, answers: [original(version, answers)[-1]] * len(answers))


def answers_swapped() -> None:
    """The answers of a turn go out in the order of another."""
    original = transition.send_response

    def send(turn: Turn, stored: Stored) -> None:
        original(turn, Stored(stored.answers[::-1], stored.versions, stored.content_type))

    put(transition, "send_response", send)


def late_answers_accepted() -> None:
    """A turn whose callers were told that it was not applied is committed all the same."""
    put(Turn, "abandoned", property(lambda self: False))


BUGS: Final = (
    no_check,
    older_version_replaced,
    new_entity_overwrites,
    turn_id_of_the_node,
    turn_id_of_the_version,
    no_tombstone,
    conflict_taken_for_success,
    batch_settled_by_order,
    reply_before_commit,
    commit_not_durable,
    one_version_for_a_turn,
    answers_swapped,
    late_answers_accepted,
)
