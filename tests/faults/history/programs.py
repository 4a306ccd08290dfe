"""Random programs for one entity whose result is known before anybody runs them.

A program is drawn from the name of its entity, so a history alone tells what had to come out. What it asks
depends on what it was told before: values, versions for If-Match, and whether it asks at all. One client
runs it, each message with a key, again until its outcome is known; only that makes the result certain.
`foretell` says every message, answer and version; `foretold` holds a history against that.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from typing import Final

import attrs
from tests.faults.history.models import ABSENT, READ, STATE, State, program, step
from tests.faults.history.operation import Json, Operation, Outcome
from tests.faults.history.verdict import PASSED, Verdict, violation

LENGTH: Final = (6, 14)
#: How often each is drawn.
KINDS: Final = {
    "create": 5, "set": 4, "swap": 4, "sum": 4, "push": 4, "delete": 3, READ: 3, STATE: 3
}  # fmt: skip
#: A look has no key: nothing comes of it, so it may be had again.
LOOKS: Final = (READ, STATE)
#: Shares of the instructions.
REPEATS: Final = 0.08  #: the message of an earlier one, under its key
ONLY_AFTER: Final = 0.1
IF_MATCHES: Final = 0.2
NEWEST: Final = 0.6  #: of those, the version that was told last
LOOKS_FIRST: Final = 0.4  #: programs
DEPENDS: Final = 0.5  #: values
NONE_MATCHES: Final = 0.08
CREATES_NONE_MATCH: Final = 0.4


@attrs.frozen
class Message:
    kind: str
    input: Json
    key: str | None  #: a look at the state has none
    if_match: int | None = None
    none_match: bool = False

    @classmethod
    def of(cls, operation: Operation) -> Message:
        return cls(operation.kind, operation.input, operation.key, operation.if_match, operation.none_match)


@attrs.frozen
class Told:
    answer: Json
    version: int


@attrs.frozen
class Instruction:
    """One message, as far as it is known before it runs: numbers are those of earlier instructions."""

    kind: str
    given: Json  #: `{"told": number}` anywhere in it: what that one was told
    if_match: int | None = None  #: the version that it was told
    none_match: bool = False
    only_after: int | None = None  #: left out when that one was refused, or left out
    repeats: int | None = None  #: asks for the same again, with its key


class Run:
    """A program on its way: `next` says what to ask, `hear` takes what was told."""

    def __init__(self, program: Sequence[Instruction]) -> None:
        self._program = program
        self._asked: list[Message | None] = []
        self._told: list[Told | None] = []

    def next(self) -> Message | None:
        """None: it is at its end."""
        while len(self._asked) < len(self._program):
            message = self._message(self._program[len(self._asked)])
            self._asked.append(message)
            if message is not None:
                return message
            self._told.append(None)
        return None

    def hear(self, told: Told) -> None:
        self._told.append(told)

    def _message(self, asks: Instruction) -> Message | None:
        number = len(self._asked)
        if asks.repeats is not None:
            return self._asked[asks.repeats]
        if asks.only_after is not None and _refused(self._told[asks.only_after]):
            return None
        version = None
        if asks.if_match is not None:
            if (matched := self._told[asks.if_match]) is None:
                return None
            version = matched.version
        key = None if asks.kind in LOOKS else f"i{number}"
        return Message(asks.kind, self._filled_in(asks.given), key, version, asks.none_match)

    def _filled_in(self, given: Json) -> Json:
        match given:
            case {"told": int(number)}:
                return _scalar(self._told[number], number)
            case {"number told": int(number)}:
                scalar = _scalar(self._told[number], number)
                return scalar if isinstance(scalar, int) else number
            case dict():
                return {name: self._filled_in(value) for name, value in given.items()}
        return given


def _refused(told: Told | None) -> bool:
    return (
        told is None or told.answer is False or (isinstance(told.answer, dict) and "refused" in told.answer)
    )


def _scalar(told: Told | None, number: int) -> Json:
    """Of an answer, what can be a value."""
    match told.answer if told is not None else f"none of {number}":
        case {"refused": str(code)}:
            return code
        case {"value": value}:
            return value
        case bool(fits):
            return "yes" if fits else "no"
        case None:
            return f"null of {number}"
        case answer:
            return answer


class Entity:
    """What a node must answer that nothing befalls: the model, versions and the records of keys."""

    def __init__(self) -> None:
        self._state: State = ABSENT
        self._version = 0
        self._recorded: dict[str, Told] = {}

    def tell(self, message: Message) -> Told:
        if message.key is not None and message.key in self._recorded:
            return self._recorded[message.key]
        self._state, answer, wrote = step(
            program,
            self._state,
            self._version,
            message.kind,
            message.input,
            message.if_match,
            message.none_match,
        )
        self._version += wrote
        told = Told(answer, self._version)
        if message.key is not None:
            self._recorded[message.key] = told
        return told


def foretell(program: Sequence[Instruction]) -> list[tuple[Message, Told]]:
    """All that is asked and told, in this order."""
    run, entity = Run(program), Entity()
    foretold = []
    while (message := run.next()) is not None:
        told = entity.tell(message)
        foretold.append((message, told))
        run.hear(told)
    return foretold


def foretold(operations: Iterable[Operation]) -> Verdict:
    """The verdict on the history of one program's entity, as far as the program came in it.

    A program ends with all of the state, seen in both ways: what others see afterwards. When it was given up
    they see what the checkers of all histories judge.
    """
    known = [each for each in operations if each.ran and each.outcome is not Outcome.UNKNOWN]
    known.sort(key=lambda each: each.invoked_ns)
    expected = foretell(program_of(known[0].entity)) if known else []
    at = -1  #: what was told last, perhaps several times
    for each in known:
        if each.client != known[0].client and at + 1 < len(expected):
            continue
        message = Message.of(each)
        if at + 1 < len(expected) and message == expected[at + 1][0]:
            at += 1
        elif at + 1 < len(expected) and message == expected[at][0]:
            pass
        elif at + 1 == len(expected) and message in (last := [asked for asked, _ in expected[-2:]]):
            at = len(expected) - 2 + last.index(message)
        asked, told = expected[max(at, 0)]
        if message != asked:
            return violation(f"a program asked for {message.kind}, and was to ask for {asked.kind}", each)
        if Told(each.answer, each.version or 0) != told:
            return violation(
                f"a program's {each.kind} had to be answered {told.answer!r} with version {told.version}, "
                f"and was answered {each.answer!r} with version {each.version}",
                each,
            )
    return PASSED


def program_of(entity: str) -> list[Instruction]:
    """The entity's name is the seed."""
    dice = random.Random(f"program {entity}")
    program = [_look(dice)] if dice.random() < LOOKS_FIRST else []
    program.append(_instruction("create", dice, program))
    for _ in range(dice.randint(*LENGTH)):
        writes = [number for number, each in enumerate(program) if each.kind not in LOOKS]
        if dice.random() < REPEATS:
            number = dice.choice(writes)
            first = program[number]
            repeated = first.repeats if first.repeats is not None else number
            program.append(Instruction(first.kind, None, repeats=repeated))
        else:
            (kind,) = dice.choices(list(KINDS), list(KINDS.values()))
            program.append(_instruction(kind, dice, program))
    return [*program, Instruction(READ, None), Instruction(STATE, None)]


