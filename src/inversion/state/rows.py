"""What goes into the gathered statements and what comes out of them, column by column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import attrs

from inversion import json_text
from inversion.errors import Code, RequestRefused
from inversion.messages import Address, Answer, Idempotency, Receipt, Recorded, State, Turn
from inversion.state import arrays, sql
from inversion.state.consequence_rows import Consequences, arrays_of, plain_arrays_of, subscribing_arrays_of
from inversion.state.postgres import Rows

#: The key under which the records of stateless calls stand: no entity can have it.
STATELESS_KEY: Final = b"-"
#: What the id of the record of a message's answer begins with.
OUTPUT: Final = "m:"
#: The status of a record that says where the answer will be: the request was forwarded.
ELSEWHERE: Final = 307
#: The content type under which a refusal of ours is kept, the one there is: a condition that did not hold.
_OURS: Final = b"application/problem+json"
#: True, in PostgreSQL's binary format.
_APPLIED: Final = b"\x01"


@attrs.define(slots=True, eq=False)  # not frozen: that would cost twice as much to make
class Record:
    """The answer to a request that had an Idempotency-Key, to be kept with the commit."""

    id: bytes
    hash: bytes
    version: int
    status: int  #: 200: the body is the response; any other: the function's error as JSON
    content_type: bytes
    body: bytes


@attrs.define(slots=True, eq=False)
class Commit:
    """A turn's row on its way to the database. Sent again it is the same, turn id included."""

    turn: Turn
    function: bytes
    key: bytes
    version: int
    id: bytes  #: the turn id that this commit writes
    replaced: bytes | None  #: the turn it was computed from; None: there was no row
    state: bytes | None  #: None: deleted
    records: Sequence[Record] = ()
    consequences: Consequences | None = None

    @property
    def stateless(self) -> bool:
        """There is no entity, only the record of an answer, or a message that is consumed."""
        return self.key == STATELESS_KEY

    @property
    def forsaken(self) -> bool:
        return self.turn.forsaken


@attrs.define(slots=True, eq=False)
class Check:
    """A turn that commits nothing: is what it was computed from still the newest?"""

    turn: Turn
    computed_from: bytes | None

    @property
    def address(self) -> Address:
        return self.turn.address

    @property
    def forsaken(self) -> bool:
        return self.turn.forsaken


def commit_statement(
    commits: Sequence[Commit], *, looks: bool = True
) -> tuple[sql.Statement, Sequence[bytes | None]]:
    """The statement that commits these, and its parameters.

    Without `looks` it may be one that does not look whether a key has been used, and fails when one has.
    """
    records = 0
    each = True
    for commit in commits:
        if commit.consequences is not None:
            return _with_messages(commits)
        found = len(commit.records)
        records += found
        each = each and found == 1 and commit.key != STATELESS_KEY
    if records:
        if each:
            if not looks and _alike(commits):
                return sql.COMMIT_KEYED_NEW, _keyed_new_parameters(commits)
            return sql.COMMIT_KEYED_EACH, _keyed_each_parameters(commits)
        return sql.COMMIT_KEYED, _keyed_parameters(commits)
    if len(commits) == 1 and commits[0].replaced is not None:
        one = commits[0]
        version = one.version.to_bytes(8, "big")
        return sql.COMMIT_ONE, (one.function, one.key, version, one.id, one.replaced, one.state)
    return sql.COMMIT, _commit_parameters(commits)


def _commit_parameters(commits: Sequence[Commit]) -> list[bytes]:
    return [
        arrays.texts([commit.function for commit in commits]),
        arrays.texts([commit.key for commit in commits]),
        arrays.int8s([commit.version for commit in commits]),
        arrays.uuids([commit.id for commit in commits]),
        arrays.uuids([commit.replaced for commit in commits]),
        arrays.texts([commit.state for commit in commits]),
    ]


def _keyed_each_parameters(commits: Sequence[Commit]) -> list[bytes]:
    records = [commit.records[0] for commit in commits]
    return [
        *_commit_parameters(commits),
        arrays.texts([record.id for record in records]),
        arrays.byteas([record.hash for record in records]),
        arrays.int8s([record.version for record in records]),
        arrays.int8s([record.status for record in records]),
        arrays.texts([record.content_type for record in records]),
        arrays.byteas([record.body for record in records]),
    ]


