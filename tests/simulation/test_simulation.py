"""Thousands of drawn histories of the real mailboxes and store over a model database: all promises hold.

A seed that fails is replayed with INVERSION_SEED=N INVERSION_SEEDS=1.
"""

from __future__ import annotations

import os
from collections import Counter

import orjson
import pytest
from world import FUNCTION, STATELESS, Op, World

SEEDS = int(os.environ.get("INVERSION_SEEDS", "2000"))
FIRST = int(os.environ.get("INVERSION_SEED", "0"))


def check(world: World) -> None:
    """Acknowledged once and in its place, refused never, unknown at most once, keyed at most once."""
    for node in world.nodes:
        assert not node.office.live, "somebody was never answered"
        assert node.store.doubtful == 0
    states: dict[str, list[str]] = {}
    for (function, key), entity in world.database.entities.items():
        assert function.decode() == FUNCTION
        states[key.decode()] = [] if entity.state is None else orjson.loads(entity.state)
        assert entity.version == len(states[key.decode()])
    for key, tokens in states.items():
        assert not [token for token, times in Counter(tokens).items() if times > 1], f"{key}: applied twice"
    refused = {
        op.token for op in world.ops if op.outcome == "not_applied" and (op.once is None or op.refused)
    }
    for op in world.ops:
        if op.key == STATELESS:
            assert op.version is None
            continue
        tokens = states.get(op.key, [])
        if op.outcome == "applied":
            assert op.version is not None
            assert op.value == tokens[: op.version], op
            if op.handler != "read":
                assert tokens[op.version - 1] == op.token, op
        if op.token in refused:
            assert op.token not in tokens, f"said not_applied: {op}"
        if op.refused:
            assert op.version is not None
            assert op.version % 2 == 0, f"refused for a state that never was: {op}"
    _in_real_time(world.ops)
    _replays_agree([op for op in world.ops if op.once is not None and (op.value is not None or op.refused)])


def _in_real_time(ops: list[Op]) -> None:
    """Nobody is told of a state older than one that somebody had been told of before it asked."""
    firsts: set[str] = set()
    for op in ops:
        repeats = op.once in firsts
        firsts.add(op.once or "")
        if op.version is None or repeats or not (op.value is not None or op.refused):
            continue  # a repeat is told what the first one was
        known = [
            o.version for o in ops if o.key == op.key and 0 < o.ended < op.began and o.version is not None
        ]
        assert op.version >= max(known, default=0), f"stale: {op}"


def _replays_agree(ops: list[Op]) -> None:
    told: dict[str, tuple[object, object]] = {}
    for op in ops:
        assert op.once is not None
        assert told.setdefault(op.once, (op.version, op.value)) == (op.version, op.value), op


def run(seed: int) -> World:
    nodes = 1 + seed % 3
    rate = (0.0, 0.12, 0.3)[seed % 7 % 3]
    with World(seed, nodes=nodes, keys=1 + seed % 2, fault_rate=rate, slow=seed % 5 < 2) as world:
        world.run(30)
        check(world)
    return world


@pytest.mark.timeout(300)
def test_every_promise_holds_in_thousands_of_drawn_histories() -> None:
    fired: Counter[str] = Counter()
    outcomes: Counter[str | None] = Counter()
    for seed in range(FIRST, FIRST + SEEDS):
        try:
            world = run(seed)
        except BaseException as error:
            error.add_note(f"replay it with INVERSION_SEED={seed} INVERSION_SEEDS=1")
            raise
        fired += world.fired
        outcomes.update(op.outcome for op in world.ops)
    if SEEDS >= 1000:  # nothing is proven by what never happened
        for what in (
            "never sent",
            "lost before the server saw it",
            "lost after the server did it",
            "delayed in the network",
            "a warning",
            "a locked row",
            "a deadline passed",
            "a node was killed",
            "Conflict",
        ):
            assert fired[what] >= 100, (what, fired)
        assert outcomes["applied"] > 0.7 * sum(outcomes.values()), outcomes
        assert outcomes["unknown"] >= 30, outcomes
        assert outcomes["not_applied"] >= 30, outcomes


def test_a_seed_is_replayed_exactly() -> None:
    one, two = run(8), run(8)
    assert [(op.token, op.outcome, op.version, op.value) for op in one.ops] == [
        (op.token, op.outcome, op.version, op.value) for op in two.ops
    ]
    assert one.fired == two.fired
