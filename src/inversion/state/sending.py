"""Gathers messages from outside into one statement each time: a record, and a message or a timer.

The record makes a send known: the same again, by the caller's key or else by its id, is found and not sent
a second time. So one whose outcome is unknown (the connection broke) is simply sent again. While the
database is away they stay parked; at its deadline a sender is told whether its message may have been stored.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Final

import attrs

from inversion.errors import Code, InversionError, Outcome, RequestRefused, StoreUnavailable
from inversion.gate import Bridge, GatheredGate, Walk
from inversion.messages import Address, Delivery
from inversion.names import NO_KEY
from inversion.observe.metrics import Counters
from inversion.protocol.verdict import key_reused
from inversion.state import arrays, rows, sql
from inversion.state.consequence_rows import LEASE_MS
from inversion.state.consequences import Births
from inversion.state.dialing import ConnectionLost
from inversion.state.lane import Backoff, Lane
from inversion.state.postgres import Connection, StatementFailed, refused
from inversion.state.resolver import TRANSIENT

_MOST_ROWS: Final = 64
_MOST_BYTES: Final = 4 << 20
#: What the id of the record of a send begins with: with the caller's key, and without one.
_KEYED: Final = "k:"
_SENT: Final = "s:"


@attrs.define(slots=True, eq=False)
class Sending:
    """A message on its way from outside. Sent again it is the same."""

    delivery: Delivery
    hash: bytes  #: of handler, time and body: the same key means the same
    deadline_s: float  #: perf_counter
    once: str | None = None  #: the caller's key
    delay_ms: int | None = None  #: then it is a timer
    at: bytes | None = None  #: RFC 3339: the same
    doubted: bool = False  #: it was sent, and nobody knows what became of it
    owner: bytes | None = None  #: the node that has it leased when it is stored
    late: bool = False

    @property
    def waits(self) -> bool:
        return self.delay_ms is not None or self.at is not None

    @property
    def record(self) -> bytes:
        """The id of its record."""
        return (_SENT + self.delivery.id if self.once is None else _KEYED + self.once).encode()


SendingWalk = Walk[Sending, str]


@attrs.frozen(slots=True)
class _Known:
    """What a record says of a send."""

    hash: bytes
    id: str


class Sender:
    """Takes from a gate of its own over one connection, opened when the first send comes. `run` is a walk."""

    def __init__(self, lane: Lane, gate: GatheredGate[Sending, str], most: int, counters: Counters) -> None:
        self._lane = lane
        self._gate = gate
        self._most = most  #: that wait at the gate
        self._counters = counters
        self.births: Births | None = None

    @property
    def waiting(self) -> int:
        return len(self._gate.waiting)

    async def send(self, sending: Sending) -> str:
        """For a walk: the id of the message, once it is durable. Raises InversionError."""
        if len(self._gate.waiting) >= self._most:
            raise RequestRefused(
                Code.QUEUE_FULL, f"{self._most} sends wait for the database; try again", retry_after_s=1
            )
        return await self._gate.wait(sending)

    def sweep(self, now_s: float) -> None:
        """Let go of those whose deadline has passed."""
        self._lane.sweep(now_s)
        for walk in self._gate.waiting:
            walk.item.late = now_s >= walk.item.deadline_s
        self._gate.withdraw(lambda sending: sending.late and sending.doubted, _unknown)
        self._gate.withdraw(lambda sending: sending.late, _not_sent)

    def look(self) -> None:
        """While it rests, a connection that has died is let go of."""
        self._lane.look()

    def close(self) -> None:
        self._lane.close()

    async def run(self, bridge: Bridge) -> None:
        backoff = Backoff()
        while True:
            walks = await self._lane.gather(self._gate, _MOST_ROWS)
            if not walks:
                continue
            self._park(walks)  # their deadlines are minded there while there is no connection
            connection = await self._lane.connected(bridge)
            if await self._send(connection, self._cut(self._gate.take(_MOST_ROWS))):
                backoff.reset()
            else:
                await bridge.run(backoff.pause)

    def _cut(self, walks: list[SendingWalk]) -> list[SendingWalk]:
        """Keep what fits into one statement and is there once; the rest goes back."""
        room_bytes = _MOST_BYTES
        records: set[tuple[Address, bytes]] = set()
        kept: list[SendingWalk] = []
        for walk in walks:
            delivery = walk.item.delivery
            record = delivery.target, walk.item.record
            room_bytes -= len(delivery.body)
            if (room_bytes < 0 and kept) or record in records:
                self._gate.park(walk)
            else:
                records.add(record)
                kept.append(walk)
        return kept

    def _park(self, walks: Sequence[SendingWalk]) -> None:
        for walk in walks:
            self._gate.park(walk)

    async def _send(self, connection: Connection, walks: Sequence[SendingWalk]) -> bool:
        """Whether all is well; else some were parked again, for after a pause."""
        if not walks:
            return True
        for walk in walks:
            self._lease(walk.item)
        sendings = [walk.item for walk in walks]
        try:
            sent = await connection.execute(sql.SEND, _parameters(sendings))
            new = set(rows.places(sent))
            known = [place for place in range(len(walks)) if place not in new]
            said = await self._said(connection, [sendings[place] for place in known]) if known else {}
        except ConnectionLost as lost:
            for sending in sendings:
                sending.doubted = sending.doubted or lost.sent
            self._park(walks)
            return True  # there are pauses between tries to connect
        except StatementFailed as failure:
            return await self._refused(connection, walks, failure)
        if sent.warned:  # perhaps no standby has it: asked again it is found, with or without a warning
            for sending in sendings:
                sending.doubted = True
            self._park(walks)
            return False
        self._settle(walks, new, {known[at]: each for at, each in said.items()})
        return True

    async def _said(self, connection: Connection, sendings: Sequence[Sending]) -> dict[int, _Known]:
        """Of those that had been sent before, by their place here."""
        found = await connection.execute(
            sql.RECORDED,
            [
                arrays.texts([each.delivery.target.function.encode() for each in sendings]),
                arrays.texts([_key(each) for each in sendings]),
                arrays.texts([each.record for each in sendings]),
            ],
        )
        return {
            place: _Known(found.value(row, 1) or b"", (found.value(row, 6) or b"").decode())
            for row, place in enumerate(rows.places(found))
        }

    def _settle(self, walks: Sequence[SendingWalk], new: set[int], said: dict[int, _Known]) -> None:
        self._counters.messages_sent += len(new)
        born: list[Delivery] = []
        due = False
        for place, walk in enumerate(walks):
            sending = walk.item
            known = said.get(place)
            if place in new or (known is not None and known.id == sending.delivery.id):
                due = due or (sending.owner is None and not sending.waits)
                if sending.owner is not None:
                    born.append(sending.delivery)
        for place, walk in enumerate(walks):
            known = said.get(place)
            if place in new:
                walk.resume(walk.item.delivery.id)
            elif known is None:  # its record was swept this moment
                self._gate.park(walk)
            elif known.hash != walk.item.hash:
                walk.throw(key_reused())
            else:
                walk.resume(known.id)
        if self.births is not None:
            if born:
                self.births.born(born)
            if due:
                self.births.stir()

    def _lease(self, sending: Sending) -> None:
        births = self.births
        if not (sending.waits or sending.doubted):
            leases = births is not None and births.admits(sending.delivery.target.function)
            sending.owner = births.node if leases and births is not None else None

    async def _refused(
        self, connection: Connection, walks: Sequence[SendingWalk], failure: StatementFailed
    ) -> bool:
        if len(walks) > 1:
            half = len(walks) // 2
            first = await self._send(connection, walks[:half])
            return await self._send(connection, walks[half:]) and first
        walk = walks[0]
        if failure.sqlstate in TRANSIENT and perf_counter() < walk.item.deadline_s:
            self._gate.park(walk)
            return False
        walk.throw(refused("the message", failure))
        return True


def _key(sending: Sending) -> bytes:
    return (sending.delivery.target.key or NO_KEY).encode()


def _parameters(sendings: Sequence[Sending]) -> list[bytes]:
    deliveries = [each.delivery for each in sendings]
    return [
        arrays.texts([each.target.function.encode() for each in deliveries]),
        arrays.texts([_key(each) for each in sendings]),
        arrays.texts([each.id.encode() for each in deliveries]),
        arrays.byteas([each.hash for each in sendings]),
        arrays.texts([each.handler.encode() for each in deliveries]),
        arrays.texts([each.body for each in deliveries]),
        arrays.uuids([each.owner for each in sendings]),
        arrays.int8s([0 if each.owner is None else LEASE_MS for each in sendings]),
        arrays.int8s([each.waits for each in sendings]),
        arrays.int8s([each.delay_ms or 0 for each in sendings]),
        arrays.texts([each.at for each in sendings]),
        arrays.texts([each.record for each in sendings]),
    ]


def _not_sent() -> Exception:
    return StoreUnavailable("the deadline passed while waiting for the database; nothing was sent")


def _unknown() -> Exception:
    return InversionError(
        Code.DEADLINE,
        "the connection to the database broke while the message was stored: it may or may not be there; "
        "the same again with an Idempotency-Key is safe",
        outcome=Outcome.UNKNOWN,
    )
