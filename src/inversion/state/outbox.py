"""What waits to be delivered: claimed, leased, put off, buried. One connection, one trio task.

A lease saves work; the commit of a message's turn decides. Every change of a lease names the attempt and the
node that has it, so that one who lost it changes nothing. The database's clock decides what is due.
Raises ConnectionLost and StatementFailed as `Connection` does; nothing here is tried again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import attrs

from inversion.messages import Address, Delivery
from inversion.names import NO_KEY
from inversion.state import arrays, sql
from inversion.state.consequence_rows import LEASE_MS
from inversion.state.dialing import Settings
from inversion.state.postgres import Connection, Rows

#: Claimed with one statement, of all functions together: what a commit takes several times over.
MOST: Final = 256
_LEASE: Final = LEASE_MS.to_bytes(8, "big")
#: Looked at of each function where messages stand in the way of those before them: they are put behind these,
#: which takes a moment for each. Five hundred cost some ten milliseconds.
_LOOK: Final = 500


@attrs.frozen(slots=True, eq=False)
class PutOff:
    """A message given back, for anybody to take after a while."""

    delivery: Delivery
    pause_s: float
    failed: bool = False  #: it counts against `retry.attempts`
    error: bytes | None = None  #: the words of the failure, as JSON


@attrs.frozen(slots=True, eq=False)
class Burial:
    """A message that is given up."""

    delivery: Delivery
    error: bytes  #: as JSON
    status: int
    reply_id: str  #: of the message that tells whoever waits for an answer
    failed: bool = True


class Backlog(NamedTuple):
    """What waits for one function; numbers of 10,000 mean more."""

    due: int
    messages: int
    timers: int
    lag_s: float  #: how long the oldest that is due has been so
    dead: int  #: dead letters


class Outbox:
    """The statements of one node over one connection."""

    def __init__(self, connection: Connection, node: bytes) -> None:
        self._connection = connection
        self._node = node
        #: So many the last claim put behind those before them, and they are due still: there is more to take.
        self.displaced = 0

    @classmethod
    async def open(cls, conninfo: str, node: bytes) -> Outbox:
        return cls(await Connection.open(conninfo, Settings()), node)

    def close(self) -> None:
        self._connection.close()

    async def claim(self, rooms: Mapping[str, int]) -> list[Delivery]:
        """Lease what is due, of each function up to its room; of one pair in its order."""
        functions = arrays.texts([name.encode() for name in rooms])
        found = await self._claim(sql.CLAIM_TIMERS, functions, list(rooms.values()))
        deliveries = [_timer(found, row) for row in range(found.count)]
        taken = dict.fromkeys(rooms, 0)
        for delivery in deliveries:
            taken[delivery.target.function] += 1
        look = (_LOOK if self.displaced else 0).to_bytes(8, "big")
        left = [room - taken[name] for name, room in rooms.items()]
        found = await self._claim(sql.CLAIM_MESSAGES, functions, left, look)
        self.displaced = _int(found, 0, 14)
        if found.value(0, 0) is None:  # one row says so even where nothing was claimed
            return deliveries
        return deliveries + [_message(found, row) for row in range(found.count)]

    async def _claim(
        self, statement: sql.Statement, functions: bytes, rooms: Sequence[int], *more: bytes
    ) -> Rows:
        known = [functions, arrays.int8s(rooms), self._node, _LEASE]
        return await self._connection.execute(statement, [*known, *more])

    async def renew(self, deliveries: Sequence[Delivery]) -> None:
        """Another lease for what this node still has."""
        messages = [each for each in deliveries if each.timer is None]
        if messages:
            await self._connection.execute(sql.RENEW_MESSAGES, [*_message_rows(messages), self._node, _LEASE])
        timers = [each for each in deliveries if each.timer is not None]
        if timers:
            await self._connection.execute(
                sql.RENEW_TIMERS,
                [
                    *_timer_rows(timers),
                    arrays.texts([each.id.encode() for each in timers]),
                    self._node,
                    _LEASE,
                ],
            )

    async def put_off(self, given_back: Sequence[PutOff]) -> None:
        """Nobody's again; failures are counted."""
        messages = [each for each in given_back if each.delivery.timer is None]
        if messages:
            await self._connection.execute(
                sql.PUT_OFF_MESSAGES,
                [*_message_rows([each.delivery for each in messages]), *_pauses(messages), self._node],
            )
        timers = [each for each in given_back if each.delivery.timer is not None]
        if timers:
            await self._connection.execute(
                sql.PUT_OFF_TIMERS,
                [
                    *_timer_rows([each.delivery for each in timers]),
                    *_pauses(timers),
                    arrays.texts([each.delivery.id.encode() for each in timers]),
                    self._node,
                ],
            )

    async def bury(self, burial: Burial) -> bool:
        """A dead letter, and the error to whoever waits for an answer; whether it was still ours."""
        one = burial.delivery
        function, key = one.target
        failed = int(burial.failed).to_bytes(8, "big")
        reply = b'{"error":%b}' % burial.error
        attempt = one.attempt.to_bytes(8, "big")
        if one.timer is None:
            parameters: list[bytes | None] = [
                function.encode(),
                (key or NO_KEY).encode(),
                one.sender.encode(),
                one.sender_version.to_bytes(8, "big"),
                one.seq.to_bytes(8, "big"),
                attempt,
                self._node,
                failed,
                burial.error,
                reply,
                burial.reply_id.encode(),
                burial.status.to_bytes(8, "big"),
            ]
            return bool((await self._connection.execute(sql.BURY_MESSAGE, parameters)).count)
        owner, _, owner_key = one.sender.partition("/")
        parameters = [
            owner.encode(),
            owner_key.encode(),
            one.timer.encode(),
            one.id.encode(),
            attempt,
            self._node,
            failed,
            burial.error,
            reply,
            burial.reply_id.encode(),
            burial.status.to_bytes(8, "big"),
        ]
        return bool((await self._connection.execute(sql.BURY_TIMER, parameters)).count)

    async def backlog(self, functions: Sequence[str]) -> Mapping[str, Backlog]:
        """What waits for each of these functions."""
        names = arrays.texts([name.encode() for name in functions])
        found = await self._connection.execute(sql.BACKLOG, [names])
        return {
            functions[_int(found, row, 0) - 1]: Backlog(
                _int(found, row, 1),
                _int(found, row, 2),
                _int(found, row, 3),
                _int(found, row, 4) / 1_000,
                _int(found, row, 5),
            )
            for row in range(found.count)
        }


