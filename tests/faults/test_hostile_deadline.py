"""Answers that race the deadline: each call is told once what became of it, and that is what became of it."""

from __future__ import annotations

import random

import orjson
import pytest
import trio
from hostility import NEIGHBOURS, hostile, in_each_language, problem

from inversion.app import SWEEP_INTERVAL_S

CALLS = 200
KEYS = 6
#: Longer than a call of a busy machine waits for its process; the race is at its end.
TIMEOUT_MS = 150


@in_each_language
@pytest.mark.fault("F20", "200 answers at the deadline, or at the sweep that enforces it, each 5 ms around")
async def test_an_answer_at_the_deadline_is_stored_or_was_never_there(language, row, start_node):
    toml = hostile(language, timeout='"20s"', processes=f"{{ min = {KEYS}, max = {KEYS} }}") + NEIGHBOURS
    chance = random.Random(20)
    async with start_node(toml) as node:
        applied: dict[int, set[int]] = {key: set() for key in range(KEYS)}
        refused: dict[int, set[int]] = {key: set() for key in range(KEYS)}
        unknown: dict[int, set[int]] = {key: set() for key in range(KEYS)}
        numbers = iter(range(CALLS * row.times))

        async def race(key):
            for number in numbers:
                # Deadlines are looked at once in a sweep: that is where an answer meets its own.
                meets_ms = chance.choice([0, 1_000 * SWEEP_INTERVAL_S * chance.random()])
                message = {"number": number, "after_ms": meets_ms + chance.uniform(-5, 5)}
                timeout = b"Inversion-Timeout: %dms" % TIMEOUT_MS
                answer = await node.call(f"hostile/k{key}/at_deadline", message, timeout)
                if answer.status == 200:
                    assert orjson.loads(answer.body) == number
                    applied[key].add(number)
                else:
                    assert answer.status in (503, 504), answer.body
                    outcome = problem(answer)["outcome"]
                    {"not_applied": refused, "unknown": unknown}[outcome][key].add(number)

        async with trio.open_nursery() as nursery:
            for key in range(KEYS):
                nursery.start_soon(race, key)

        hits = sum(map(len, applied.values()))
        misses = sum(map(len, refused.values()))
        assert hits > CALLS / 20
        assert misses > CALLS / 20
        row.fired(f"{hits} answers were in time, {misses} were not")
        for key in range(KEYS):
            answer = await node.call(f"hostile/k{key}/well", 1)
            assert (answer.status, answer.body) == (200, b"1"), answer.body
            state = await node.state(f"hostile/k{key}")
            stored = orjson.loads(state.body) if state.status == 200 else []
            assert len(stored) == len(set(stored)), "a number was added twice"
            assert not refused[key].intersection(stored), "`not_applied` was applied"
            assert applied[key] <= set(stored), "an acknowledged call is lost"
            assert set(stored) - applied[key] <= unknown[key]
            assert len(stored) == int(state.fields["etag"].strip('"')) if stored else True
        total = sum(len(kind[key]) for kind in (applied, refused, unknown) for key in range(KEYS))
        assert total == CALLS * row.times
        assert (await node.call("neighbour/get", 0)).status == 200
        row.recovered()
