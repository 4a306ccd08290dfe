"""What a turn consumes and what it causes: messages and timers, as the arrays of `commit_messages`.

One `Consequences` goes with a commit, all or nothing. Immediate messages are born leased by this node where
it has room for them (`Births`): after the commit it runs them without a claim. What has a name or a time is
a timer of the sender's. A message whose answer is an error is consumed too: the error goes to whoever asked
for the answer, else the message becomes a dead letter.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple, Protocol

import attrs

from inversion import json_text
from inversion.effects import Cancel, Send
from inversion.errors import Code, EffectsRefused, Outrun
from inversion.ids import new_id
from inversion.messages import Address, Answer, Delivery, Turn
from inversion.names import NO_KEY
from inversion.protocol.effects import UNNAMED, Placed, fold
from inversion.state import arrays

#: How long a node has what it took before somebody else may: longer than a pause of the collector or a
#: stall of the database, short for those who wait after a node's death.
LEASE_MS: Final = 10_000
#: What a row costs beside its body: a thousand small ones are no small statement.
_ROW_BYTES: Final = 500
_BEFORE_ALL: Final = -1


class Births(Protocol):
    """Who runs what is born here."""

    @property
    def node(self) -> bytes:
        """The owner of what is leased: 16 bytes."""

    def admits(self, function: str) -> bool:
        """Whether a message to it may be born leased by this node."""

    def born(self, deliveries: Sequence[Delivery]) -> None:
        """They were committed, leased by this node."""

    def stir(self) -> None:
        """Something that is due was committed without a lease."""


class Span(NamedTuple):
    """Consecutive messages of one sender; the lock finds out whether there are others between."""

    sender: bytes
    first: tuple[int, int]
    last: tuple[int, int]


class Touched(NamedTuple):
    """A timer's row that is to be locked before any entity."""

    function: bytes
    key: bytes
    name: bytes
    id: bytes | None  #: the one that is consumed; None: cancelled or replaced, whichever it is
    deletes: bool  #: False: it is replaced


class Birth(NamedTuple):
    """A message on its way into the database."""

    function: bytes
    key: bytes
    sender: bytes
    sender_version: int
    seq: int
    id: bytes
    handler: bytes
    body: bytes
    reply_to: bytes | None
    answers: bytes | None
    hops: int
    owner: bytes | None


class Winding(NamedTuple):
    """A timer on its way into the database."""

    function: bytes
    key: bytes
    name: bytes
    id: bytes
    target_function: bytes
    target_key: bytes
    handler: bytes
    body: bytes
    reply_to: bytes | None
    hops: int
    delay_ms: int
    at: bytes | None


@attrs.define(slots=True, eq=False)
class Consequences:
    """Of one turn. `leased` is for `Births.born` once the commit is known."""

    consumed: int = 0  #: messages and timers
    spans: list[Span] = attrs.field(factory=list)
    touched: dict[tuple[bytes, bytes, bytes], Touched] = attrs.field(factory=dict)
    buried: list[tuple[bytes, bytes]] = attrs.field(factory=list)  #: id, error
    births: list[Birth] = attrs.field(factory=list)
    windings: list[Winding] = attrs.field(factory=list)
    leased: list[Delivery] = attrs.field(factory=list)
    weight_bytes: int = 0
    due: bool = False  #: something may be claimed at once

    @property
    def plain(self) -> bool:
        """No timers and no dead letters."""
        return not (self.touched or self.windings or self.buried)


def versions_with(turn: Turn, version: int, answers: Sequence[Answer]) -> list[int]:
    """The version after each message: one of its own where it changed the state, sent or owes something."""
    versions = []
    for request, answer in zip(turn.requests, answers, strict=True):
        delivery = request.delivery
        owes = delivery is not None and delivery.reply_to is not None
        version += answer.changed or owes or bool(answer.effects)
        versions.append(version)
    return versions


def consequences_of(
    turn: Turn, answers: Sequence[Answer], versions: Sequence[int], births: Births | None, content_type: str
) -> Consequences:
    """What the turn consumes and causes. Raises Outrun or EffectsRefused."""
    made = Consequences()
    _consume(made, turn, answers)
    address = turn.address
    for placed in fold([answer.effects for answer in answers]):
        cause = turn.requests[placed.answer].delivery
        hops = 1 if cause is None else cause.hops + 1
        _carry_out(made, address, placed, versions[placed.answer], hops, births)
    for request, answer, version in zip(turn.requests, answers, versions, strict=True):
        delivery = request.delivery
        if delivery is not None and delivery.reply_to is not None:
            _reply(made, delivery, address, answer, version, births, content_type)
    return made


