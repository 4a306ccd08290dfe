"""What people see of messages, and what they decide about dead letters: pages, one, retry, drop.

A retry is one statement that deletes the dead letter and inserts the message: of two people who ask for it at
once one finds none. Each question has a connection of its own for as long as it lasts; few at a time, so that
who asks much takes no connections from calls. Raises StoreUnavailable.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final, NamedTuple, TypeVar

import attrs
import trio

from inversion.errors import Outcome, StoreUnavailable
from inversion.state import sql
from inversion.state.dialing import ConnectionLost, Settings, UnfitServer
from inversion.state.postgres import Connection, Rows, StatementFailed, refused

ResultT = TypeVar("ResultT")

#: Decided about with one statement: bodies may have a megabyte each.
MOST_AT_ONCE: Final = 100
_MOST_CONNECTIONS: Final = 2
_UNIQUE: Final = "23505"
#: Two retries for one pair in the same microsecond; a third time is no accident.
_TRIES: Final = 3
#: After every name, in the order of bytes.
_LAST: Final = "\U0010ffff"
_EVER: Final = "infinity"


class Place(NamedTuple):
    """Where a page ends: a function, when it is due (or whose dead letter it is), an id."""

    function: str
    between: str
    id: str


@attrs.frozen(slots=True)
class Letter:
    """A message that waits, a timer, or a dead letter. Times are RFC 3339 in UTC with microseconds."""

    kind: str  #: message, timer, dead
    function: str
    key: str  #: - for none
    id: str
    sender: str
    name: str | None  #: of a timer
    handler: str
    reply_to: str | None
    answers: str | None
    hops: int
    attempts: int
    failures: int
    error: bytes | None  #: the last failure, as JSON
    due_at: str | None
    owner: str | None  #: the node that has it until `due_at`
    born_at: str
    died_at: str | None
    size: int  #: of the body, in bytes
    body: bytes | None  #: JSON; None in lists

    @property
    def place(self) -> Place:
        return Place(self.function, self.due_at or self.key, self.id)


class Letters:
    """Over connections of its own, by trio tasks."""

    def __init__(self, conninfo: str) -> None:
        self._conninfo = conninfo
        self._few = trio.CapacityLimiter(_MOST_CONNECTIONS)

    async def page(
        self, *, dead: bool, function: str | None, key: str | None, after: Place | None, most: int
    ) -> list[Letter]:
        """Messages and timers by function and due time, or dead letters by function, key and id."""
        if after is None:
            after = Place(function or "", "" if dead else "-infinity", "")
        if function is not None and after.function != function:
            return []
        statement = sql.LIST_DEAD if dead else sql.LIST_WAITING
        parameters = [
            *_texts(*after, function or _LAST, key),
            _most(most),
        ]
        return _letters(await self._ask(lambda connection: connection.execute(statement, parameters)))

    async def show(self, function: str, key: str, id_: str) -> Letter | None:
        """One, with its body."""
        parameters = _texts(function, key, id_)
        found = _letters(await self._ask(lambda connection: connection.execute(sql.SHOW_LETTER, parameters)))
        return found[0] if found else None

    async def retry(self, function: str, key: str, id_: str, body: bytes | None = None) -> bool:
        """A dead letter is a message again, with another body if there is one; whether there was one."""
        return bool(await self._retry([*_texts(function, key, id_, _EVER), _most(1), body]))

    async def retry_all(self, function: str, key: str | None, before: str) -> int:
        """As many at once as may be, of those that died before then; how many."""
        return await self._retry([*_texts(function, key, None, before), _most(MOST_AT_ONCE), None])

    async def drop(self, function: str, key: str, id_: str) -> bool:
        """Delete a dead letter; whether there was one."""
        return bool(await self._drop([*_texts(function, key, id_, _EVER), _most(1)]))

    async def drop_all(self, function: str, key: str | None, before: str) -> int:
        """As many at once as may be, of those that died before then; how many."""
        return await self._drop([*_texts(function, key, None, before), _most(MOST_AT_ONCE)])

    async def now(self) -> str:
        """The database's clock."""
        return str((await self._ask(lambda connection: connection.execute(sql.CLOCK))).texts()[0][0])

    async def _drop(self, parameters: list[bytes | None]) -> int:
        return (await self._ask(lambda connection: connection.execute(sql.DROP_LETTERS, parameters))).count

    async def _retry(self, parameters: list[bytes | None]) -> int:
        async def try_it(connection: Connection) -> Rows:
            for _ in range(_TRIES - 1):
                try:
                    return await connection.execute(sql.RETRY_LETTERS, parameters)
                except StatementFailed as failure:
                    if failure.sqlstate != _UNIQUE:
                        raise
            return await connection.execute(sql.RETRY_LETTERS, parameters)

        return (await self._ask(try_it)).count

    async def _ask(self, ask: Callable[[Connection], Awaitable[ResultT]]) -> ResultT:
        async with self._few:
            try:
                connection = await Connection.open(self._conninfo, Settings())
                try:
                    return await ask(connection)
                finally:
                    connection.close()
            except StatementFailed as failure:
                raise refused("this", failure) from failure
            except (ConnectionLost, UnfitServer) as failure:
                sent = isinstance(failure, ConnectionLost) and failure.sent
                outcome = Outcome.UNKNOWN if sent else Outcome.NOT_APPLIED
                raise StoreUnavailable("no connection to the database, or it was lost", outcome) from failure


def _most(count: int) -> bytes:
    return count.to_bytes(8, "big")


def _texts(*values: str | None) -> list[bytes | None]:
    return [None if value is None else value.encode() for value in values]


def _letters(rows: Rows) -> list[Letter]:
    return [_letter(rows, row) for row in range(rows.count)]


def _letter(rows: Rows, row: int) -> Letter:
    def text(column: int) -> str | None:
        value = rows.value(row, column)
        return None if value is None else value.decode()

    def number(column: int) -> int:
        return int.from_bytes(rows.value(row, column) or b"", "big")

    return Letter(
        kind=text(0) or "",
        function=text(1) or "",
        key=text(2) or "",
        id=text(3) or "",
        sender=text(4) or "",
        name=text(5),
        handler=text(6) or "",
        reply_to=text(7),
        answers=text(8),
        hops=number(9),
        attempts=number(10),
        failures=number(11),
        error=rows.value(row, 12),
        due_at=text(13),
        owner=text(14),
        born_at=text(15) or "",
        died_at=text(16),
        size=number(17),
        body=rows.value(row, 18),
    )
