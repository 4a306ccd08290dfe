"""States in memory, bounded in bytes; the least recently used leave first.

Safe to be wrong: a commit checks the turn it replaces, and an answer that commits nothing is confirmed
first. Entities that do not exist are remembered too (`turn` None).
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from inversion.messages import Address, State

#: What an entry holds besides its state and key: State, key tuple, strings, the dict's slot (measured).
_ENTRY_BYTES: Final = 400


class StateCache:
    """Entities by (function, key)."""

    __slots__ = ("_entries", "_limit_bytes", "held_bytes")

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._entries: OrderedDict[Address, State] = OrderedDict()
        self.held_bytes = 0

    def __len__(self) -> int:
        return len(self._entries)

    def get(self, address: Address) -> State | None:
        state = self._entries.get(address)
        if state is not None:
            self._entries.move_to_end(address)
        return state

    def put(self, address: Address, state: State) -> None:
        entries = self._entries
        old = entries.get(address)
        entries[address] = state
        if old is None:
            self.held_bytes += _size_bytes(address, state)
        else:
            entries.move_to_end(address)
            self.held_bytes += len(state.value or b"") - len(old.value or b"")
        while self.held_bytes > self._limit_bytes and entries:
            oldest, evicted = entries.popitem(last=False)
            self.held_bytes -= _size_bytes(oldest, evicted)

    def drop(self, address: Address) -> None:
        state = self._entries.pop(address, None)
        if state is not None:
            self.held_bytes -= _size_bytes(address, state)


def _size_bytes(address: Address, state: State) -> int:
    function, key = address
    value = state.value
    return _ENTRY_BYTES + len(function) + len(key or "") + (0 if value is None else len(value))
