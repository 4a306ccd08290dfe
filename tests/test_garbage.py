"""Cycles of what ended are freed, though the spared collector hardly looks."""

from __future__ import annotations

import gc
import weakref

from inversion.garbage import Tidying, spared_collector


class Litter:
    def __init__(self) -> None:
        self.itself = self


def test_the_collector_is_spared_for_a_time() -> None:
    before = gc.get_threshold()
    with spared_collector():
        assert gc.get_threshold()[0] > before[0]
    assert gc.get_threshold() == before


def test_what_an_ending_left_behind_is_freed_even_when_it_is_old() -> None:
    endings = 0
    tidying = Tidying(lambda: endings)
    tidying.sweep(0.0)
    old = Litter()
    gc.collect(1)  # now it is among the oldest objects
    found = weakref.ref(old)
    del old
    tidying.sweep(1_000.0)
    assert found() is not None, "nothing has ended: no time is spent"
    endings = 1
    tidying.sweep(1_001.0)
    assert found() is not None, "not so soon again"
    tidying.sweep(2_000.0)
    assert found() is None
