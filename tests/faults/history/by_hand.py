"""Short histories, written by hand: one call for one line."""

from __future__ import annotations

from tests.faults.history.operation import Json, Operation, Outcome, refused


def told(
    kind: str,
    given: Json,
    when: tuple[int, int],
    answer: Json,
    version: int | None,
    *,
    of: str = "register",
    key: str | None = None,
    if_match: int | None = None,
    none_match: bool = False,
) -> Operation:
    """It was answered, or refused with {"refused": ...}."""
    refusal = isinstance(answer, dict) and "refused" in answer
    outcome = Outcome.NOT_APPLIED if refusal else Outcome.APPLIED
    return Operation(
        "c", f"{of}/1", kind, given, *when, outcome, answer, version, key, if_match, none_match=none_match
    )


def unknown(kind: str, given: Json, begun: int, *, of: str = "register", key: str | None = None) -> Operation:
    return Operation("c", f"{of}/1", kind, given, begun, None, Outcome.UNKNOWN, key=key)


def unrun(
    kind: str, given: Json, when: tuple[int, int], *, of: str = "register", key: str | None = None
) -> Operation:
    return Operation("c", f"{of}/1", kind, given, *when, Outcome.NOT_APPLIED, key=key)


ABSENT = refused("absent")

#: What can be: each is a pass for both checkers.
POSSIBLE: dict[str, list[Operation]] = {
    "nothing at all": [],
    "a read of what was never written": [told("read", None, (1, 2), None, 0)],
    "two that overlap, in either order": [
        told("write", "a", (1, 10), None, 2),
        told("write", "b", (2, 9), None, 1),
        told("read", None, (11, 12), "a", 2),
    ],
    "a read that overlaps a write sees the old value": [
        told("write", "a", (1, 5), None, 1),
        told("read", None, (2, 4), None, 0),
    ],
    "an unknown write that happened": [
        unknown("write", "a", 1),
        told("read", None, (5, 6), "a", 1),
    ],
    "an unknown write that happened late": [
        unknown("write", "a", 1),
        told("read", None, (5, 6), None, 0),
        told("read", None, (7, 8), "a", 1),
    ],
    "an unknown write that never happened": [
        unknown("write", "a", 1),
        told("write", "b", (2, 3), None, 1),
        told("read", None, (5, 6), "b", 1),
    ],
    "one key, told twice": [
        told("add", 5, (1, 2), 5, 1, of="counter", key="k"),
        told("add", 7, (3, 4), 12, 2, of="counter"),
        told("add", 5, (5, 6), 5, 1, of="counter", key="k"),
    ],
    "one key, first unknown, then told": [
        unknown("add", 5, 1, of="counter", key="k"),
        told("read", None, (3, 4), 5, 1, of="counter"),
        told("add", 5, (5, 6), 5, 1, of="counter", key="k"),
    ],
    "one key, then another message with it, of which nothing was heard": [
        told("add", 5, (1, 2), 5, 1, of="counter", key="k"),
        unknown("add", 7, 3, of="counter", key="k"),
        told("read", None, (5, 6), 5, 1, of="counter"),
    ],
    "one key, first unrun, then told": [
        unrun("add", 5, (1, 2), of="counter", key="k"),
        told("add", 5, (5, 6), 5, 1, of="counter", key="k"),
    ],
    "a compare-and-set that fails is a read": [
        told("write", "a", (1, 2), None, 1),
        told("cas", {"from": "b", "to": "c"}, (3, 4), False, 1),
        told("cas", {"from": "a", "to": "c"}, (5, 6), True, 2),
    ],
    "created, deleted, created again": [
        told("create", "a", (1, 2), None, 1, of="life"),
        told("create", "b", (3, 4), refused("exists"), 1, of="life"),
        told("delete", None, (5, 6), "a", 2, of="life"),
        told("read", None, (7, 8), ABSENT, 2, of="life"),
        told("create", "b", (9, 10), None, 3, of="life"),
    ],
    "money moves, and what is not there does not": [
        told("transfer", {"from": 0, "to": 1, "amount": 60}, (1, 2), [40, 160], 1, of="bank"),
        told("transfer", {"from": 0, "to": 2, "amount": 60}, (3, 4), refused("insufficient"), 1, of="bank"),
        told("read", None, (5, 6), [40, 160, 100, 100], 1, of="bank"),
    ],
    "an If-Match that fits, and one that does not": [
        told("write", "a", (1, 2), None, 1, if_match=0),
        told("write", "b", (3, 4), refused("version_mismatch"), 1, if_match=0),
    ],
    "an If-None-Match before there is anything, then, and when it is gone": [
        told("create", "a", (1, 2), None, 1, of="life", none_match=True),
        told("create", "b", (3, 4), refused("version_mismatch"), 1, of="life", none_match=True),
        told("delete", None, (5, 6), "a", 2, of="life"),
        told("create", "c", (7, 8), None, 3, of="life", none_match=True),
    ],
    "read back from the tables, with no end": [
        Operation("c", "counter/1", "add", 5, 1, None, Outcome.APPLIED, 5, 1, "k"),
        told("read", None, (3, 4), 5, 1, of="counter"),
    ],
}

