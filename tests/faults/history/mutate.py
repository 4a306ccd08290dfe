"""Good histories, each made wrong in one place: a checker that lets one of them pass is of no use.

Every mutation makes sure that no other deed can explain what it leaves behind (it gives None where it
cannot): inputs are unlike each other where outcomes are unknown, and elsewhere nothing is unknown.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from typing import Final

import msgspec
from tests.faults.history.models import ABSENT, READ, Model, State, claims_to_write, model_of, step
from tests.faults.history.operation import Json, Operation, Outcome
from tests.faults.history.simulate import Plan, simulate

History = list[Operation]
Mutation = Callable[[History, random.Random], "History | None"]

#: Their inputs repeat, so that an unknown deed could stand in for another: none in these.
REPEATING: Final = ("register", "life")


def changed(operation: Operation, **fields: object) -> Operation:
    return msgspec.structs.replace(operation, **fields)


def _is_write(operation: Operation) -> bool:
    return (
        operation.version is not None
        and operation.outcome is Outcome.APPLIED
        and claims_to_write(operation.kind, operation.answer)
    )


def _alike(history: History, one: Operation) -> list[int]:
    """Where all attempts of the same deed stand."""
    if one.key is None:
        return [history.index(one)]
    return [place for place, each in enumerate(history) if each.key == one.key]


def _single_writes(history: History) -> list[Operation]:
    """Writes with no second attempt."""
    return [each for each in history if _is_write(each) and len(_alike(history, each)) == 1]


def _in_order(history: Sequence[Operation]) -> list[Operation] | None:
    """The first answers in the order of their versions, if each version has its writer among them."""
    seen: set[str] = set()
    first = []
    for each in sorted(history, key=lambda each: each.completed_ns or 0):
        if each.version is not None and (each.key is None or each.key not in seen):
            first.append(each)
            seen.add(each.key or "")
    first.sort(key=lambda each: (each.version, not _is_write(each), each.invoked_ns))
    writes = [each.version for each in first if _is_write(each)]
    return first if writes == list(range(1, len(writes) + 1)) else None


def _retold(
    history: History, dice: random.Random, apply: Callable[[Model, State, Operation], State], more: int
) -> History | None:
    """The same, had the store treated one write as `apply` does, which takes `more` versions."""
    ordered = _in_order(history)
    writes = _single_writes(history)
    if ordered is None or not writes or any(each.if_match is not None or each.none_match for each in history):
        return None
    wrong = dice.choice(writes)
    model = model_of(wrong.entity)
    state: State = ABSENT
    answers: dict[str, tuple[Json, int]] = {}
    differs = more > 0
    added = 0
    for each in ordered:
        before = state
        state, answer, wrote = step(model, state, 0, each.kind, each.input, None)
        if wrote is not _is_write(each):
            return None  # from here on another history
        assert each.version is not None
        answers[_name(each)] = (answer, each.version + added)
        differs = differs or answer != each.answer
        if each is wrong:
            state = apply(model, before, each)
            added = more
    if not differs:
        return None
    return [
        changed(each, answer=answers[_name(each)][0], version=answers[_name(each)][1])
        if each.version is not None
        else each
        for each in history
    ]


def _name(operation: Operation) -> str:
    return operation.key or f"{operation.client} {operation.invoked_ns}"


def lost(history: History, dice: random.Random) -> History | None:
    """An acknowledged write is not in what came after it."""
    return _retold(history, dice, lambda model, before, each: before, 0)


def duplicated(history: History, dice: random.Random) -> History | None:
    """A write was done twice, and the second made a version of its own."""

    def twice(model: Model, state: State, each: Operation) -> State:
        for _ in range(2):
            state, _, _ = step(model, state, 0, each.kind, each.input, None)
        return state

    return _retold(history, dice, twice, 1)


def lost_with_its_version(history: History, dice: random.Random) -> History | None:
    """An acknowledged write is gone, and what came next took its version."""
    owned = {each.version for each in history if _is_write(each)}
    newest = max((each.version for each in history if each.version is not None), default=0)
    fit = [each for each in _single_writes(history) if each.version == newest or each.version + 1 in owned]
    if not fit:
        return None
    gone = dice.choice(fit)
    return [
        changed(each, version=each.version - 1)
        if each is not gone
        and each.version is not None
        and (each.version > gone.version or (each.version == gone.version and not _is_write(each)))
        else each
        for each in history
    ]


def stale(history: History, dice: random.Random) -> History | None:
    """A read of a state that another's answer had already replaced when it was asked for."""
    ordered = _in_order(history)
    if ordered is None:
        return None
    reads = [each for each in history if each.kind == READ and each.version and each.key is None]
    dice.shuffle(reads)
    for read in reads:
        for write in ordered:
            if _is_write(write) and write.version <= read.version and write.completed_ns < read.invoked_ns:
                state = _state_at(ordered, write.version - 1)
                _, answer, _ = step(model_of(read.entity), state, 0, READ, None, None)
                told = changed(read, answer=answer, version=write.version - 1, outcome=_outcome(answer))
                return [told if each is read else each for each in history]
    return None


