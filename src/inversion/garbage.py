"""What the collector looks at while a node serves: little, for most is freed by count."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Iterator
from typing import Final

#: A request leaves no cycles behind (a test sees to it), so the collector finds next to nothing. Measured at
#: 64 connections: with Python's 700 a tenth to a fifth of all time goes into looking, and a pause of 20 ms
#: every second; 20,000 young objects are a few megabytes.
_YOUNG_OBJECTS: Final = 20_000
#: Between two looks for what ended things left behind. One takes 0.4 ms for each thousand cached states.
_TIDY_S: Final = 120.0


@contextlib.contextmanager
def spared_collector() -> Iterator[None]:
    """What is here at start stays, and need not be looked at again."""
    before = gc.get_threshold()
    gc.collect()
    gc.freeze()
    gc.set_threshold(_YOUNG_OBJECTS, 20, 20)
    try:
        yield
    finally:
        gc.set_threshold(*before)
        gc.unfreeze()


class Tidying:
    """Frees what processes and connections that ended leave behind: their cycles, some 10 KB each.

    They are too few objects for the spared collector to come by, and old by then. `endings` counts.
    """

    def __init__(self, endings: Callable[[], int]) -> None:
        self._endings = endings
        self._seen = 0
        self._next_s = 0.0

    def sweep(self, now_s: float) -> None:
        """Time has passed (perf_counter)."""
        if now_s >= self._next_s:
            self._next_s = now_s + _TIDY_S
            endings = self._endings()
            if endings != self._seen:
                self._seen = endings
                gc.collect()
