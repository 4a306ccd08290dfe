"""What the collector looks at while a node serves: little, for most is freed by count."""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Iterator
from typing import Final

#: A request leaves no cycles behind (a test sees to it), so the collector finds next to nothing. Measured at
#: 64 connections: with Python's 700 a tenth to a fifth of all time goes into looking, and a pause of 20 ms
#: every second; 20,000 young objects are a few megabytes.
_YOUNG_OBJECTS: Final = 20_000


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