def _outcome(answer: Json) -> Outcome:
    refusal = isinstance(answer, dict) and "refused" in answer
    return Outcome.NOT_APPLIED if refusal else Outcome.APPLIED


def _state_at(ordered: Sequence[Operation], version: int) -> State:
    state: State = ABSENT
    for each in ordered:
        if _is_write(each) and each.version <= version:
            state, _, _ = step(model_of(each.entity), state, each.version - 1, each.kind, each.input, None)
    return state


def swapped(history: History, dice: random.Random) -> History | None:
    """Of two writes, one after the other, each has the other's answer and version."""
    writes = _single_writes(history)
    pairs = [(one, other) for one in writes for other in writes if one.completed_ns < other.invoked_ns]
    if not pairs:
        return None
    one, other = dice.choice(pairs)
    swap = {
        id(one): changed(one, answer=other.answer, version=other.version),
        id(other): changed(other, answer=one.answer, version=one.version),
    }
    return [swap.get(id(each), each) for each in history]


def resurrected(history: History, dice: random.Random) -> History | None:
    """What was deleted is read again, at the version of the delete or a later one."""
    ordered = _in_order(history)
    deletes = [each for each in ordered or () if each.kind == "delete" and _is_write(each)]
    for delete in deletes:
        for read in history:
            if read.kind == READ and read.version == delete.version and read.key is None:
                told = changed(read, answer=delete.answer, outcome=Outcome.APPLIED)
                return [told if each is read else each for each in history]
    return None


def applied_though_not_applied(history: History, dice: random.Random) -> History | None:
    """The client was told `not_applied`, and there it is."""
    writes = [each for each in history if _is_write(each)]
    if not writes:
        return None
    places = _alike(history, dice.choice(writes))
    return [
        changed(each, answer=None, version=None, outcome=Outcome.NOT_APPLIED) if place in places else each
        for place, each in enumerate(history)
    ]


MUTATIONS: Final[tuple[Mutation, ...]] = (
    lost,
    lost_with_its_version,
    duplicated,
    stale,
    swapped,
    resurrected,
    applied_though_not_applied,
)


def mutated(mutation: Mutation, models: Sequence[str], dice: random.Random) -> Iterator[History]:
    """Without end: good histories with this mutation in them."""
    while True:
        model = "life" if mutation is resurrected else dice.choice(models)
        lose = 0.0 if model in REPEATING else 0.1
        plan = Plan(
            model, operations=dice.randrange(6, 24), clients=dice.randrange(2, 5), lost=lose, conditional=0.0
        )
        wrong = mutation(simulate(plan, dice), dice)
        if wrong is not None:
            yield wrong
