"""Does the campaign find what is wrong? `python -m tests.faults.campaign.detect --seconds 60 --seeds 3`.

Every bug of bugs.py under the same options, the seeds 1 to N; a bug is found when the checker says that the
history cannot be. The node without a bug runs beside them and must raise no alarm. Prints a table.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path
from time import perf_counter_ns
from typing import Final

import attrs
import trio
from tests.faults.campaign.bugs import BUGS
from tests.faults.campaign.campaign import Campaign, Options
from tests.faults.history.check import Checked, check_versions
from tests.faults.history.operation import Operation, read_history
from tests.fix_postgres import Cluster

#: Between two looks at the history so far: a minute of it is half a second's work.
LOOK_S: Final = 5.0


@attrs.frozen
class Found:
    operations: int
    after_s: float | None  #: when the earliest evidence was there; None: nothing was found
    sentence: str = ""


def run(options: Options) -> Found:
    folder = Path(tempfile.mkdtemp(prefix="inversion-detect-"))
    postgres = Cluster(folder / "postgres").start()
    try:
        campaign = Campaign(options, folder, postgres, postgres.conninfo)
        begun_ns = perf_counter_ns()
        checked = trio.run(_run_until_found, campaign) or check_versions(read_history(campaign.history))
    finally:
        postgres.stop()
        shutil.rmtree(folder, ignore_errors=True)
    if checked.passed:
        return Found(checked.operations, None)
    evident = {entity: _evident_ns(verdict.evidence) for entity, verdict in checked.failed.items()}
    first = min(evident, key=lambda entity: evident[entity])
    after_s = (evident[first] - begun_ns) / 1e9
    return Found(checked.operations, after_s, f"{first}: {checked.failed[first].sentence}")


async def _run_until_found(campaign: Campaign) -> Checked | None:
    found: list[Checked] = []

    async def look_for_ever() -> None:
        while not found:
            await trio.sleep(LOOK_S)
            checked = check_versions(campaign.so_far())
            if not checked.passed:
                found.append(checked)
                campaign.enough.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look_for_ever)
        await campaign.run()
        nursery.cancel_scope.cancel()
    return found[0] if found else None


def _evident_ns(evidence: tuple[Operation, ...]) -> int:
    return max((each.completed_ns or each.invoked_ns for each in evidence), default=perf_counter_ns())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--bugs", nargs="*", default=list(BUGS), choices=list(BUGS))
    given = parser.parse_args()
    failed = False
    print("| bug | what it is | found after | how |\n|---|---|---|---|")
    for bug in (None, *given.bugs):
        runs = [
            run(Options(given.seconds, given.nodes, every_s=0.3, seed=seed, bug=bug))
            for seed in range(1, given.seeds + 1)
        ]
        after = ["never" if each.after_s is None else f"{each.after_s:.0f} s" for each in runs]
        failed |= any((each.after_s is None) is not (bug is None) for each in runs)
        what = (
            f"none, {sum(each.operations for each in runs)} operations" if bug is None else BUGS[bug].__doc__
        )
        how = next((each.sentence for each in runs if each.sentence), "")
        print(f"| {bug or 'none'} | {what} | {', '.join(after)} | {how} |", flush=True)
    sys.exit(failed)


if __name__ == "__main__":
    main()
