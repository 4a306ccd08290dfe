"""What the statements of state/sql do, in memory: atomic, one after the other, by PostgreSQL's rules.

It serves the seeded simulation alone, and does the same as the real one (test_model_database.py).
Parameters and rows are the bytes that the real connection sends and receives.
"""

from __future__ import annotations

import copy
import struct
from collections.abc import Mapping, Sequence

import attrs

from inversion.state import arrays, sql
from inversion.state.postgres import StatementFailed

Row = tuple[bytes | None, ...]
Key = tuple[bytes, bytes]


@attrs.define
class Entity:
    version: int
    turn: bytes
    prev: bytes | None
    state: bytes | None


@attrs.frozen
class Request:
    hash: bytes
    turn: bytes
    version: int
    status: int
    content_type: bytes
    body: bytes


@attrs.define
class Database:
    """The tables. `run` executes one statement."""

    entities: dict[Key, Entity] = attrs.field(factory=dict)
    requests: dict[tuple[bytes, bytes, bytes], Request] = attrs.field(factory=dict)
    commits: int = 0

    def ended(
        self, statement: sql.Statement, parameters: Sequence[bytes | None]
    ) -> list[Row] | StatementFailed:
        """What the server says at the end of a statement."""
        try:
            return self.run(statement, parameters)
        except StatementFailed as failure:
            return failure

    def run(self, statement: sql.Statement, parameters: Sequence[bytes | None]) -> list[Row]:
        match statement:
            case sql.COMMIT_ONE:
                function, key, version, turn, prev, state = parameters
                assert function is not None
                assert key is not None
                assert version is not None
                return self._update(function, key, int.from_bytes(version, "big"), turn, prev, state)
            case sql.COMMIT:
                return self._upsert(_columns(parameters), frozenset())
            case sql.COMMIT_KEYED_EACH:
                entities, answers = parameters[:6], parameters[6:]
                functions, keys, _, turns = entities[:4]
                ids, hashes, *told = answers
                records = [functions, keys, ids, hashes, turns, *told]
                return self._commit_keyed([*entities, *records])
            case sql.COMMIT_KEYED_NEW:
                entities, (ids, hashes, bodies, kind) = parameters[:6], parameters[6:]
                functions, keys, versions, turns = entities[:4]
                kinds = arrays.texts([kind] * len(_columns(parameters[:1])[0]))
                statuses = arrays.int8s([200] * len(_columns(parameters[:1])[0]))
                records = [functions, keys, ids, hashes, turns, versions, statuses, kinds, bodies]
                before = copy.deepcopy((self.entities, self.requests, self.commits))
                try:
                    return self._commit_keyed([*entities, *records], looks=False)
                except StatementFailed:
                    self.entities, self.requests, self.commits = before
                    raise
            case sql.COMMIT_KEYED:
                return self._commit_keyed(parameters)
            case sql.LOAD:
                found = self._found(parameters)
                return [(_int8(at), _int8(e.version), e.turn, e.state) for at, e in found]
            case sql.FIND:
                return [(_int8(at), e.turn, e.prev) for at, e in self._found(parameters)]
            case sql.UNLOCKED:
                return [(_int8(at),) for at, _ in self._found(parameters)]
            case sql.OUTDATED:
                return self._outdated(parameters)
            case sql.RECORDED:
                return self._recorded(parameters)
            case _:
                raise AssertionError(f"the model does not know {statement.name.decode()}")

    def _found(self, parameters: Sequence[bytes | None]) -> list[tuple[int, Entity]]:
        functions, keys = _columns(parameters[:2])
        asked = enumerate(zip(functions, keys, strict=True), 1)
        return [(at, self.entities[key]) for at, key in asked if key in self.entities]  # type: ignore[index]

    def _outdated(self, parameters: Sequence[bytes | None]) -> list[Row]:
        rows = zip(*_columns(parameters), strict=True)
        stale = []
        for at, (function, key, turn) in enumerate(rows, 1):
            entity = self.entities.get((function, key))  # type: ignore[arg-type]
            if (None if entity is None else entity.turn) != turn:
                stale.append((_int8(at),))
        return stale  # type: ignore[return-value]

    def _recorded(self, parameters: Sequence[bytes | None]) -> list[Row]:
        found: list[Row] = []
        for at, place in enumerate(zip(*_columns(parameters), strict=True), 1):
            kept = self.requests.get(place)  # type: ignore[arg-type]
            if kept is not None:
                numbers = _int8(kept.version), _int8(kept.status)
                found.append((_int8(at), kept.hash, kept.turn, *numbers, kept.content_type, kept.body))
        return found

    def _commit_keyed(self, parameters: Sequence[bytes | None], *, looks: bool = True) -> list[Row]:
        columns = _columns(parameters[6:])
        records = list(zip(*columns, strict=True))
        known = {(record[0], record[1]) for record in records if looks and record[:3] in self.requests}
        returned = self._upsert(_columns(parameters[:6]), known)
        applied = {row[0] for row in returned}
        for function, key, id_, hash_, turn, version, status, content_type, body in records:
            place = (function, key, id_)
            kept = Request(
                hash_,
                turn,
                _number(version),
                _number(status),
                content_type,
                body,  # type: ignore[arg-type]
            )
            if turn in applied:
                if not looks and place in self.requests:
                    raise StatementFailed("23505", "duplicate key value")
                assert place not in self.requests, "the NOT EXISTS let a known key through"
                self.requests[place] = kept  # type: ignore[index]
            elif key == b"-" and place not in self.requests:
                self.requests[place] = kept  # type: ignore[index]
                returned.append((turn,))
        return returned

    def _upsert(self, columns: Sequence[Sequence[bytes | None]], known: object) -> list[Row]:
        returned: list[Row] = []
        rows = sorted(zip(*columns, strict=True), key=lambda row: row[:2])  # type: ignore[arg-type,return-value]
        for function, key, version, turn, prev, state in rows:
            place: Key = (function, key)  # type: ignore[assignment]
            entity = self.entities.get(place)
            if place in known:  # type: ignore[operator]
                continue
            if entity is None and prev is None:
                self.entities[place] = Entity(_number(version), turn, None, state)  # type: ignore[arg-type]
                returned.append((turn,))
            elif entity is not None and prev is not None:
                returned += self._update(*place, _number(version), turn, prev, state)
        self.commits += len(returned)
        return returned

    def _update(
        self,
        function: bytes,
        key: bytes,
        version: int,
        turn: bytes | None,
        prev: bytes | None,
        state: bytes | None,
    ) -> list[Row]:
        entity = self.entities.get((function, key))
        if entity is None or entity.turn != prev:
            return []
        assert version >= entity.version
        assert turn is not None
        self.entities[function, key] = Entity(version, turn, prev, state)
        return [(turn,)]


