"""Does the campaign find what is wrong? `python -m tests.faults.campaign.detect --seconds 60 --seeds 3`.

Every seeded bug under the same options, the seeds 1 to N; a bug is found when the checker says that the
history cannot be, or when messages are not where they must be. The node without a bug runs beside them and
must raise no alarm. Prints a table, and with --write puts it into docs/detection.md, where what stands
outside its marks stays; with --bugs only the rows that were run, and a sentence that says so.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import uuid
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter_ns, sleep
from typing import Final

import attrs
import psycopg
import trio
from psycopg.conninfo import make_conninfo
from psycopg.sql import SQL, Identifier
from tests.faults.campaign.campaign import Campaign, Options
from tests.faults.campaign.seeded import BUGS
from tests.faults.history.check import Checked, check_versions
from tests.faults.history.operation import Operation, read_history
from tests.faults.history.verdict import Finding
from tests.fix_postgres import Cluster

DOCUMENT: Final = Path(__file__).parents[3] / "docs" / "detection.md"
BEGIN: Final = "<!-- made by tests/faults/campaign/detect.py: do not edit from here -->"
END: Final = "<!-- to here -->"
#: Between two looks at the history so far: a minute of it is half a second's work.
LOOK_S: Final = 2.0
#: To make a database, a second each.
TRIES: Final = 60
#: Of what a checker says, so much stands in the table.
SENTENCE: Final = 160


@attrs.frozen
class Found:
    operations: int
    after_s: float | None  #: when the earliest evidence was there; None: nothing was found
    sentence: str = ""


def run(options: Options, postgres: Cluster) -> Found:
    """One run on a database of its own."""
    folder = Path(tempfile.mkdtemp(prefix="inversion-detect-"))
    try:
        campaign = Campaign(options, folder, postgres, _new_database(postgres))
        begun_ns = perf_counter_ns()
        checked = trio.run(_run_until_found, campaign) or check_versions(read_history(campaign.history))
        talking = campaign.talking.wrong
        if checked.failed or talking or campaign.wrong or campaign.faults.wrong:
            campaign.keep()
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    evident = [
        (_evident_ns(checked.failed[entity].evidence), f"{entity}: {checked.failed[entity].sentence}")
        for entity in _impossible(checked)
    ]
    evident += [(each.seen_ns, each.sentence) for each in talking]
    if not evident:
        undecided = f"not decided: {', '.join(checked.failed)}" if checked.failed else ""
        return Found(checked.operations, None, undecided)
    seen_ns, sentence = min(evident)
    return Found(checked.operations, (seen_ns - begun_ns) / 1e9, sentence)


def _new_database(postgres: Cluster) -> str:
    """Its URL. The server may be recovering from the run before."""
    name = f"run_{uuid.uuid4().hex}"
    for _ in range(TRIES):
        try:
            with psycopg.connect(postgres.conninfo, autocommit=True, connect_timeout=5) as connection:
                connection.execute(SQL("CREATE DATABASE {}").format(Identifier(name)))
                return make_conninfo(postgres.conninfo, dbname=name)
        except psycopg.OperationalError:
            sleep(1)
    raise RuntimeError("PostgreSQL did not come back")


async def _run_until_found(campaign: Campaign) -> Checked | None:
    found: list[Checked] = []

    async def look_for_ever() -> None:
        while not found:
            await trio.sleep(LOOK_S)
            checked = check_versions(campaign.so_far())
            if _impossible(checked) or campaign.talking.wrong:
                found.append(checked)
                campaign.enough.set()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(look_for_ever)
        await campaign.run()
        nursery.cancel_scope.cancel()
    return found[0] if found else None


def _impossible(checked: Checked) -> list[str]:
    """The entities whose history cannot be; a checker that ran out of time has found nothing."""
    return [entity for entity, verdict in checked.failed.items() if verdict.finding is Finding.VIOLATION]


def _evident_ns(evidence: tuple[Operation, ...]) -> int:
    return max((each.completed_ns or each.invoked_ns for each in evidence), default=perf_counter_ns())


def row(bug: str | None, runs: Sequence[Found]) -> str:
    after = ", ".join("never" if each.after_s is None else f"{max(each.after_s, 0.0):.0f} s" for each in runs)
    how = next((each.sentence for each in runs if each.sentence), "").replace("|", "\\|")
    if bug is None:
        return f"| none | {sum(each.operations for each in runs)} operations | {after} | {how} |"
    return f"| {bug.replace('_', ' ')} | {BUGS[bug].__doc__} | {after} | {how[:SENTENCE]} |"


def write(lines: Sequence[str]) -> None:
    above, _, rest = DOCUMENT.read_text().partition(BEGIN)
    below = rest.partition(END)[2]
    DOCUMENT.write_text(f"{above}{BEGIN}\n\n" + "\n".join(lines) + f"\n\n{END}{below}")


def replaced(document: str, rows: Sequence[str], command: str) -> list[str]:
    """The lines of its table with these rows instead of their older ones, all counted again."""
    lines = document.partition(BEGIN)[2].partition(END)[0].strip().splitlines()
    places = {_name(line): place for place, line in enumerate(lines) if line.startswith("| ")}
    for new in rows:
        if _name(new) not in places:  # a bug that was not there when the table was made
            places[_name(new)] = max(places.values()) + 1
            lines.insert(places[_name(new)], new)
        lines[places[_name(new)]] = new
    table = lines[: max(places.values()) + 1]
    bugs = [line for line in table if _name(line).replace(" ", "_") in BUGS]
    found = sum("never" not in line.split(" | ")[2] for line in bugs)
    names = ", ".join(_name(new) for new in rows)
    said = [line for line in lines[len(table) :] if line.startswith("Since then")]
    alarms = lines[places["none"]].split(" | ")[2].replace("never", "").strip(" ,")
    counted = f"{found} of {len(bugs)} bugs were found with every seed."
    counted += f" Without a bug: {'alarms' if alarms else 'no alarm'}."
    return [*table, "", *said, f"Since then `{command}` made the rows: {names}.", "", counted]


def _name(line: str) -> str:
    return line.split(" | ")[0].removeprefix("| ")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--bugs", nargs="*", default=list(BUGS), choices=list(BUGS))
    parser.add_argument("--only-bugs", action="store_true", help="without the node that has none")
    parser.add_argument("--write", action="store_true", help="the table, or the rows, into docs/detection.md")
    given = parser.parse_args()
    command = " ".join(["python -m tests.faults.campaign.detect", *sys.argv[1:]])
    begun = [
        f"`{command}`: each run at least "
        f"{given.seconds:g} s or until the bug is found, {given.nodes} nodes, seeds 1 to {given.seeds}.",
        "",
        "| bug | what it is | found after | how, in the first run that found it |",
        "|---|---|---|---|",
    ]
    print("\n".join(begun), flush=True)
    some = given.only_bugs or set(given.bugs) != set(BUGS)
    bugs: list[str | None] = [*([] if given.only_bugs else [None]), *given.bugs]
    document = DOCUMENT.read_text()
    results: dict[str | None, list[Found]] = {}
    folder = Path(tempfile.mkdtemp(prefix="inversion-detect-"))
    postgres = Cluster(folder / "postgres").start()
    try:
        for bug in bugs:
            seeds = range(1, given.seeds + 1)
            options = [Options(given.seconds, given.nodes, every_s=0.3, seed=seed, bug=bug) for seed in seeds]
            results[bug] = [run(each, postgres) for each in options]
            print(row(bug, results[bug]), flush=True)
            # After each row, so that a run that is cut short leaves what it has.
            rows = [row(*result) for result in results.items()]
            if given.write and some:
                write(replaced(document, rows, command))
            elif given.write:
                write([*begun, *rows, "", summary(results, bugs[len(results) :])])
    finally:
        postgres.stop()
        shutil.rmtree(folder, ignore_errors=True)
    print("", summary(results, []), sep="\n")
    sys.exit(not all(_as_it_should(*result) for result in results.items()))


def summary(results: Mapping[str | None, Sequence[Found]], left: Sequence[str | None]) -> str:
    found = [bug for bug, runs in results.items() if bug is not None and _as_it_should(bug, runs)]
    tried = [bug for bug in results if bug is not None]
    sentence = f"{len(found)} of {len(tried)} bugs were found with every seed."
    if None in results:
        alarms = sum(each.after_s is not None for each in results[None])
        sentence += f" Without a bug: {alarms or 'no'} alarm{'s' * (alarms > 1)}."
    if left:
        sentence += f" Not run yet: {', '.join(str(bug).replace('_', ' ') for bug in left)}."
    return sentence


def _as_it_should(bug: str | None, runs: Sequence[Found]) -> bool:
    """Found with every seed; where there is nothing to find, with none."""
    return all((each.after_s is None) is (bug is None) for each in runs)


if __name__ == "__main__":
    main()
