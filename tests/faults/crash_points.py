"""Numbered moments of a commit's way, at which a node kills itself: INVERSION_CRASH_AT, for altered_node.py.

`9` is point 9 at its first passage, `9:4` at its fourth. `any:4` is the fourth time that a statement has been
sent and not been answered yet, whichever it is: for `migrate`, which has no numbers of its own.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from enum import Enum
from typing import Any, Final

from inversion import transition
from inversion.http.service import Departures
from inversion.state import committer, resolver, sql
from inversion.state.postgres import Connection


class Lose(Enum):
    """How the commit is lost that makes an outcome unknown."""

    BEFORE = "the server never saw it"
    AFTER = "the server had committed it"


#: What can be waited for at a statement, in the words of the points.
_STATEMENTS: Final = {
    sql.LOAD.name: "load",
    sql.RECORDED.name: "look-up of keys",
    sql.COMMIT.name: "commit",
    sql.COMMIT_ONE.name: "commit",
    sql.COMMIT_KEYED.name: "commit",
    sql.COMMIT_KEYED_EACH.name: "commit",
    sql.COMMIT_KEYED_NEW.name: "commit",
    sql.FIND.name: "look under the lock",
    sql.SWEEP_REQUESTS.name: "sweep",
}

_KEYED: Final = (sql.COMMIT_KEYED_EACH, sql.COMMIT_KEYED_NEW)

Point = tuple[str, int, Lose | None]

#: Each with the passage at which it is tried, and how an outcome becomes unknown that leads there.
POINTS: Final[Sequence[Point]] = (
    ("load: sent", 1, None),
    ("look-up of keys: answered", 1, None),
    ("message: about to go to the function", 5, None),
    ("message: with the function", 5, None),
    ("message: the function has answered", 5, None),
    ("commit: about to be sent", 9, None),
    ("commit: sent", 9, None),
    ("commit: answered", 9, None),
    ("answers: made", 9, None),
    ("answers: about to leave", 9, None),
    ("answers: one of several has left", 2, None),
    ("answers: have left", 9, None),
    ("unknown outcome: about to be resolved", 1, Lose.BEFORE),
    ("commit again: about to be sent", 1, Lose.BEFORE),
    ("commit again: sent", 1, Lose.BEFORE),
    ("commit again: answered", 1, Lose.BEFORE),
    ("look under the lock: sent", 1, Lose.AFTER),
    ("look under the lock: answered", 1, Lose.AFTER),
    ("look-up again: answered", 1, Lose.AFTER),
    ("unknown outcome: resolved", 1, Lose.AFTER),
    ("sweep: sent", 1, None),
    ("sweep: answered", 1, None),
)


def arm(crash_at: str) -> None:
    """From now on the node dies there."""
    point, _, passage = crash_at.partition(":")
    if point == "any":
        _watch_statements(Fuse("any: sent", int(passage)), None)
        return
    name, _, lose = POINTS[int(point) - 1]
    fuse = Fuse(name, int(passage or 1))
    _watch_statements(fuse, lose)
    _watch_steps(fuse)
    _watch_answers(fuse)
    _watch_resolver(fuse)


class Fuse:
    """Kills this process when it is told the right name for the nth time."""

    def __init__(self, name: str, passage: int) -> None:
        self._name = name
        self._left = passage
        self._serves = False  #: an answer has left

    def at(self, name: str) -> None:
        self._serves = self._serves or name == "answers: have left"
        if name == self._name and (self._serves or not name.startswith("sweep")):
            self._left -= 1
            if not self._left:
                os.kill(os.getpid(), signal.SIGKILL)


def _watch_statements(fuse: Fuse, lose: Lose | None) -> None:
    execute, finish = Connection.execute, Connection._finish
    lost: list[str] = []  #: at most one: the outcome is made unknown once
    statements: dict[Connection, str] = {}
    resolving: set[Connection] = set()
    resolve = resolver.Resolver._resolve_together

    async def watched_resolve(self: resolver.Resolver, connection: Connection, walks: Any) -> None:
        resolving.add(connection)
        try:
            await resolve(self, connection, walks)
        finally:
            resolving.discard(connection)

    async def watched_execute(self: Connection, statement: sql.Statement, *rest: Any) -> Any:
        await self.prepare(statement)  # is no moment of its own
        name = _STATEMENTS.get(statement.name, "another")
        if self in resolving:
            name = {"commit": "commit again", "look-up of keys": "look-up again"}.get(name, name)
        statements[self] = name
        loses = None if lost or statement not in _KEYED or self in resolving else lose
        fuse.at(f"{name}: about to be sent")
        if loses is Lose.BEFORE:
            lost.append(name)
            self.close()
            raise committer.ConnectionLost("lost on purpose before it was sent", sent=True)
        try:
            result = await execute(self, statement, *rest)
        finally:
            del statements[self]
        if loses is Lose.AFTER:
            lost.append(name)
            self.close()
            raise committer.ConnectionLost("lost on purpose after it was answered", sent=True)
        fuse.at(f"{name}: answered")
        return result

    async def watched_finish(self: Connection, sent: bool) -> Any:
        while self._pgconn.flush():
            await self._waits.writable()
        if sent:
            fuse.at("any: sent")
        if self in statements:
            fuse.at(f"{statements[self]}: sent")
        return await finish(self, sent)

    resolver.Resolver._resolve_together = watched_resolve  # type: ignore[method-assign]
    Connection.execute = watched_execute  # type: ignore[method-assign]
    Connection._finish = watched_finish  # type: ignore[method-assign]


def _watch_steps(fuse: Fuse) -> None:
    send, store, respond = transition.send_message_in, transition.store_state, transition.send_response

    async def watched_send(*given: Any) -> Any:
        fuse.at("message: about to go to the function")
        sent = await send(*given)
        fuse.at("message: with the function")
        return sent

    async def watched_store(*given: Any) -> Any:
        fuse.at("message: the function has answered")
        return await store(*given)

    def watched_respond(*given: Any) -> None:
        respond(*given)
        fuse.at("answers: made")

    transition.send_message_in = watched_send
    transition.store_state = watched_store
    transition.send_response = watched_respond


def _watch_answers(fuse: Fuse) -> None:
    send = Departures._send

    def watched_send(self: Departures) -> None:
        fuse.at("answers: about to leave")
        if len(self.waiting) > 1:
            walks, self.waiting = self.waiting, self.waiting[:1]
            send(self)
            fuse.at("answers: one of several has left")
            self.waiting = walks[1:] + self.waiting
        send(self)
        fuse.at("answers: have left")

    Departures._send = watched_send  # type: ignore[method-assign]


def _watch_resolver(fuse: Fuse) -> None:
    doubt, settle = resolver.Resolver.doubt, resolver.Resolver._settle

    def watched_doubt(self: resolver.Resolver, walks: Any) -> None:
        fuse.at("unknown outcome: about to be resolved")
        doubt(self, walks)

    def watched_settle(self: resolver.Resolver, *given: Any) -> None:
        fuse.at("unknown outcome: resolved")
        settle(self, *given)

    resolver.Resolver.doubt = watched_doubt  # type: ignore[method-assign]
    resolver.Resolver._settle = watched_settle  # type: ignore[method-assign]
