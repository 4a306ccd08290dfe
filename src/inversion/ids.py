"""Request ids, turn ids and seeds.

A request id is a UUID version 7 (RFC 9562), so that ids sort by time of birth. Randomness is read from the
kernel in blocks and time is put into words once a millisecond: a system call or a format per id would
cost more than all the rest of it.
"""

from __future__ import annotations

import os
from time import time_ns
from typing import Final

#: One read serves some 200 requests.
_BLOCK_BYTES: Final = 4_096
_VARIANT: Final = dict(zip("0123456789abcdef", "89ab" * 4, strict=True))  # RFC 9562, section 4.1: 10xx

_block = b""
_hex = ""
_next = _BLOCK_BYTES
_millisecond = 0
_prefix = ""
_prefix_bytes = b""


def new_id() -> str:
    """A fresh request id: 48 bits of Unix milliseconds, version, 74 random bits."""
    begin = 2 * _take(10)
    _look_at_the_clock()
    random = _hex[begin : begin + 19]
    return f"{_prefix}-7{random[:3]}-{_VARIANT[random[3]]}{random[4:7]}-{random[7:]}"


def new_turn_id() -> bytes:
    """A fresh turn id: 48 bits of milliseconds and 80 random ones. PostgreSQL's uuid takes any 16 bytes."""
    begin = _take(10)
    _look_at_the_clock()
    return _prefix_bytes + _block[begin : begin + 10]


def new_seed() -> str:
    """Random hex for `ctx.seed`: the same for all attempts of one request."""
    begin = 2 * _take(8)
    return _hex[begin : begin + 16]


def _take(count: int) -> int:
    """Where in the block `count` unused bytes begin."""
    global _block, _hex, _next
    begin = _next
    if begin + count > _BLOCK_BYTES:
        _block = os.urandom(_BLOCK_BYTES)
        _hex = _block.hex()
        begin = 0
    _next = begin + count
    return begin


def _look_at_the_clock() -> None:
    global _millisecond, _prefix, _prefix_bytes
    now = time_ns() // 1_000_000
    if now != _millisecond:
        _millisecond = now
        _prefix_bytes = now.to_bytes(6, "big")
        text = _prefix_bytes.hex()
        _prefix = f"{text[:8]}-{text[8:]}"
