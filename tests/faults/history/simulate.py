"""Clients and a store of one entity, without a node: histories that are right, or wrong by a bug with a name.

Every client begins, the store acts at some moment after it, the answer arrives at some moment after that; a
die says who is next. Answers are lost (unknown, done or not), refused unrun, asked for again with the same
key. A store with a Bug breaks its promise with that probability each time it could.
"""

from __future__ import annotations

import random
from enum import Enum
from typing import Final

import attrs
from tests.faults.history.models import ABSENT, MODELS, READ, Model, State, Step, step
from tests.faults.history.operation import Json, Operation, Outcome


class Bug(Enum):
    """What a store does wrong."""

    LOSES = "an acknowledged write is lost: the next one takes its version"
    REVERTS = "an acknowledged write is lost: the version counts on over the old state"
    APPLIES_TWICE = "a repeated key is applied again"
    STALE_READ = "a read or a refusal of an earlier state"
    LIES_NOT_APPLIED = "told not_applied, and applied"
    LANDS_TWICE = "an unknown write lands twice"
    RESURRECTS = "after a delete the old state comes back"
    WRONG_ANSWER = "the answer to another message"


@attrs.frozen
class Plan:
    """How a history is to be."""

    model: str
    operations: int = 12
    clients: int = 3
    keyed: float = 0.3
    lost: float = 0.1  #: answers that never arrive
    unrun: float = 0.1
    conditional: float = 0.05  #: with an If-Match, as often with If-None-Match: each fits or does not
    bug: Bug | None = None
    bug_rate: float = 0.3


@attrs.define
class _Asked:
    """One attempt on its way."""

    operation: Operation
    done: tuple[Outcome, Json, int | None] | None = None


class _Store:
    """One entity, with the records of its keys and a memory of what it was."""

    def __init__(self, model: Model, plan: Plan, dice: random.Random) -> None:
        self._model = model
        self._plan = plan
        self._dice = dice
        self.state: State = ABSENT
        self.version = 0
        self._past: list[tuple[State, int]] = [(ABSENT, 0)]
        self._records: dict[str, tuple[Outcome, Json, int | None]] = {}
        self._buried: State = ABSENT

    def _slips(self, bug: Bug) -> bool:
        return self._plan.bug is bug and self._dice.random() < self._plan.bug_rate

    def act(self, asked: Operation) -> tuple[Outcome, Json, int | None]:
        if asked.key in self._records and not self._slips(Bug.APPLIES_TWICE):
            return self._records[asked.key]
        if self._dice.random() < self._plan.unrun:
            if self._slips(Bug.LIES_NOT_APPLIED):
                self._apply(asked)
            return Outcome.NOT_APPLIED, None, None
        told = self._apply(asked)
        if asked.key is not None:
            self._records[asked.key] = told
        return told

    def _apply(self, asked: Operation) -> tuple[Outcome, Json, int | None]:
        found, version = self.state, self.version
        if found is ABSENT and self._slips(Bug.RESURRECTS):
            found = self.state = self._buried
        if self._slips(Bug.STALE_READ):
            old, old_version = self._dice.choice(self._past)
            state, answer, wrote = self._step(old, old_version, asked)
            if not wrote:
                return _told(answer, old_version)
        state, answer, wrote = self._step(found, version, asked)
        if not wrote:
            return _told(answer, version)
        if self._slips(Bug.LOSES):
            return _told(answer, version + 1)
        self.version += 1
        if not self._slips(Bug.REVERTS):
            if state is ABSENT:
                self._buried = found
            self.state = state
        if self._slips(Bug.WRONG_ANSWER):
            answer = self._dice.choice((None, 7, "c0.1", [1, 2]))
        self._past.append((self.state, self.version))
        return _told(answer, version + 1)

    def _step(self, state: State, version: int, asked: Operation) -> Step:
        return step(self._model, state, version, asked.kind, asked.input, asked.if_match, asked.none_match)

    def land_again(self, asked: Operation) -> None:
        if self._slips(Bug.LANDS_TWICE):
            self._apply(asked)


