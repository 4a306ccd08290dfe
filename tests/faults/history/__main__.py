"""Both checkers against many histories: `python -m tests.faults.history`, about two minutes.

They must agree on random histories, right and wrong ones; every mutated history must be caught by both; the
first must get through a million operations. Prints the figures as JSON; ends with 1 when something failed.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator
from itertools import count, islice
from pathlib import Path
from time import perf_counter

import orjson
from tests.faults.history.check import check_versions
from tests.faults.history.models import MODELS
from tests.faults.history.mutate import MUTATIONS, mutated
from tests.faults.history.operation import Operation, read_history, write_history
from tests.faults.history.replay import replay
from tests.faults.history.search import search
from tests.faults.history.simulate import Bug, Plan, simulate
from tests.faults.history.verdict import Finding

NAMES = tuple(MODELS)


def agree(histories: int, seed: int) -> dict[str, object]:
    """Random small histories, half of them of a store with a bug."""
    found: Counter[str] = Counter()
    wrong: list[str] = []
    for number in range(histories):
        dice = random.Random(f"agree {seed} {number}")
        bug = dice.choice(tuple(Bug)) if number % 2 else None
        plan = Plan(
            dice.choice(NAMES), operations=dice.randrange(3, 25), clients=dice.randrange(2, 6), bug=bug
        )
        history = simulate(plan, dice)
        model = MODELS[plan.model]
        by_versions = replay(history, model).finding
        by_search = search(history, model, versions=True).finding
        hidden = search(history, model).finding
        found[f"{'no bug' if bug is None else bug.name.lower()}: {by_versions.value}"] += 1
        if by_versions is not by_search:
            wrong.append(f"history {number}: {by_versions.value} by versions, {by_search.value} by search")
        if by_versions is Finding.LINEARIZABLE is not hidden:
            wrong.append(
                f"history {number}: linearizable, and the search without versions says {hidden.value}"
            )
        if bug is None and by_versions is not Finding.LINEARIZABLE:
            wrong.append(f"history {number}: a false alarm")
    return {"histories": histories, "findings": dict(sorted(found.items())), "wrong": wrong}


def catch(histories: int, seed: int) -> dict[str, object]:
    """Mutated histories, as many of each mutation."""
    made: Counter[str] = Counter()
    unseen = 0
    wrong: list[str] = []
    for number, mutation in enumerate(MUTATIONS):
        dice = random.Random(f"catch {seed} {mutation.__name__}")
        share = (histories + number) // len(MUTATIONS)
        for history in islice(mutated(mutation, NAMES, dice), share):
            made[mutation.__name__] += 1
            model = MODELS[history[0].entity.partition("/")[0]]
            if replay(history, model).finding is not Finding.VIOLATION:
                wrong.append(f"{mutation.__name__} {made[mutation.__name__]}: the replay lets it pass")
            if search(history, model, versions=True).finding is not Finding.VIOLATION:
                wrong.append(f"{mutation.__name__} {made[mutation.__name__]}: the search lets it pass")
            unseen += search(history, model).passed
    return {
        "histories": made.total(),
        "mutations": dict(made),
        "not to be seen without versions": unseen,
        "wrong": wrong,
    }


def go_far(operations: int, seed: int) -> dict[str, object]:
    """One long history through a file: how many operations in a second."""

    def entities() -> Iterator[Operation]:
        dice = random.Random(f"far {seed}")
        made = 0
        for number in count():
            if made >= operations:
                return
            model = NAMES[number % len(NAMES)]
            size = 200 if model == "journal" else 2_000  # a journal's reads grow with it
            history = simulate(Plan(model, size, clients=8, lost=0.01), dice, str(number))
            made += len(history)
            yield from history

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "history.jsonl")
        write_history(file, entities())
        begun_s = perf_counter()
        read = list(read_history(file))
        read_s = perf_counter() - begun_s
        begun_s = perf_counter()
        checked = check_versions(read)
        checked_s = perf_counter() - begun_s
        megabytes = file.stat().st_size / 1e6
    return {
        "operations": checked.operations,
        "entities": checked.entities,
        "MB": round(megabytes),
        "read per s": round(len(read) / read_s),
        "checked per s": round(len(read) / checked_s),
        "wrong": checked.sentences(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--agree", type=int, default=10_000, help="random histories")
    parser.add_argument("--mutate", type=int, default=1_000, help="mutated histories")
    parser.add_argument("--far", type=int, default=1_000_000, help="operations of the long one")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    report = {
        "seed": given.seed,
        "agree": agree(given.agree, given.seed),
        "catch": catch(given.mutate, given.seed),
        "far": go_far(given.far, given.seed),
    }
    print(orjson.dumps(report, option=orjson.OPT_INDENT_2).decode())
    sys.exit(any(part["wrong"] for part in report.values() if isinstance(part, dict)))


if __name__ == "__main__":
    main()
