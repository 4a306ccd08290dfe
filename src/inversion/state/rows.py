"""What goes into the gathered statements and what comes out of them, column by column."""

from __future__ import annotations

from collections.abc import Sequence

import attrs

from inversion.messages import Address, State, Turn
from inversion.state import arrays, sql
from inversion.state.postgres import Rows


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


def commit_statement(commits: Sequence[Commit]) -> tuple[sql.Statement, Sequence[bytes | None]]:
    """The statement that commits these, and its parameters."""
    if len(commits) == 1 and commits[0].replaced is not None:
        one = commits[0]
        version = one.version.to_bytes(8, "big")
        return sql.COMMIT_ONE, (one.function, one.key, version, one.id, one.replaced, one.state)
    return sql.COMMIT, [
        arrays.texts([commit.function for commit in commits]),
        arrays.texts([commit.key for commit in commits]),
        arrays.int8s([commit.version for commit in commits]),
        arrays.uuids([commit.id for commit in commits]),
        arrays.uuids([commit.replaced for commit in commits]),
        arrays.texts([commit.state for commit in commits]),
    ]


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
