"""Checker 1: the versions claim an order; replay it against the model and hold it against the clock.

A pass is a linearization, so nothing rests on trust in the versions. O(n log n): a sort and one walk.
Versions that nobody owns up to must be deeds of unknown outcome. Which ones is searched for with all
possibilities kept side by side, at most MOST_GUESSES of them: with more the checker has run out of time,
which is no pass.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from typing import Final

import attrs
import orjson
from tests.faults.history.deeds import Deed, deeds_of, exchangeable_before
from tests.faults.history.models import ABSENT, Model, State, Step, claims_to_write, step
from tests.faults.history.operation import Operation
from tests.faults.history.verdict import PASSED, Impossible, Verdict, out_of_time, violation

#: Ten unknown deeds in one gap are 1024 sets of them; a workload with unique inputs stays far below.
MOST_GUESSES: Final = 20_000


def replay(operations: Iterable[Operation], model: Model) -> Verdict:
    """The verdict on the history of one entity whose answers carry versions."""
    try:
        deeds = deeds_of(operations)
        ordered, maybe = _in_claimed_order(deeds)
        _against_the_clock(ordered)
        return _Walk(model, ordered, maybe).run()
    except Impossible as found:
        return found.verdict


Place = tuple[int, int, int]  # version, 0 for its writer and 1 for those who read it, invoked_ns


def _in_claimed_order(deeds: list[Deed]) -> tuple[list[tuple[Place, Deed]], list[Deed]]:
    """(what is known, by its version; what may have happened)."""
    ordered: list[tuple[Place, Deed]] = []
    maybe: list[Deed] = []
    for deed in deeds:
        if not deed.known:
            maybe.append(deed)
        elif deed.version is None:
            raise Impossible("an answer without a version: this history is for the search", deed.attempts)
        else:
            ordered.append(
                ((deed.version, int(not claims_to_write(deed.kind, deed.answer)), deed.invoked_ns), deed)
            )
    ordered.sort(key=_place)
    return ordered, maybe


def _place(item: tuple[Place, Deed]) -> Place:
    return item[0]


def _against_the_clock(ordered: list[tuple[Place, Deed]]) -> None:
    """No deed may have ended before one that stands before it was begun."""
    latest: Deed | None = None
    latest_ns = -1
    for _, deed in ordered:
        if deed.completed_ns < latest_ns and latest is not None:
            sentence = (
                f"against the clock: {latest.kind} with version {latest.version} was asked for when the "
                f"answer to {deed.kind} with version {deed.version}, which comes after it, had been given"
            )
            raise Impossible(sentence, (*latest.attempts, *deed.attempts))
        if deed.invoked_ns > latest_ns:
            latest, latest_ns = deed, deed.invoked_ns


@attrs.frozen
class _Guess:
    """One way how it may have been so far: the state, and the unknown deeds that were used up."""

    state: State
    used: frozenset[int] = frozenset()


class _Walk:
    """From version to version; with no unknown deed there is one guess all the way."""

    def __init__(self, model: Model, ordered: list[tuple[Place, Deed]], maybe: list[Deed]) -> None:
        self._model = model
        self._ordered = ordered
        self._maybe = sorted(maybe, key=lambda deed: deed.invoked_ns)
        self._same_before = exchangeable_before(self._maybe)
        self._ends: list[int] | None = None  #: by position: the earliest end from there on
        self._version = 0

    def run(self) -> Verdict:
        guesses = [_Guess(ABSENT)]
        for position, ((version, reads, _), deed) in enumerate(self._ordered):
            own = version - (1 - reads)  # the version that it found
            while self._version < own:
                guesses = self._fill_gap(guesses, position, deed)
                if len(guesses) > MOST_GUESSES:
                    return out_of_time(f"more than {MOST_GUESSES} ways to fill the gap before {version}")
            if self._version > own:
                before = self._ordered[position - 1][1]
                return violation(f"version {version} has two writers", *before.attempts, *deed.attempts)
            if len(guesses) == 1:
                guesses = self._one(guesses[0], deed, reads)
            else:
                guesses = list({after for each in guesses for after in self._one(each, deed, reads)})
            if not guesses:
                return violation(*self._told(deed, version, reads))
            self._version = version
        return PASSED

    def _one(self, guess: _Guess, deed: Deed, reads: int) -> list[_Guess]:
        """The guess after a deed that is known; nothing when it would have been answered otherwise."""
        state, answer, wrote = self._step(guess, deed)
        if answer != deed.answer or wrote is bool(reads):
            return []
        return [guess if reads else _Guess(state, guess.used)]

    def _step(self, guess: _Guess, deed: Deed) -> Step:
        return step(
            self._model, guess.state, self._version, deed.kind, deed.input, deed.if_match, deed.none_match
        )

    def _told(self, deed: Deed, version: int, reads: int) -> tuple[str, *tuple[Operation, ...]]:
        sentence = f"version {version}: {deed.kind} was answered {orjson.dumps(deed.answer).decode()[:200]}, "
        sentence += "which does not follow from what came before"
        return sentence, *deed.attempts

    def _fill_gap(self, guesses: list[_Guess], position: int, deed: Deed) -> list[_Guess]:
        """Every way how an unknown deed made the version that nobody owns up to."""
        begun = bisect_right(self._maybe, self._earliest_end(position), key=lambda each: each.invoked_ns)
        after: set[_Guess] = set()
        for guess in guesses:
            for number in range(begun):
                earlier = self._same_before[number]
                if number in guess.used or (earlier is not None and earlier not in guess.used):
                    continue
                maybe = self._maybe[number]
                state, _, wrote = self._step(guess, maybe)
                if wrote:
                    after.add(_Guess(state, guess.used | {number}))
            if len(after) > MOST_GUESSES:
                break
        if not after:
            sentence = f"nobody wrote version {self._version + 1}, and version {deed.version} was seen"
            raise Impossible(sentence, deed.attempts)
        self._version += 1
        return list(after)

    def _earliest_end(self, position: int) -> int:
        """An unknown deed before this position must have been begun before all that follows had ended."""
        if self._ends is None:
            ends = [deed.completed_ns for _, deed in self._ordered]
            for index in range(len(ends) - 2, -1, -1):
                ends[index] = min(ends[index], ends[index + 1])
            self._ends = ends
        return self._ends[position]