#: What cannot be, by the values alone: a violation for both checkers, with versions and without.
IMPOSSIBLE: dict[str, list[Operation]] = {
    "lost: acknowledged, and not there": [
        told("write", "a", (1, 2), None, 1),
        told("read", None, (3, 4), None, 1),
    ],
    "stale: read after another was told the new value": [
        told("write", "a", (1, 2), None, 1),
        told("write", "b", (3, 4), None, 2),
        told("read", None, (5, 6), "a", 1),
    ],
    "stale: a refusal computed from an old state": [
        told("create", "a", (1, 2), None, 1, of="life"),
        told("delete", None, (3, 4), "a", 2, of="life"),
        told("create", "b", (5, 6), refused("exists"), 1, of="life"),
    ],
    "seen and then unseen": [
        told("write", "a", (1, 20), None, 1),
        told("read", None, (2, 3), "a", 1),
        told("read", None, (4, 5), None, 0),
    ],
    "duplicated: one key applied twice": [
        told("add", 5, (1, 2), 5, 1, of="counter", key="k"),
        told("read", None, (3, 4), 10, 2, of="counter"),
    ],
    "duplicated: one key with two answers": [
        told("add", 5, (1, 2), 5, 1, of="counter", key="k"),
        told("add", 5, (3, 4), 10, 2, of="counter", key="k"),
    ],
    "one key, and another message with it left a trace": [
        told("add", 5, (1, 2), 5, 1, of="counter", key="k"),
        unknown("add", 7, 3, of="counter", key="k"),
        told("read", None, (5, 6), 12, 2, of="counter"),
    ],
    "an unknown one that landed twice": [
        unknown("add", 5, 1, of="counter"),
        told("read", None, (3, 4), 5, 1, of="counter"),
        told("read", None, (5, 6), 10, 2, of="counter"),
    ],
    "a retried key that landed twice": [
        unknown("add", 5, 1, of="counter", key="k"),
        unknown("add", 5, 4, of="counter", key="k"),
        told("read", None, (6, 7), 10, 2, of="counter"),
    ],
    "told not_applied, and there it is": [
        unrun("append", "t1", (1, 2), of="journal"),
        told("read", None, (3, 4), ["t1"], 1, of="journal"),
    ],
    "there before anybody asked for it": [
        told("read", None, (1, 2), ["t1"], 1, of="journal"),
        unknown("append", "t1", 3, of="journal"),
    ],
    "an If-None-Match that did not hold, applied": [
        told("create", "a", (1, 2), None, 1, of="life"),
        told("replace", "b", (3, 4), "a", 2, of="life", none_match=True),
    ],
    "an If-None-Match that holds, refused": [
        told("create", "a", (1, 2), refused("version_mismatch"), 0, of="life", none_match=True),
    ],
    "resurrected": [
        told("create", "a", (1, 2), None, 1, of="life"),
        told("delete", None, (3, 4), "a", 2, of="life"),
        told("read", None, (5, 6), "a", 2, of="life"),
    ],
    "two compare-and-sets from one value": [
        told("write", "a", (1, 2), None, 1),
        told("cas", {"from": "a", "to": "b"}, (3, 9), True, 2),
        told("cas", {"from": "a", "to": "c"}, (4, 8), True, 2),
    ],
    "money out of nothing": [
        told("transfer", {"from": 0, "to": 1, "amount": 60}, (1, 2), [40, 160], 1, of="bank"),
        told("read", None, (5, 6), [100, 160, 100, 100], 1, of="bank"),
    ],
}

#: What only the versions show.
IMPOSSIBLE_VERSIONS: dict[str, list[Operation]] = {
    "two writers of one version": [
        told("write", "a", (1, 9), None, 1),
        told("write", "b", (2, 8), None, 1),
    ],
    "a version that nobody wrote": [
        told("write", "a", (1, 2), None, 1),
        told("write", "b", (3, 4), None, 3),
    ],
    "versions against the clock": [
        told("write", "a", (1, 2), None, 2),
        told("write", "a", (3, 4), None, 1),
    ],
    "an If-Match that did not fit, applied": [
        told("write", "a", (1, 2), None, 1),
        told("write", "b", (3, 4), None, 2, if_match=0),
    ],
    "an If-Match that fits, refused": [
        told("write", "a", (1, 2), None, 1),
        told("write", "b", (3, 4), refused("version_mismatch"), 1, if_match=1),
    ],
}