class ModelRows:
    """The face of postgres.Rows."""

    def __init__(self, rows: Sequence[Row], *, warned: bool = False) -> None:
        self._rows = rows
        self.count = len(rows)
        self.warned = warned

    def value(self, row: int, column: int) -> bytes | None:
        return self._rows[row][column]


def _columns(parameters: Sequence[bytes | None]) -> list[list[bytes | None]]:
    return [_array(parameter) for parameter in parameters if parameter is not None]


def _array(text: bytes) -> list[bytes | None]:
    """The values of an array in PostgreSQL's binary format."""
    (dimensions,) = struct.unpack_from(">i", text)
    if dimensions == 0:
        return []
    (count,) = struct.unpack_from(">i", text, 12)
    at, values = 20, []
    for _ in range(count):
        (size,) = struct.unpack_from(">i", text, at)
        at += 4
        values.append(None if size < 0 else text[at : at + size])
        at += max(size, 0)
    assert at == len(text)
    return values


def _number(value: bytes | None) -> int:
    return int.from_bytes(value or b"", "big", signed=True)


def _int8(value: int) -> bytes:
    return value.to_bytes(8, "big")


def snapshot(database: Database) -> Mapping[Key, tuple[int, bytes | None]]:
    return {key: (entity.version, entity.state) for key, entity in database.entities.items()}
