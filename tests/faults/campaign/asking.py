"""What a client asks next, and of which entity.

Few entities at a time, so that clients meet: of each function one that most ask, and two that some do.
After so many calls an entity is left and the next one begins, which keeps the search for unknown deeds
short. Inputs are unlike each other, so that a deed that is lost, doubled or denied leaves a trace that no
other explains. Draws have no entity, always a key, and each key is an entity for the checker. A program
has an entity of its own, which one client asks from its beginning to its end.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

import attrs
from tests.faults.history.models import DRAW, PROGRAM, READ, STATE
from tests.faults.history.operation import Json
from tests.faults.history.programs import Message

#: Calls of one entity. A journal is answered whole, and grows.
CALLS: Final = {"register": 400, "counter": 400, "journal": 120, "bank": 300, "life": 400, DRAW: 1}
#: Of three entities: how often each is asked.
WEIGHTS: Final = (0.7, 0.2, 0.1)
#: Calls of the third: there are always some that nobody has written yet, and nodes that have seen that.
FEW_CALLS: Final = 12
#: Of what a client begins; a program is a dozen calls.
PROGRAMS: Final = 0.015
READS: Final = 0.25
IF_MATCHES: Final = 0.05
#: `If-None-Match: *` is for what begins something; elsewhere it is seldom met.
CREATES_NONE_MATCH: Final = 0.3
NONE_MATCHES: Final = 0.02
TIMEOUT_MS: Final = 5_000
MANY: Final = 1 << 60
#: Some do not wait out an outage: what was given up on their behalf must not land.
IMPATIENT: Final = 0.15
IMPATIENT_MS: Final = (100, 1_000)


@attrs.frozen
class Wanted:
    slot: Slot
    entity: str
    kind: str
    input: Json
    key: str | None
    if_match: int | None
    none_match: bool = False
    timeout_ms: int = TIMEOUT_MS
    refused: bool = False  #: its key was answered before, to something else


@attrs.define(eq=False)
class Slot:
    """One entity after the other, and what was last heard of the present one."""

    function: str
    name: str
    calls: int
    generation: int = 0
    asked: int = 0
    version: int = 0
    value: Json = None  #: a register's, as far as anybody knows

    @property
    def model(self) -> str:
        return self.function.partition("-")[0]

    @property
    def entity(self) -> str:
        return f"{self.function}/{self.name}-{self.generation}"

    def ask(self) -> str:
        """The entity for one more call."""
        if self.asked >= self.calls:
            self.generation += 1
            self.asked = self.version = 0
            self.value = None
        self.asked += 1
        return self.entity

    def heard(self, entity: str, version: int | None) -> None:
        if version is not None and entity == self.entity:
            self.version = max(self.version, version)


class Asking:
    """For all clients of a run."""

    def __init__(self, functions: Sequence[str], run: str, dice: random.Random, keyed: float) -> None:
        self._dice = dice
        self._keyed = keyed
        self._numbers = 0
        self._run = run
        self._programs = [function for function in functions if function.startswith(PROGRAM)]
        self.slots = [
            [
                Slot(function, f"{run}-{number}", min(CALLS[function.partition("-")[0]], most))
                for number, most in enumerate((MANY, MANY, FEW_CALLS))
            ]
            for function in functions
            if function not in self._programs
        ]
        self.entities: set[str] = set()

    def next(self, client: str) -> Wanted:
        dice = self._dice
        self._numbers += 1
        token = f"{client}.{self._numbers}"
        (slot,) = dice.choices(dice.choice(self.slots), WEIGHTS)
        if slot.model == DRAW:
            return Wanted(slot, f"{slot.function}/{token}", DRAW, token, token, None)
        entity = slot.ask()
        self.entities.add(entity)
        kind, given = self._message(slot, token)
        if kind == STATE:
            return Wanted(slot, entity, kind, given, None, None)
        key = token if dice.random() < self._keyed else None
        if_match = slot.version if slot.version > 0 and dice.random() < IF_MATCHES else None
        none_matches = CREATES_NONE_MATCH if kind == "create" else NONE_MATCHES
        none_match = if_match is None and dice.random() < none_matches
        return Wanted(slot, entity, kind, given, key, if_match, none_match, self._timeout_ms())

    def program(self, client: str) -> str | None:
        """Now and then the entity of a program, for this client to run."""
        if not self._programs or self._dice.random() >= PROGRAMS:
            return None
        self._numbers += 1
        entity = f"{self._dice.choice(self._programs)}/{self._run}-{client}.{self._numbers}"
        self.entities.add(entity)
        return entity

    def of_program(self, entity: str, asks: Message) -> Wanted:
        slot = Slot(entity.partition("/")[0], "", MANY)
        timeout_ms = TIMEOUT_MS if asks.kind == STATE else self._timeout_ms()
        return Wanted(
            slot, entity, asks.kind, asks.input, asks.key, asks.if_match, asks.none_match, timeout_ms
        )

    def _timeout_ms(self) -> int:
        impatient = self._dice.random() < IMPATIENT
        return self._dice.randrange(*IMPATIENT_MS) if impatient else TIMEOUT_MS

    def something_else(self, wanted: Wanted) -> Wanted:
        """With the same key: it is to be refused."""
        self._numbers += 1
        token = f"{wanted.key}.{self._numbers}"
        if wanted.kind == DRAW:
            return attrs.evolve(wanted, input=token, refused=True)
        kind, given = wanted.kind, wanted.input
        while kind in (READ, STATE) or (kind, given) == (wanted.kind, wanted.input):
            kind, given = self._message(wanted.slot, token)
        return attrs.evolve(wanted, kind=kind, input=given, refused=True)

    def _message(self, slot: Slot, token: str) -> tuple[str, Json]:
        dice = self._dice
        if dice.random() < READS:
            return dice.choice((READ, STATE)), None
        match slot.model:
            case "register" if dice.random() < 0.6:
                before, slot.value = slot.value, token
                return "cas", {"from": before, "to": token}
            case "register":
                slot.value = token
                return "write", token
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
            case "program":
                return "push", token
        raise ValueError(slot.function)