def _alike(commits: Sequence[Commit]) -> bool:
    """Whether what their records tell is what nearly all tell."""
    kind = commits[0].records[0].content_type
    for commit in commits:  # for each row of a batch: `all` would cost twice as much
        record = commit.records[0]
        if record.status != 200 or record.version != commit.version or record.content_type != kind:
            return False
    return True


def _keyed_new_parameters(commits: Sequence[Commit]) -> list[bytes]:
    records = [commit.records[0] for commit in commits]
    return [
        *_commit_parameters(commits),
        arrays.texts([record.id for record in records]),
        arrays.byteas([record.hash for record in records]),
        arrays.byteas([record.body for record in records]),
        records[0].content_type,
    ]


def _keyed_parameters(commits: Sequence[Commit]) -> list[bytes]:
    return [
        *_commit_parameters([commit for commit in commits if not commit.stateless]),
        *_record_parameters(commits),
    ]


def _with_messages(commits: Sequence[Commit]) -> tuple[sql.Statement, Sequence[bytes | None]]:
    entities = [commit for commit in commits if commit.key != STATELESS_KEY]
    alone = [] if len(entities) == len(commits) else [commit for commit in commits if commit.stateless]
    turns = [
        *_commit_parameters(entities),
        arrays.int8s([_needs(commit) for commit in entities]),
        arrays.uuids([commit.id for commit in alone]),
        arrays.int8s([_needs(commit) for commit in alone]),
    ]
    causes = [
        (commit.id, commit.function, commit.key, commit.consequences)
        for commit in commits
        if commit.consequences is not None
    ]
    if not _is_plain(commits):
        parameters = [*turns, *_record_parameters(commits), *arrays_of(causes)]
        if any(each[3].subscribing for each in causes):
            return sql.COMMIT_SUBSCRIBING, [*parameters, *subscribing_arrays_of(causes)]
        return sql.COMMIT_MESSAGES, parameters
    return sql.COMMIT_PLAIN_MESSAGES, [*turns, *plain_arrays_of(causes)]


def _is_plain(commits: Sequence[Commit]) -> bool:
    """Whether nothing is recorded, and nothing but messages consumed and caused."""
    for commit in commits:
        if commit.records or not (commit.consequences is None or commit.consequences.plain):
            return False
    return True


def _needs(commit: Commit) -> int:
    """How many rows the statement is to count for the turn: itself, and what it consumes."""
    return 1 if commit.consequences is None else 1 + commit.consequences.consumed


def all_applied(sent: Rows) -> bool:
    """Whether a statement that says so of each turn says it of all, as nearly always."""
    value = sent.value
    for row in range(sent.count):  # noqa: SIM110 (once for each turn: the generator would cost the most)
        if value(row, 1) != _APPLIED:
            return False
    return True


def applied_of(statement: sql.Statement, sent: Rows) -> tuple[set[bytes | None], set[bytes | None]]:
    """The turns that were applied, and those that were not because what they consume is not there."""
    turns = [sent.value(row, 0) for row in range(sent.count)]
    if statement not in sql.SAYING:
        return set(turns), set()
    said = [sent.value(row, 1) == _APPLIED for row in range(sent.count)]
    return (
        {turn for turn, applied in zip(turns, said, strict=True) if applied},
        {turn for turn, applied in zip(turns, said, strict=True) if not applied},
    )


def _record_parameters(commits: Sequence[Commit]) -> list[bytes]:
    records = [(commit, record) for commit in commits for record in commit.records]
    return [
        arrays.texts([commit.function for commit, _ in records]),
        arrays.texts([commit.key for commit, _ in records]),
        arrays.texts([record.id for _, record in records]),
        arrays.byteas([record.hash for _, record in records]),
        arrays.uuids([commit.id for commit, _ in records]),
        arrays.int8s([record.version for _, record in records]),
        arrays.int8s([record.status for _, record in records]),
        arrays.texts([record.content_type for _, record in records]),
        arrays.byteas([record.body for _, record in records]),
    ]


def records_of(
    turn: Turn, answers: Sequence[Answer], versions: Sequence[int], content_type: str
) -> Sequence[Record]:
    """What is kept of a turn's answers: of those requests that have a key, and of messages from outside."""
    if len(answers) == 1 and (asked := turn.requests[0].idempotency) is not None:
        return [_record(asked, answers[0], versions[0], content_type.encode())]
    for request in turn.requests:
        if request.idempotency is not None or (request.delivery is not None and request.delivery.outside):
            break
    else:
        return ()  # nearly always
    records = []
    kind = content_type.encode()
    for request, answer, version in zip(turn.requests, answers, versions, strict=True):
        asked = request.idempotency
        if asked is not None:
            records.append(_record(asked, answer, version, kind))
        elif request.delivery is not None and request.delivery.outside:
            records.append(_record(Idempotency(OUTPUT + request.delivery.id), answer, version, kind))
    return records


