"""What a turn consumes and causes, as rows and as the arrays of `commit_messages`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, NamedTuple

import attrs

from inversion.messages import Delivery
from inversion.state import arrays

#: How long a node has what it took before somebody else may: longer than a pause of the collector or a
#: stall of the database, short for those who wait after a node's death.
LEASE_MS: Final = 10_000


class Span(NamedTuple):
    """A message, at `last`, and the places before it in which there must be none: the lock finds out."""

    sender: bytes
    first_version: int
    first_seq: int
    last_version: int
    last_seq: int


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


class Subscribing(NamedTuple):
    """What an entity says of one topic."""

    topic: bytes
    handler: bytes | None  #: None: no more


@attrs.define(slots=True, eq=False)
class Consequences:
    """Of one turn. `leased` is for `Births.born` once the commit is known."""

    consumed: int = 0  #: messages and timers
    spans: list[Span] = attrs.field(factory=list)
    touched: dict[tuple[bytes, bytes, bytes], Touched] = attrs.field(factory=dict)
    buried: list[tuple[bytes, bytes]] = attrs.field(factory=list)  #: id, error
    births: list[Birth] = attrs.field(factory=list)
    windings: list[Winding] = attrs.field(factory=list)
    subscribing: list[Subscribing] = attrs.field(factory=list)
    leased: list[Delivery] = attrs.field(factory=list)
    weight_bytes: int = 0
    due: bool = False  #: something may be claimed at once

    @property
    def plain(self) -> bool:
        """No timers, subscriptions and dead letters."""
        return not (self.touched or self.windings or self.buried or self.subscribing)


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


def subscribing_arrays_of(commits: Sequence[tuple[bytes, bytes, bytes, Consequences]]) -> list[bytes]:
    """The parameters of `commit_subscribing` that `commit_messages` does not have."""
    subscribing = [(turn, function, key, s) for turn, function, key, c in commits for s in c.subscribing]
    return [
        arrays.uuids([turn for turn, _, _, _ in subscribing]),
        arrays.texts([s.topic for _, _, _, s in subscribing]),
        arrays.texts([function for _, function, _, _ in subscribing]),
        arrays.texts([key for _, _, key, _ in subscribing]),
        arrays.texts([s.handler for _, _, _, s in subscribing]),
    ]


def plain_arrays_of(commits: Sequence[tuple[bytes, bytes, bytes, Consequences]]) -> list[bytes]:
    """The parameters of `commit_plain_messages` from $10 on."""
    return [*_spans_of(commits), *_births_of(commits)]


def _spans_of(commits: Sequence[tuple[bytes, bytes, bytes, Consequences]]) -> list[bytes]:
    spans = sorted([(f, k, *s, turn) for turn, f, k, c in commits for s in c.spans])
    function, key, sender, first_version, first_seq, last_version, last_seq, turn = _columns(spans, 8)
    return [
        arrays.uuids(turn),
        arrays.texts(function),
        arrays.texts(key),
        arrays.texts(sender),
        arrays.int8s(first_version),
        arrays.int8s(first_seq),
        arrays.int8s(last_version),
        arrays.int8s(last_seq),
    ]


def _births_of(commits: Sequence[tuple[bytes, bytes, bytes, Consequences]]) -> list[bytes]:
    births = [b for _, _, _, c in commits for b in c.births]
    function, key, sender, version, seq, id_, handler, body, reply_to, answers, hops, owner = _columns(
        births, 12
    )
    return [
        arrays.uuids([turn for turn, _, _, c in commits for _ in c.births]),
        arrays.texts(function),
        arrays.texts(key),
        arrays.texts(sender),
        arrays.int8s(version),
        arrays.int8s(seq),
        arrays.texts(id_),
        arrays.texts(handler),
        arrays.texts(body),
        arrays.texts(reply_to),
        arrays.texts(answers),
        arrays.int8s(hops),
        arrays.uuids(owner),
        arrays.int8s([0 if each is None else LEASE_MS for each in owner]),
    ]


def _columns(rows: Sequence[tuple[Any, ...]], count: int) -> Sequence[Sequence[Any]]:
    """Rows turned: all of them in one go, for a statement has a few dozen columns."""
    return list(zip(*rows, strict=True)) if rows else [()] * count