def _consume(made: Consequences, turn: Turn, answers: Sequence[Answer]) -> None:
    spans: dict[str, Span] = {}
    for request, answer in zip(turn.requests, answers, strict=True):
        delivery = request.delivery
        if delivery is None:
            continue
        made.consumed += 1
        sender = delivery.sender
        place = delivery.sender_version, delivery.seq
        if delivery.timer is not None:
            function, _, key = sender.partition("/")
            row = function.encode(), key.encode(), delivery.timer.encode()
            made.touched[row] = Touched(*row, delivery.id.encode(), True)
        elif delivery.target.key is None:
            spans[delivery.id] = Span(sender.encode(), place, place)  # of these none waits for another
        else:
            before = spans.get(sender)
            if before is not None and before.last >= place:
                raise Outrun  # they came in the wrong order
            spans[sender] = Span(sender.encode(), (_BEFORE_ALL, _BEFORE_ALL), place)
        if answer.error is not None and delivery.reply_to is None and not delivery.outside:
            made.buried.append((delivery.id.encode(), json_text.encode_error(answer.error)))
    made.spans.extend(spans.values())


def _carry_out(
    made: Consequences, sender: Address, placed: Placed, version: int, hops: int, births: Births | None
) -> None:
    if sender.key is None:
        raise EffectsRefused(Code.PROTOCOL_ERROR, "a call without a key has no effects; nothing was stored")
    match placed.effect:
        case Send() as send if send.name is None and send.delay_ms is None and send.at is None:
            delivery = Delivery(
                Address(send.function, send.key),
                f"{sender.function}/{sender.key}",
                version,
                placed.place,
                new_id(),
                send.handler,
                send.message,
                reply_to=send.reply_to,
                hops=hops,
            )
            _bear(made, delivery, births)
        case Send() as send:
            _wind(made, sender, send, hops)
        case Cancel(name):
            _touch(made, sender, name.encode(), deletes=True)
        case other:
            operation = type(other).__name__.lower()
            raise EffectsRefused(
                Code.PROTOCOL_ERROR,
                f"the effect `{operation}` comes with a later release of inversion; nothing was stored",
            )


def _bear(made: Consequences, delivery: Delivery, births: Births | None) -> None:
    leased = births is not None and births.admits(delivery.target.function)
    function, key = delivery.target
    made.births.append(
        Birth(
            function.encode(),
            (key or NO_KEY).encode(),
            delivery.sender.encode(),
            delivery.sender_version,
            delivery.seq,
            delivery.id.encode(),
            delivery.handler.encode(),
            delivery.body,
            None if delivery.reply_to is None else delivery.reply_to.encode(),
            None if delivery.answers is None else delivery.answers.encode(),
            delivery.hops,
            births.node if leased and births is not None else None,
        )
    )
    made.weight_bytes += len(delivery.body) + _ROW_BYTES
    if leased:
        made.leased.append(delivery)
    else:
        made.due = True


def _wind(made: Consequences, sender: Address, send: Send, hops: int) -> None:
    id_ = new_id()
    name = (UNNAMED + id_ if send.name is None else send.name).encode()
    if send.name is not None:
        _touch(made, sender, name, deletes=False)
    made.windings.append(
        Winding(
            sender.function.encode(),
            (sender.key or NO_KEY).encode(),
            name,
            id_.encode(),
            send.function.encode(),
            (send.key or NO_KEY).encode(),
            send.handler.encode(),
            send.message,
            None if send.reply_to is None else send.reply_to.encode(),
            hops,
            send.delay_ms or 0,
            None if send.at is None else send.at.encode(),
        )
    )
    made.weight_bytes += len(send.message) + _ROW_BYTES
    made.due = made.due or (send.at is None and not send.delay_ms)


def _touch(made: Consequences, sender: Address, name: bytes, *, deletes: bool) -> None:
    """The timer of that name goes, or is replaced; perhaps it is the one that is just consumed."""
    row = sender.function.encode(), (sender.key or NO_KEY).encode(), name
    made.weight_bytes += _ROW_BYTES
    consumed = made.touched.get(row)
    made.touched[row] = Touched(*row, None if consumed is None else consumed.id, deletes)


def _reply(
    made: Consequences,
    asked: Delivery,
    address: Address,
    answer: Answer,
    version: int,
    births: Births | None,
    content_type: str,
) -> None:
    function, _, key = asked.sender.partition("/")
    id_ = new_id()
    sender = f"~/{id_}" if address.key is None else f"{address.function}/{address.key}"
    delivery = Delivery(
        Address(function, key),
        sender,
        version,
        len(answer.effects),
        id_,
        asked.reply_to or "",
        reply_body(answer, content_type),
        answers=asked.id,
        hops=asked.hops + 1,
    )
    _bear(made, delivery, births)