def _record(asked: Idempotency, answer: Answer, version: int, kind: bytes) -> Record:
    if answer.elsewhere is not None:
        status, kind, body = ELSEWHERE, b"application/json", _words_of(answer.elsewhere)
    elif answer.refusal is not None:
        status, kind, body = answer.refusal.code.status, _OURS, answer.refusal.detail.encode()
    elif answer.error is not None:
        status, body = answer.error.status, json_text.encode_error(answer.error)
    else:
        status, body = 200, b"null" if answer.response is None else answer.response
    return Record(asked.id.encode(), asked.hash, version, status, kind, body)


def _answer(status: int, kind: bytes, body: bytes) -> Answer:
    """What `_record` made a record of."""
    if kind == _OURS:
        return Answer(refusal=RequestRefused(Code.VERSION_MISMATCH, body.decode()))
    if status == ELSEWHERE:
        return Answer(elsewhere=receipt_of(body))
    return Answer(body) if status == 200 else Answer(error=json_text.decode_error(body, status))


def _words_of(receipt: Receipt) -> bytes:
    function, key = receipt.target
    return json_text.encode({"function": function, "key": key, "id": receipt.id})


def receipt_of(text: bytes) -> Receipt:
    """What `_words_of` put into words."""
    told = json_text.plain_object(text) or {}
    key = told.get("key")
    return Receipt(Address(str(told.get("function")), None if key is None else str(key)), str(told.get("id")))


class KeyedRequest(NamedTuple):
    """A request whose record is looked up."""

    place: int  #: of its turn among those looked at
    function: bytes
    key: bytes
    id: str


def keys_of(turns: Sequence[tuple[int, Turn]]) -> Sequence[KeyedRequest]:
    """Every request of these turns that has an Idempotency-Key."""
    return [
        KeyedRequest(
            place,
            turn.address.function.encode(),
            STATELESS_KEY if turn.address.key is None else turn.address.key.encode(),
            request.idempotency.id,
        )
        for place, turn in turns
        for request in turn.requests
        if request.idempotency is not None
    ]


def recorded_parameters(keys: Sequence[KeyedRequest]) -> Sequence[bytes]:
    return [
        arrays.texts([each.function for each in keys]),
        arrays.texts([each.key for each in keys]),
        arrays.texts([each.id.encode() for each in keys]),
    ]


def recorded(rows: Rows) -> Mapping[int, Recorded]:
    """What was recorded, by the ordinals of the first column, from 0."""
    value = rows.value
    found = {}
    for row, place in enumerate(places(rows)):
        status = int.from_bytes(value(row, 4) or b"", "big")
        body = value(row, 6) or b""
        kind = value(row, 5) or b""
        version = int.from_bytes(value(row, 3) or b"", "big")
        answer = _answer(status, kind, body)
        found[place] = Recorded(value(row, 1) or b"", value(row, 2) or b"", version, answer, kind.decode())
    return found


def find_parameters(commits: Sequence[Commit]) -> Sequence[bytes]:
    return [
        arrays.texts([commit.function for commit in commits]),
        arrays.texts([commit.key for commit in commits]),
    ]


def load_parameters(addresses: Sequence[Address]) -> Sequence[bytes]:
    return [
        arrays.texts([address.function.encode() for address in addresses]),
        arrays.texts([(address.key or "").encode() for address in addresses]),
    ]


def check_parameters(checks: Sequence[Check]) -> Sequence[bytes]:
    return [
        *load_parameters([check.turn.address for check in checks]),
        arrays.uuids([check.computed_from for check in checks]),
    ]


def places(rows: Rows) -> Sequence[int]:
    """Which of the parameters each row speaks of: the ordinals of the first column, from 0."""
    value = rows.value
    return [int.from_bytes(value(row, 0) or b"", "big") - 1 for row in range(rows.count)]


def loaded_states(rows: Rows, count: int) -> Sequence[State]:
    """The states of `count` addresses; those without a row have version 0 and no turn."""
    states = [State(None, 0, None, True)] * count
    value = rows.value
    for row, place in enumerate(places(rows)):
        version = int.from_bytes(value(row, 1) or b"", "big")
        states[place] = State(value(row, 3), version, value(row, 2), True)
    return states
