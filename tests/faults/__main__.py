"""Clients, nodes and faults for some minutes, and the proof afterwards: `python -m tests.faults`.

`inversion serve`, as often as --nodes says, on one PostgreSQL; clients contend for registers, counters,
journals, banks and lives in two languages, and run programs whose result is known beforehand; faults all the
while. Entities talk by messages meanwhile, and in every snapshot of the database nothing of that is missing.
Then everything is read once more and the whole history is checked: the versions are the order, and the
order must be possible. Leaves report.json, report.md and, when something is wrong, the history and the
nodes' logs in --out; the log of a node that ended badly is there as soon as it has.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
from pathlib import Path

import orjson
import trio
from tests.faults.campaign.campaign import Campaign, Options
from tests.faults.campaign.report import Floors, markdown, report_of
from tests.fix_postgres import Cluster


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="python -m tests.faults",
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("--minutes", type=float, default=3.0)
    parser.add_argument("--nodes", type=int, default=1)
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--keyed", type=float, default=0.35, help="share of calls with an Idempotency-Key")
    parser.add_argument(
        "--every", type=float, default=2.0, help="seconds between a recovery and the next fault"
    )
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--out", type=Path, default=Path("faults-report"))
    given = parser.parse_args()
    options = Options(
        given.minutes * 60, given.nodes, given.clients, given.keyed, given.every, seed=given.seed
    )
    folder = Path(tempfile.mkdtemp(prefix="inversion-faults-"))
    postgres = Cluster(folder / "postgres").start()
    try:
        campaign = Campaign(options, folder, postgres, postgres.conninfo, given.out)
        trio.run(campaign.run)
        report = report_of(campaign, Floors())
    finally:
        postgres.stop()
    given.out.mkdir(exist_ok=True, parents=True)
    (given.out / "report.json").write_bytes(orjson.dumps(report, option=orjson.OPT_INDENT_2))
    (given.out / "report.md").write_text(markdown(report))
    print(orjson.dumps(report, option=orjson.OPT_INDENT_2).decode())
    if report["wrong"]:
        campaign.keep()
    shutil.rmtree(folder, ignore_errors=True)
    sys.exit(bool(report["wrong"]))


if __name__ == "__main__":
    main()
