"""Request and turn ids: UUID version 7 (RFC 9562), so that they sort by time of birth.

Randomness is read from the kernel in blocks: a system call per id would cost more than the id.
"""

from __future__ import annotations

import os
from time import time_ns

#: One read serves 409 ids.
_BLOCK_BYTES = 4_096
_RANDOM_BYTES_PER_ID = 10

_block = b""
_next_byte = _BLOCK_BYTES


def new_id_bytes() -> bytes:
    """A fresh UUIDv7 as 16 bytes: 48 bits of milliseconds, 74 random bits."""
    global _block, _next_byte
    if _next_byte + _RANDOM_BYTES_PER_ID > len(_block):
        _block = os.urandom(_BLOCK_BYTES)
        _next_byte = 0
    random = int.from_bytes(_block[_next_byte : _next_byte + _RANDOM_BYTES_PER_ID], "big")
    _next_byte += _RANDOM_BYTES_PER_ID
    high = (random >> 62) & 0xFFF
    low = random & ((1 << 62) - 1)
    value = (time_ns() // 1_000_000) << 80 | 0x7 << 76 | high << 64 | 0b10 << 62 | low
    return value.to_bytes(16, "big")


def new_id() -> str:
    """A fresh UUIDv7 in its text form."""
    text = new_id_bytes().hex()
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def new_seed() -> str:
    """Random hex for `ctx.seed`: the same for all attempts of one request."""
    global _block, _next_byte
    if _next_byte + 8 > len(_block):
        _block = os.urandom(_BLOCK_BYTES)
        _next_byte = 0
    seed = _block[_next_byte : _next_byte + 8].hex()
    _next_byte += 8
    return seed
