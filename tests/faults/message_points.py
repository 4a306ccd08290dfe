"""Numbered moments of a message's way, at which a node kills itself: INVERSION_CRASH_AT=m9.

`m9` is point 9 at its first passage, `m9:4` at its fourth; `t1` is one of what is published. A message is
deleted, and its answer is born, in the commit that consumes it: what stands between is no moment of ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from crash_points import Fuse, Lose, Point

from inversion import app, transition
from inversion.delivery.dispatcher import Dispatcher
from inversion.messages import Turn
from inversion.state import committer, resolver, rows, sql
from inversion.state.postgres import Connection

#: What can be waited for at a statement, in the words of the points; of a commit it depends on what is in it.
_STATEMENTS: Final = {
    sql.CLAIM_MESSAGES.name: "claim",
    sql.CLAIM_TIMERS.name: "claim of timers",
    sql.RENEW_MESSAGES.name: "renewal",
    sql.PUT_OFF_MESSAGES.name: "giving back",
    sql.BURY_MESSAGE.name: "burial",
    sql.FAN_OUT.name: "fan-out",
    sql.FIND.name: "look under the lock",
}

#: Each with the passage at which it is tried, and how an outcome becomes unknown that leads there.
POINTS: Final[Sequence[Point]] = (
    ("birth: sent", 5, None),
    ("birth: answered", 5, None),
    ("birth: in the hands of its node", 5, None),
    ("claim: sent", 9, None),
    ("claim: answered", 1, None),
    ("claim of timers: answered", 3, None),
    ("message: about to go to the function", 9, None),
    ("message: with the function", 9, None),
    ("message: the function has answered", 9, None),
    ("consuming: about to be sent", 9, None),
    ("consuming: sent", 9, None),
    ("consuming: answered", 9, None),
    ("consuming: the dispatcher has heard", 9, None),
    ("reply: sent", 3, None),
    ("reply: answered", 3, None),
    ("ringing: sent", 3, None),
    ("ringing: answered", 3, None),
    ("renewal: sent", 1, None),
    ("renewal: answered", 1, None),
    ("giving back: sent", 1, None),
    ("giving back: answered", 1, None),
    ("burial: sent", 1, None),
    ("burial: answered", 1, None),
    ("consuming again: sent", 1, Lose.BEFORE),
    ("consuming again: answered", 1, Lose.BEFORE),
    ("look under the lock: answered", 1, Lose.AFTER),
)

#: The same of what is published, INVERSION_CRASH_AT=t1: each for a life of its own, one after the other.
FAN_OUT_POINTS: Final[Sequence[Point]] = (
    ("fan-out: about to be sent", 1, None),
    ("fan-out: sent", 1, None),
    ("fan-out: answered", 1, None),
    ("fan-out: about to be sent", 3, None),
    ("fan-out: sent", 3, None),
    ("fan-out: answered", 3, None),
)


def arm(crash_at: str) -> None:
    """From now on the node dies there."""
    points = FAN_OUT_POINTS if crash_at.startswith("t") else POINTS
    point, _, passage = crash_at[1:].partition(":")
    name, _, lose = points[int(point) - 1]
    fuse = _Fuse(name, int(passage or 1))
    _watch_statements(fuse, lose)
    _watch_steps(fuse)


class _Fuse(Fuse):
    """Burns from the node's start line on: messages of a life before may be under way."""

    def __init__(self, name: str, passage: int) -> None:
        super().__init__(name, passage)
        self._started = False
        started = app._Node._started

        def watched(*given: Any) -> app.Started:
            self._started = True
            return started(*given)

        app._Node._started = watched  # type: ignore[assignment, method-assign]

    def at(self, name: str) -> None:
        if self._started:
            super().at(name)


def _kind_of(commits: Sequence[rows.Commit]) -> str:
    """What a commit is about, the rarest first."""
    deliveries = [
        request.delivery
        for commit in commits
        for request in commit.turn.requests
        if request.delivery is not None
    ]
    if any(each.timer is not None for each in deliveries):
        return "ringing"
    if any(each.reply_to is not None for each in deliveries):
        return "reply"
    if deliveries:
        return "consuming"
    return "birth" if any(commit.consequences is not None for commit in commits) else "another commit"


def _watch_statements(fuse: Fuse, lose: Lose | None) -> None:
    execute, finish, statement_of = Connection.execute, Connection._finish, rows.commit_statement
    resolve = resolver.Resolver._resolve_together
    kinds: dict[int, str] = {}  #: by the parameters, of commits that are on their way
    lost: list[str] = []  #: at most one: an outcome is made unknown once
    statements: dict[Connection, str] = {}
    resolving: set[Connection] = set()

    def watched_statement(commits: Sequence[rows.Commit], *, looks: bool = True) -> Any:
        statement, parameters = statement_of(commits, looks=looks)
        kinds[id(parameters)] = _kind_of(commits)
        return statement, parameters

    async def watched_resolve(self: resolver.Resolver, connection: Connection, walks: Any) -> None:
        resolving.add(connection)
        try:
            await resolve(self, connection, walks)
        finally:
            resolving.discard(connection)

    async def watched_execute(self: Connection, statement: sql.Statement, *rest: Any) -> Any:
        await self.prepare(statement)  # is no moment of its own
        kind = kinds.pop(id(rest[0]), None) if rest else None
        name = kind or _STATEMENTS.get(statement.name, "another")
        loses = None if lost or name != "consuming" or self in resolving else lose
        if kind is not None and self in resolving:
            name += " again"
        statements[self] = name
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
        claimed = result.count and result.value(0, 0) is not None
        if claimed or not name.startswith("claim"):  # of nothing it is none
            fuse.at(f"{name}: answered")
        return result

    async def watched_finish(self: Connection, sent: bool) -> Any:
        while self._pgconn.flush():
            await self._waits.writable()
        if self in statements:
            fuse.at(f"{statements[self]}: sent")
        return await finish(self, sent)

    rows.commit_statement = watched_statement
    resolver.Resolver._resolve_together = watched_resolve  # type: ignore[method-assign]
    Connection.execute = watched_execute  # type: ignore[method-assign]
    Connection._finish = watched_finish  # type: ignore[method-assign]


def _watch_steps(fuse: Fuse) -> None:
    send, store = transition.send_message_in, transition.store_state
    born, answered = Dispatcher.born, Dispatcher._answered

    def of_message(turn: Turn, name: str) -> None:
        if any(request.delivery is not None for request in turn.requests):
            fuse.at(name)

    async def watched_send(turn: Turn, *rest: Any) -> Any:
        of_message(turn, "message: about to go to the function")
        sent = await send(turn, *rest)
        of_message(turn, "message: with the function")
        return sent

    async def watched_store(turn: Turn, *rest: Any) -> Any:
        of_message(turn, "message: the function has answered")
        return await store(turn, *rest)

    def watched_born(self: Dispatcher, deliveries: Any) -> None:
        born(self, deliveries)
        fuse.at("birth: in the hands of its node")

    def watched_answered(self: Dispatcher, held: Any, response: Any) -> None:
        answered(self, held, response)
        if response.error is None:
            fuse.at("consuming: the dispatcher has heard")

    transition.send_message_in = watched_send
    transition.store_state = watched_store
    Dispatcher.born = watched_born  # type: ignore[method-assign]
    Dispatcher._answered = watched_answered  # type: ignore[method-assign]