def _look(dice: random.Random) -> Instruction:
    return Instruction(dice.choice(LOOKS), None)


def _instruction(kind: str, dice: random.Random, before: Sequence[Instruction]) -> Instruction:
    number = len(before)
    if kind == STATE:
        return Instruction(kind, None)  # it takes no condition
    if_match = only_after = None
    none_match = dice.random() < (CREATES_NONE_MATCH if kind == "create" else NONE_MATCHES)
    if number > 0 and not none_match and dice.random() < IF_MATCHES:
        if_match = number - 1 if dice.random() < NEWEST else dice.randrange(number)
    if number > 1 and dice.random() < ONLY_AFTER:
        only_after = dice.randrange(number)
    return Instruction(kind, _given(kind, dice, before), if_match, none_match, only_after)


def _given(kind: str, dice: random.Random, before: Sequence[Instruction]) -> Json:
    number = len(before)
    value = {"told": dice.randrange(number)} if number and dice.random() < DEPENDS else f"v{number}"
    match kind:
        case "create" | "set" | "push":
            return value
        case "swap":
            seen = [place for place, each in enumerate(before) if each.kind in ("set", READ)]
            return {"from": {"told": dice.choice(seen[-2:])} if seen else "v0", "to": f"v{number}"}
        case "sum":
            return {"number told": dice.randrange(number)} if dice.random() < DEPENDS else dice.randrange(100)
    return None
