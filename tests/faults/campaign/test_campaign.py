"""The campaign, small: `python -m tests.faults --minutes 60` is the long one."""

from __future__ import annotations

import random
import shutil
import signal
import subprocess
import sys
import uuid
from pathlib import Path

import pytest
import trio
from tests.faults.campaign.campaign import BUGS_FILE, Campaign, Options
from tests.faults.campaign.cuts import Wire
from tests.faults.campaign.nodes import Node
from tests.faults.campaign.report import Floors, markdown, report_of
from tests.faults.campaign.seeded import BUGS
from tests.faults.history.operation import Outcome, read_history, write_history

from fix_postgres import Cluster


@pytest.mark.timeout(240)
async def test_a_minute_of_every_fault_leaves_a_history_that_can_be(
    postgres_server: Cluster, short_folder: Path
) -> None:
    folder = short_folder / uuid.uuid4().hex[:8]
    folder.mkdir()
    options = Options(seconds=45, nodes=2, clients=8, every_s=0.1, pause_s=0.01, seed=random.randrange(10**6))
    campaign = Campaign(options, folder, postgres_server, postgres_server.conninfo)
    with trio.fail_after(220):
        await campaign.run()
    report = report_of(campaign, Floors(of_a_kind=5, fired=1, conflicts=1, resolved=0, programs=5, talking=5))
    if report["wrong"]:
        campaign.keep()
    assert report["wrong"] == [], f"seed {options.seed}, {campaign.kept}\n{markdown(report)}"

    # The same history, made wrong in one place, is no pass: the floors and the checker are not asleep.
    operations = list(read_history(campaign.history))
    lost = next(
        each
        for each in operations
        if each.kind == "append" and each.outcome is Outcome.APPLIED and each.key is None
    )
    write_history(campaign.history, [each for each in operations if each is not lost])
    assert any(lost.entity in sentence for sentence in report_of(campaign, Floors(fired=99))["wrong"])
    assert "node killed: fired" in " ".join(report_of(campaign, Floors(fired=99))["wrong"])


async def test_the_log_of_a_node_that_ends_badly_outlives_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    node = Node("n0", folder, Wire("host=nowhere", folder, random.uniform), kept=tmp_path / "kept")
    for status in (0, 3):
        node.lives += 1
        with node.log.open("wb") as log:
            node.process = subprocess.Popen(  # noqa: ASYNC220 (a millisecond)
                ["sh", "-c", f"echo life {node.lives}; exit {status}"], stdout=log
            )
        node.process.wait()
        assert await node.end(signal.SIGTERM) == status
    shutil.rmtree(folder)
    (kept,) = (tmp_path / "kept").iterdir()
    assert kept.read_text() == "life 2\n"
    assert f"n0 ended with 3, its log is {kept}, and ends with:\nlife 2\n" in capsys.readouterr().err


def test_every_bug_still_finds_what_it_breaks() -> None:
    """Each in a fork of one process: starting a node's Python is most of the work."""
    done = subprocess.run(
        [sys.executable, str(BUGS_FILE), "each"], check=False, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == list(BUGS)