def _told(answer: Json, version: int) -> tuple[Outcome, Json, int]:
    refusal = isinstance(answer, dict) and "refused" in answer
    return (Outcome.NOT_APPLIED if refusal else Outcome.APPLIED), answer, version


def simulate(plan: Plan, dice: random.Random, entity: str = "1") -> list[Operation]:
    """One history; it ends with a read by everyone."""
    store = _Store(MODELS[plan.model], plan, dice)
    clock = 0
    history: list[Operation] = []
    under_way: dict[int, _Asked] = {}
    repeat: dict[int, Operation] = {}
    left = plan.operations
    number = 0
    while left > 0 or under_way or repeat:
        clock += 1
        client = dice.randrange(plan.clients)
        asked = under_way.get(client)
        if asked is None:
            again = repeat.pop(client, None)
            if again is None and left <= 0:
                continue
            left -= 1
            number += 1
            under_way[client] = _Asked(
                _begun(again, clock)
                if again is not None
                else _new(plan, f"{plan.model}/{entity}", client, number, clock, dice, store.version)
            )
        elif asked.done is None:
            asked.done = store.act(asked.operation)
        else:
            del under_way[client]
            ended = _ended(asked, clock, lost=dice.random() < plan.lost)
            history.append(ended)
            if ended.outcome is Outcome.UNKNOWN:
                store.land_again(ended)
            # Half of those who were told repeat too: they get the recorded answer.
            if ended.key is not None and dice.random() < (0.9 if ended.outcome is Outcome.UNKNOWN else 0.2):
                repeat[client] = ended
    for client in range(plan.clients):
        clock += 2
        asked_last = Operation(
            f"c{client}", f"{plan.model}/{entity}", READ, None, clock, None, Outcome.UNKNOWN
        )
        told = store._apply(asked_last)
        clock += 1
        history.append(_ended(_Asked(asked_last, told), clock, lost=False))
    return history


def _new(
    plan: Plan, entity: str, client: int, number: int, clock: int, dice: random.Random, version: int
) -> Operation:
    kind, given = _message(plan.model, f"c{client}.{number}", dice)
    key = f"k{number}" if dice.random() < plan.keyed else None
    if_match = max(0, version - dice.randrange(2)) if dice.random() < plan.conditional else None
    none_match = if_match is None and dice.random() < plan.conditional
    return Operation(
        f"c{client}",
        entity,
        kind,
        given,
        clock,
        None,
        Outcome.UNKNOWN,
        key=key,
        if_match=if_match,
        none_match=none_match,
    )


def _begun(again: Operation, clock: int) -> Operation:
    return Operation(
        again.client,
        again.entity,
        again.kind,
        again.input,
        clock,
        None,
        Outcome.UNKNOWN,
        key=again.key,
        if_match=again.if_match,
        none_match=again.none_match,
    )


def _ended(asked: _Asked, clock: int, *, lost: bool) -> Operation:
    begun = asked.operation
    assert asked.done is not None
    outcome, answer, version = (Outcome.UNKNOWN, None, None) if lost else asked.done
    return Operation(
        begun.client,
        begun.entity,
        begun.kind,
        begun.input,
        begun.invoked_ns,
        clock,
        outcome,
        answer,
        version,
        begun.key,
        begun.if_match,
        "simulated",
        begun.none_match,
    )


#: Register values are few, so that a compare-and-set meets its value; all else is unlike anything else.
VALUES: Final = ("a", "b", "c")


def _message(model: str, token: str, dice: random.Random) -> tuple[str, Json]:
    """A message for an entity: two of three are writes."""
    if dice.random() < 0.3:
        return READ, None
    match model:
        case "register" if dice.random() < 0.5:
            return "cas", {"from": dice.choice(VALUES), "to": dice.choice(VALUES)}
        case "register":
            return "write", dice.choice(VALUES)
        case "counter":
            return "add", dice.randrange(1, 1_000_000)
        case "journal":
            return "append", token
        case "bank":
            source, target = dice.sample(range(4), 2)
            return "transfer", {"from": source, "to": target, "amount": dice.randrange(1, 90)}
        case "life":
            kind = dice.choice(("create", "create", "replace", "delete"))
            return kind, (None if kind == "delete" else token)
    raise ValueError(model)