def reply_body(answer: Answer, content_type: str) -> bytes:
    """What the handler named by `reply_to` gets."""
    if answer.error is not None:
        return b'{"error":%b}' % json_text.encode_error(answer.error)
    response = b"null" if answer.response is None else answer.response
    if content_type != "application/json":
        response = json_text.quote(response.decode(errors="replace"))
    return b'{"response":%b}' % response


def _row_of(touched: tuple[tuple[bytes, bytes, bytes], Touched, bytes]) -> tuple[bytes, bytes, bytes]:
    return touched[0]


def arrays_of(commits: Sequence[tuple[bytes, bytes, bytes, Consequences]]) -> list[bytes]:
    """The parameters of `commit_messages` from $19 on, of (turn, function, key, consequences)."""
    touched = sorted(
        ((row, t, turn) for turn, _, _, c in commits for row, t in c.touched.items()), key=_row_of
    )
    buried = [each for _, _, _, c in commits for each in c.buried]
    windings = [(turn, w) for turn, _, _, c in commits for w in c.windings]
    return [
        *_spans_of(commits),
        arrays.texts([id_ for id_, _ in buried]),
        arrays.texts([error for _, error in buried]),
        *_births_of(commits),
        arrays.uuids([turn for _, _, turn in touched]),
        arrays.texts([t.function for _, t, _ in touched]),
        arrays.texts([t.key for _, t, _ in touched]),
        arrays.texts([t.name for _, t, _ in touched]),
        arrays.texts([t.id for _, t, _ in touched]),
        arrays.int8s([t.deletes for _, t, _ in touched]),
        arrays.uuids([turn for turn, _ in windings]),
        arrays.texts([w.function for _, w in windings]),
        arrays.texts([w.key for _, w in windings]),
        arrays.texts([w.name for _, w in windings]),
        arrays.texts([w.id for _, w in windings]),
        arrays.texts([w.target_function for _, w in windings]),
        arrays.texts([w.target_key for _, w in windings]),
        arrays.texts([w.handler for _, w in windings]),
        arrays.texts([w.body for _, w in windings]),
        arrays.texts([w.reply_to for _, w in windings]),
        arrays.int8s([w.hops for _, w in windings]),
        arrays.int8s([w.delay_ms for _, w in windings]),
        arrays.texts([w.at for _, w in windings]),
    ]


def plain_arrays_of(commits: Sequence[tuple[bytes, bytes, bytes, Consequences]]) -> list[bytes]:
    """The parameters of `commit_plain_messages` from $10 on."""
    return [*_spans_of(commits), *_births_of(commits)]


def _spans_of(commits: Sequence[tuple[bytes, bytes, bytes, Consequences]]) -> list[bytes]:
    spans = sorted((f, k, s, turn) for turn, f, k, c in commits for s in c.spans)
    return [
        arrays.uuids([turn for _, _, _, turn in spans]),
        arrays.texts([function for function, _, _, _ in spans]),
        arrays.texts([key for _, key, _, _ in spans]),
        arrays.texts([s.sender for _, _, s, _ in spans]),
        arrays.int8s([s.first[0] for _, _, s, _ in spans]),
        arrays.int8s([s.first[1] for _, _, s, _ in spans]),
        arrays.int8s([s.last[0] for _, _, s, _ in spans]),
        arrays.int8s([s.last[1] for _, _, s, _ in spans]),
    ]


def _births_of(commits: Sequence[tuple[bytes, bytes, bytes, Consequences]]) -> list[bytes]:
    births = [(turn, b) for turn, _, _, c in commits for b in c.births]
    return [
        arrays.uuids([turn for turn, _ in births]),
        arrays.texts([b.function for _, b in births]),
        arrays.texts([b.key for _, b in births]),
        arrays.texts([b.sender for _, b in births]),
        arrays.int8s([b.sender_version for _, b in births]),
        arrays.int8s([b.seq for _, b in births]),
        arrays.texts([b.id for _, b in births]),
        arrays.texts([b.handler for _, b in births]),
        arrays.texts([b.body for _, b in births]),
        arrays.texts([b.reply_to for _, b in births]),
        arrays.texts([b.answers for _, b in births]),
        arrays.int8s([b.hops for _, b in births]),
        arrays.uuids([b.owner for _, b in births]),
        arrays.int8s([0 if b.owner is None else LEASE_MS for _, b in births]),
    ]
