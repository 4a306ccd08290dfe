"""From what was published to a message for each subscriber: one statement makes the next of them.

The statement inserts the messages and moves the publication's progress, or neither. It names the attempt and
the node that has the publication, so whoever lost it makes nothing. Who is subscribed is what the database
says at the moment of each statement.
Raises ConnectionLost and StatementFailed as `Connection` does.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from inversion.messages import Delivery
from inversion.names import NO_KEY
from inversion.state import arrays, sql
from inversion.state.consequence_rows import LEASE_MS
from inversion.state.postgres import Connection

#: Messages of one statement: some 15 ms of the server's. More would be locks held for longer, not more done.
MOST: Final = 1_000
#: Their bodies in sum, for each subscriber has its own copy.
_MOST_BYTES: Final = 4 << 20
_LEASE: Final = LEASE_MS.to_bytes(8, "big")


class Batch(NamedTuple):
    """What a statement did for one publication."""

    made: int  #: messages
    done: bool  #: there was no further subscriber: the publication is gone


async def fan_out(
    connection: Connection, node: bytes, publications: Sequence[Delivery]
) -> Mapping[Delivery, Batch]:
    """The next messages of each of these; not in the answer: it is not this node's, or not its turn yet."""
    count = len(publications)
    most = [
        max(1, min(MOST // count, _MOST_BYTES // count // max(1, len(each.body)))) for each in publications
    ]
    found = await connection.execute(
        sql.FAN_OUT,
        [
            arrays.texts([(each.target.key or NO_KEY).encode() for each in publications]),
            arrays.texts([each.sender.encode() for each in publications]),
            arrays.int8s([each.sender_version for each in publications]),
            arrays.int8s([each.seq for each in publications]),
            arrays.int8s([each.attempt for each in publications]),
            arrays.int8s(most),
            node,
            _LEASE,
        ],
    )
    value = found.value
    return {
        publications[_int(value(row, 0)) - 1]: Batch(_int(value(row, 1)), value(row, 2) == b"\x01")
        for row in range(found.count)
    }


def _int(value: bytes | None) -> int:
    return int.from_bytes(value or b"", "big")
