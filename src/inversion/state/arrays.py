"""Arrays in PostgreSQL's binary format: a header and length-prefixed values.

Text arrays cost 20 times as much at 4 KB values (quoting here, parsing there). Encoders take what is at
hand already encoded: bytes of UTF-8, 16 bytes of a uuid, ints.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import Final

_TEXT_OID: Final = 25
_INT8_OID: Final = 20
_UUID_OID: Final = 2950
_BYTEA_OID: Final = 17

_LENGTH: Final = struct.Struct(">i")
#: Packing a short length is a look-up: most keys and states are shorter than this.
_LENGTHS: Final = tuple(_LENGTH.pack(length) for length in range(1_024))
_NULL: Final = _LENGTH.pack(-1)
_pack_int8: Final = struct.Struct(">q").pack
_UUID_LENGTH: Final = _LENGTHS[16]
#: Dimensions, "may hold nulls" (the server counts them itself), element type, size, lower bound.
_HEADER: Final = struct.Struct(">iiIii")


def texts(values: Sequence[bytes | None]) -> bytes:
    """A `text[]`."""
    return _variable(_TEXT_OID, values)


def byteas(values: Sequence[bytes | None]) -> bytes:
    """A `bytea[]`."""
    return _variable(_BYTEA_OID, values)


def _variable(oid: int, values: Sequence[bytes | None]) -> bytes:
    parts = [_HEADER.pack(1, 1, oid, len(values), 1)] if values else [_empty(oid)]
    for value in values:
        if value is None:
            parts.append(_NULL)
        else:
            length = len(value)
            parts.append(_LENGTHS[length] if length < 1_024 else _LENGTH.pack(length))
            parts.append(value)
    return b"".join(parts)


def uuids(values: Sequence[bytes | None]) -> bytes:
    """A `uuid[]` of 16 bytes each."""
    if not values:
        return _empty(_UUID_OID)
    body = [_NULL if value is None else _UUID_LENGTH + value for value in values]
    return _HEADER.pack(1, 1, _UUID_OID, len(values), 1) + b"".join(body)


def int8s(values: Sequence[int]) -> bytes:
    """An `int8[]`."""
    if not values:
        return _empty(_INT8_OID)
    prefix = _LENGTHS[8]
    return _HEADER.pack(1, 0, _INT8_OID, len(values), 1) + prefix + prefix.join(map(_pack_int8, values))


def _empty(oid: int) -> bytes:
    return struct.pack(">iiI", 0, 0, oid)
