"""Random programs for a clock: timers set, set anew and withdrawn under a few names; what fires is foretold.

A timer of an hour never fires, for at its end a program withdraws those that are left. A short one that is
the last under its name fires once. Any other short one may fire or not, for it was set anew or withdrawn
while it was due; the clock's own state and the rows of the database say which (snapshots).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Final

import attrs

NAMES: Final = ("a", "b", "c")
LENGTH: Final = (4, 12)
LONG: Final = 0.4
UNWINDS: Final = 0.25
TICKS: Final = 0.3  #: of the programs wind a timer that winds itself again
MOST_TICKS: Final = 30
#: About as long as until the next instruction: it is often replaced or withdrawn just when it is due.
SHORT_MS: Final = (1, 150)
#: When it is due at once, and never in this life: a time in the words of the caller.
PAST, FUTURE = "2020-02-02T02:02:02Z", "2120-02-02T02:02:02Z"

Instruction = tuple[str, dict[str, Any]]


@attrs.frozen
class Program:
    """What is asked of a clock, and how often each token is to ring."""

    clock: str
    instructions: Sequence[Instruction]
    once: frozenset[str]
    never: frozenset[str]
    ticks: int

    @property
    def bell(self) -> str:
        return f"{self.clock}-bell"


def program_of(clock: str) -> Program:
    """The clock's name is the seed."""
    dice = random.Random(f"clockwork {clock}")
    instructions: list[Instruction] = []
    latest: dict[str, str] = {}  #: by name, of those that are wound
    long: set[str] = set()
    for number in range(dice.randint(*LENGTH)):
        name = dice.choice(NAMES)
        if dice.random() < UNWINDS:
            instructions.append(("unwind", {"name": name}))
            latest.pop(name, None)
            continue
        token = f"{name}{number}"
        latest[name] = token
        wind = {"name": name, "token": token, "bell": clock if dice.random() < 0.5 else f"{clock}-bell"}
        if dice.random() < LONG:
            long.add(token)
            wind |= {"at": FUTURE} if dice.random() < 0.2 else {"delay": "1h"}
        else:
            wind |= {"at": PAST} if dice.random() < 0.2 else {"delay": f"{dice.randint(*SHORT_MS)}ms"}
        instructions.append(("wind", wind))
    ticks = dice.randint(1, MOST_TICKS) if dice.random() < TICKS else 0
    if ticks:
        instructions.insert(0, ("tick", {"left": ticks}))
    instructions += [("unwind", {"name": name}) for name, token in latest.items() if token in long]
    once = frozenset(token for token in latest.values() if token not in long)
    return Program(clock, instructions, once, frozenset(long), ticks)