def _int(rows: Rows, row: int, column: int) -> int:
    return int.from_bytes(rows.value(row, column) or b"", "big")


def _text(rows: Rows, row: int, column: int) -> str:
    return (rows.value(row, column) or b"").decode()


def _maybe(rows: Rows, row: int, column: int) -> str | None:
    value = rows.value(row, column)
    return None if value is None else value.decode()


def _address(function: str, key: str) -> Address:
    return Address(function, None if key == NO_KEY else key)


def _message(rows: Rows, row: int) -> Delivery:
    return Delivery(
        _address(_text(rows, row, 0), _text(rows, row, 1)),
        sender=_text(rows, row, 2),
        sender_version=_int(rows, row, 3),
        seq=_int(rows, row, 4),
        id=_text(rows, row, 5),
        handler=_text(rows, row, 6),
        body=rows.value(row, 7) or b"",
        reply_to=_maybe(rows, row, 8),
        answers=_maybe(rows, row, 9),
        hops=_int(rows, row, 10),
        attempt=_int(rows, row, 11),
        failures=_int(rows, row, 12),
        age_ms=_int(rows, row, 13),
    )


def _timer(rows: Rows, row: int) -> Delivery:
    return Delivery(
        _address(_text(rows, row, 4), _text(rows, row, 5)),
        sender=f"{_text(rows, row, 0)}/{_text(rows, row, 1)}",
        sender_version=0,
        seq=0,
        id=_text(rows, row, 3),
        handler=_text(rows, row, 6),
        body=rows.value(row, 7) or b"",
        timer=_text(rows, row, 2),
        reply_to=_maybe(rows, row, 8),
        hops=_int(rows, row, 9),
        attempt=_int(rows, row, 10),
        failures=_int(rows, row, 11),
        age_ms=_int(rows, row, 12),
    )


def _message_rows(deliveries: Sequence[Delivery]) -> list[bytes]:
    return [
        arrays.texts([each.target.function.encode() for each in deliveries]),
        arrays.texts([(each.target.key or NO_KEY).encode() for each in deliveries]),
        arrays.texts([each.sender.encode() for each in deliveries]),
        arrays.int8s([each.sender_version for each in deliveries]),
        arrays.int8s([each.seq for each in deliveries]),
        arrays.int8s([each.attempt for each in deliveries]),
    ]


def _timer_rows(deliveries: Sequence[Delivery]) -> list[bytes]:
    owners = [each.sender.partition("/") for each in deliveries]
    return [
        arrays.texts([function.encode() for function, _, _ in owners]),
        arrays.texts([key.encode() for _, _, key in owners]),
        arrays.texts([(each.timer or "").encode() for each in deliveries]),
        arrays.int8s([each.attempt for each in deliveries]),
    ]


def _pauses(given_back: Sequence[PutOff]) -> list[bytes]:
    return [
        arrays.int8s([int(each.pause_s * 1_000) for each in given_back]),
        arrays.int8s([each.failed for each in given_back]),
        arrays.texts([each.error for each in given_back]),
    ]
