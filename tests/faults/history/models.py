"""What an entity answers when nobody disturbs it: one pure function per kind of entity.

`step(state, kind, input)` gives the next state, the answer, and whether the message is a version of its own.
States are hashable (the search remembers them); ABSENT is an entity without a state, which every one is at
first. The programs that the runs call keep the same rules (functions.py); nothing is shared between the two.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from typing import Final

import attrs
from tests.faults.history.operation import Json, refused


class _Absent:
    def __repr__(self) -> str:
        return "ABSENT"


ABSENT: Final = _Absent()


class _Anything:
    """Equals every answer."""

    def __eq__(self, other: object) -> bool:
        return True

    __hash__ = None  # type: ignore[assignment]


ANYTHING: Final = _Anything()
State = Hashable
Step = tuple[State, Json, bool]
Model = Callable[[State, str, Json], Step]

MISMATCH: Final = refused("version_mismatch")
ACCOUNTS: Final = 4
OPENING_BALANCE: Final = 100


def register(state: State, kind: str, given: Json) -> Step:
    """`write` a value, `cas` `{"from", "to"}`, `read`; absent reads as null."""
    held = None if state is ABSENT else state
    match kind, given:
        case "write", _:
            return given, None, True
        case "cas", {"from": before, "to": after}:
            return (after, True, True) if held == before else (state, False, False)
        case "read", _:
            return state, held, False
    raise _unknown("register", kind, given)


def counter(state: State, kind: str, given: Json) -> Step:
    """`add` a number and be told the sum, `read`."""
    held = 0 if state is ABSENT else state
    match kind, given:
        case "add", int(amount):
            return held + amount, held + amount, True
        case "read", _:
            return state, held, False
    raise _unknown("counter", kind, given)


def journal(state: State, kind: str, given: Json) -> Step:
    """`append` a token and be told the length, `read` all of them."""
    held = () if state is ABSENT else state
    assert isinstance(held, tuple)
    match kind, given:
        case "append", str(token):
            return (*held, token), len(held) + 1, True
        case "read", _:
            return state, list(held), False
    raise _unknown("journal", kind, given)


def bank(state: State, kind: str, given: Json) -> Step:
    """`transfer` `{"from", "to", "amount"}` and be told both balances, or `insufficient`; `read` all."""
    held = (OPENING_BALANCE,) * ACCOUNTS if state is ABSENT else state
    assert isinstance(held, tuple)
    match kind, given:
        case "transfer", {"from": int(source), "to": int(target), "amount": int(amount)}:
            if held[source] < amount:
                return state, refused("insufficient"), False
            after = list(held)
            after[source] -= amount
            after[target] += amount
            return tuple(after), [after[source], after[target]], True
        case "read", _:
            return state, list(held), False
    raise _unknown("bank", kind, given)


def life(state: State, kind: str, given: Json) -> Step:
    """`create`, or `exists`; `replace`, `delete` and `read` what is there, or `absent`."""
    match kind:
        case "create":
            return (given, None, True) if state is ABSENT else (state, refused("exists"), False)
        case "replace" | "delete" | "read" if state is ABSENT:
            return state, refused("absent"), False
        case "replace":
            return given, state, True
        case "delete":
            return ABSENT, state, True
        case "read":
            return state, state, False
    raise _unknown("life", kind, given)


@attrs.frozen
class Parts:
    """A program's entity: a register, a counter and a list."""

    value: Json
    sum: int
    items: tuple[Json, ...]

    def shown(self) -> Json:
        return {"value": self.value, "sum": self.sum, "items": list(self.items)}


def program(state: State, kind: str, given: Json) -> Step:
    """`create` with a value, or `exists`; what is there, or `absent`: `set` and `swap` `{"from", "to"}` its
    value, `sum` up a number, `push` an item and be told how many there are, `delete` and `read` all of it.
    """
    if kind == "create":
        return (Parts(given, 0, ()), None, True) if state is ABSENT else (state, refused("exists"), False)
    if state is ABSENT:
        return state, refused("absent"), False
    assert isinstance(state, Parts)
    match kind, given:
        case "set", _:
            return attrs.evolve(state, value=given), given, True
        case "swap", {"from": before, "to": after}:
            fits = state.value == before
            return (attrs.evolve(state, value=after), True, True) if fits else (state, False, False)
        case "sum", int(amount):
            return attrs.evolve(state, sum=state.sum + amount), state.sum + amount, True
        case "push", _:
            return attrs.evolve(state, items=(*state.items, given)), len(state.items) + 1, True
        case "delete", _:
            return ABSENT, state.shown(), True
        case "read", _:
            return state, state.shown(), False
    raise _unknown("program", kind, given)


def draw(state: State, kind: str, given: Json) -> Step:
    """`draw` a lot. Of a call without an entity: here each key is one, and all its answers are the same."""
    if kind == DRAW:
        return state, ANYTHING, False
    raise _unknown("draw", kind, given)


#: A handler whose answer nobody can foretell.
DRAW: Final = "draw"
MODELS: Final[Mapping[str, Model]] = {
    "register": register,
    "counter": counter,
    "journal": journal,
    "bank": bank,
    "life": life,
}
#: One client asks what programs.py has foretold.
PROGRAM: Final = "program"
#: With those that are not simulated.
ALL_MODELS: Final[Mapping[str, Model]] = {**MODELS, PROGRAM: program, DRAW: draw}
#: The handler that shows all of the state, in every model.
READ: Final = "read"
#: `GET /v1/state`, in every model: the state as it is stored.
STATE: Final = "state"


def claims_to_write(kind: str, answer: Json) -> bool:
    """Whether an answer, as it stands, is that of a message that is a version of its own."""
    return not (
        kind in (READ, STATE, DRAW) or answer is False or (isinstance(answer, dict) and "refused" in answer)
    )


def model_of(entity: str, models: Mapping[str, Model] = ALL_MODELS) -> Model:
    """An entity is `model/name`, or `model-language/name`."""
    return models[entity.partition("/")[0].partition("-")[0]]


def step(
    model: Model,
    state: State,
    version: int,
    kind: str,
    given: Json,
    if_match: int | None,
    none_match: bool = False,
) -> Step:
    """The model's step, or the refusal of a condition that does not hold: If-Match, or If-None-Match: *."""
    if (if_match is not None and if_match != version) or (none_match and state is not ABSENT):
        return state, MISMATCH, False
    if kind == STATE:
        return state, refused("no_state") if state is ABSENT else _shown(state), False
    return model(state, kind, given)


def _shown(state: State) -> Json:
    if isinstance(state, Parts):
        return state.shown()
    return list(state) if isinstance(state, tuple) else state


def _unknown(model: str, kind: str, given: Json) -> ValueError:
    return ValueError(f"the model {model} knows no {kind} of {given!r}")
