"""Checker 2: looks for an order by itself, after Wing and Gong, with Lowe's memory of what was tried.

For histories that hide versions, and to hold checker 1 against: `versions=True` makes the version a part of
the answer, and then both answer the same question. The events of one entity stand in a doubly linked list;
a deed is lifted out of it when the model allows it next, and put back when that led nowhere. A deed of
unknown outcome has no end in the list: it may stay over. One that runs out of time has not passed.
"""

from __future__ import annotations

from collections.abc import Iterable
from time import perf_counter
from typing import Final

from tests.faults.history.deeds import Deed, deeds_of, exchangeable_before
from tests.faults.history.models import ABSENT, Model, State, step
from tests.faults.history.operation import Operation
from tests.faults.history.verdict import PASSED, Impossible, Verdict, out_of_time, violation

LIMIT_S: Final = 10.0
#: A look at the clock costs as much as a step: one for so many.
STEPS_PER_LOOK: Final = 256
NOTHING: Final = -1


def search(
    operations: Iterable[Operation], model: Model, *, versions: bool = False, limit_s: float = LIMIT_S
) -> Verdict:
    """The verdict on the history of one entity."""
    try:
        deeds = deeds_of(operations)
    except Impossible as found:
        return found.verdict
    return _Search(deeds, model, versions).run(perf_counter() + limit_s)


class _Events:
    """The linked list: beginnings and ends by their time; position 0 is its head."""

    def __init__(self, deeds: list[Deed]) -> None:
        # What ended at the moment the other began may have overlapped: beginnings go first.
        events = [(deed.invoked_ns, 0, number) for number, deed in enumerate(deeds)]
        events += [(deed.completed_ns, 1, number) for number, deed in enumerate(deeds) if deed.known]
        events.sort()
        self.deed = [NOTHING] + [number for _, _, number in events]
        self.is_end = [False] + [bool(end) for _, end, _ in events]
        self.begins = [NOTHING] * len(deeds)
        self.ends = [NOTHING] * len(deeds)
        for position, (_, end, number) in enumerate(events, 1):
            (self.ends if end else self.begins)[number] = position
        self.after = [*range(1, len(events) + 1), NOTHING]
        self.before = [NOTHING, *range(len(events))]

    def lift(self, number: int) -> None:
        """Take a deed out."""
        for position in (self.begins[number], self.ends[number]):
            if position != NOTHING:
                before, after = self.before[position], self.after[position]
                self.after[before] = after
                if after != NOTHING:
                    self.before[after] = before

    def put_back(self, number: int) -> None:
        """Undo the last lift, which was of this deed."""
        for position in (self.ends[number], self.begins[number]):
            if position != NOTHING:
                before, after = self.before[position], self.after[position]
                self.after[before] = position
                if after != NOTHING:
                    self.before[after] = position


class _Search:
    def __init__(self, deeds: list[Deed], model: Model, versions: bool) -> None:
        self._deeds = deeds
        self._model = model
        self._versions = versions
        self._events = _Events(deeds)
        self._open = sum(deed.known for deed in deeds)  #: that must find a place yet
        self._first = self._exchangeable()

    def _exchangeable(self) -> dict[int, int]:
        """Of two unknown deeds that ask for the same, the earlier one goes first."""
        maybe = [number for number, deed in enumerate(self._deeds) if not deed.known]
        maybe.sort(key=lambda number: self._deeds[number].invoked_ns)
        before = exchangeable_before([self._deeds[number] for number in maybe])
        pairs = zip(maybe, before, strict=True)
        return {number: maybe[earlier] for number, earlier in pairs if earlier is not None}

    def run(self, end_s: float) -> Verdict:
        events, deeds = self._events, self._deeds
        state: State = ABSENT
        version = 0
        done = 0  #: a bit for each deed that has its place
        tried: set[tuple[int, State, int]] = set()
        path: list[tuple[int, State, int]] = []
        farthest: list[int] = []
        position = events.after[0]
        steps = 0
        while self._open:
            steps += 1
            if steps % STEPS_PER_LOOK == 0 and perf_counter() > end_s:
                return out_of_time(f"no order found, and none excluded, of {len(deeds)} deeds in time")
            number = events.deed[position]
            if not events.is_end[position]:
                found = self._try(number, state, version, done)
                if found is not None:
                    after_done = done | (1 << number)
                    config = (after_done, *found)
                    if config not in tried:
                        tried.add(config)
                        path.append((number, state, version))
                        state, version = found
                        done = after_done
                        self._open -= deeds[number].known
                        events.lift(number)
                        position = events.after[0]
                        continue
                position = events.after[position]
                continue
            # Its end is reached and it has found no place: undo the last choice.
            if len(path) >= len(farthest):
                farthest = [*(each for each, _, _ in path), number]
            if not path:
                stuck = deeds[farthest[-1]]
                sentence = f"no order explains the {stuck.kind} that was answered {stuck.answer!r}"
                return violation(sentence, *stuck.attempts)
            number, state, version = path.pop()
            done &= ~(1 << number)
            self._open += deeds[number].known
            events.put_back(number)
            position = events.after[events.begins[number]]
        return PASSED

    def _try(self, number: int, state: State, version: int, done: int) -> tuple[State, int] | None:
        """State and version after this deed, if it can be the next."""
        deed = self._deeds[number]
        after, answer, wrote = step(
            self._model, state, version, deed.kind, deed.input, deed.if_match, deed.none_match
        )
        if deed.known:
            if answer != deed.answer or (self._versions and deed.version != version + wrote):
                return None
        elif not wrote or (number in self._first and not done >> self._first[number] & 1):
            return None  # without an effect it may as well not have happened
        return after, version + wrote
