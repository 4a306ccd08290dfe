"""The yardstick: pgbench doing BEGIN, SELECT, UPDATE, COMMIT on the server's own PostgreSQL.

Its own table of 1,000 rows, uniform, -M prepared, over the unix socket, with the clients and threads the
load has. The percentiles are of its transaction log, which has every transaction.
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from pathlib import Path

from bench import load
from bench.cluster import Cluster
from bench.report import Measured, percentile

ROWS = 1_000

_SCHEMA = f"""\
CREATE SCHEMA IF NOT EXISTS bench;
CREATE TABLE IF NOT EXISTS bench.counter (id int PRIMARY KEY, count bigint NOT NULL);
INSERT INTO bench.counter SELECT id, 0 FROM generate_series(1, {ROWS}) id ON CONFLICT DO NOTHING;
VACUUM ANALYZE bench.counter;
"""

_SCRIPT = f"""\
\\set id random(1, {ROWS})
BEGIN;
SELECT count FROM bench.counter WHERE id = :id;
UPDATE bench.counter SET count = count + 1 WHERE id = :id;
COMMIT;
"""


def prepare(cluster: Cluster) -> None:
    """Its table, once."""
    for statement in _SCHEMA.splitlines():
        cluster.query(statement)


def run(cluster: Cluster, connections: int, seconds: float, folder: Path) -> Measured:
    """One round; transactions per second without the time to connect, as pgbench counts."""
    with tempfile.TemporaryDirectory(dir=folder) as logs:
        script = Path(logs, "transaction.sql")
        script.write_text(_SCRIPT)
        before = _count(cluster)
        command = [cluster.program("pgbench"), *cluster.arguments, "-n", "-M", "prepared", "-l"]
        command += [f"--log-prefix={logs}/log", "-f", str(script), "-T", str(max(1, round(seconds)))]
        command += ["-c", str(connections), "-j", str(load.threads(connections)), cluster.database]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=seconds + 60)
        said = re.search(r"^tps = ([0-9.]+)", ended.stdout, re.MULTILINE)
        failed = re.search(r"^number of failed transactions: ([1-9]\d*)", ended.stdout, re.MULTILINE)
        if ended.returncode != 0 or said is None:
            raise RuntimeError(f"pgbench: {ended.stdout}{ended.stderr}")
        taken_ms = sorted(_taken_ms(Path(logs)))
        counted = _count(cluster) - before
    invalid = f"pgbench: {failed[1]} failed transactions" if failed else None
    if counted != len(taken_ms):
        invalid = f"pgbench logged {len(taken_ms)} transactions, its table counted {counted}"
    return Measured(
        per_second=float(said[1]),
        p50_ms=percentile(taken_ms, 0.5),
        p99_ms=percentile(taken_ms, 0.99),
        requests=len(taken_ms),
        invalid=invalid,
    )


def _count(cluster: Cluster) -> int:
    return int(cluster.query("SELECT sum(count) FROM bench.counter")[0][0])


def _taken_ms(logs: Path) -> list[float]:
    """Third field of a log line: microseconds of the transaction. One file a thread."""
    return [
        int(line.split()[2]) / 1000 for log in logs.glob("log.*") for line in log.read_text().splitlines()
    ]
