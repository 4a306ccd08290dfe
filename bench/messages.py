"""Messages against the yardstick: `python -m bench.messages [SECONDS [ROUNDS]]`. Prints one line a figure.

Rounds of pgbench, plain calls, calls that send one message, and chains: 64 pairs of entities that play ball,
whose messages are counted by the node. Every round is interleaved; medians and ratios at the end.
"""

from __future__ import annotations

import re
import statistics
import sys
import time
import urllib.request
from pathlib import Path

from bench import cluster, load, pgbench, server
from bench.client import Client

CONNECTIONS = 64
KEYS = 1_000
CHAINS = 64


def main() -> None:
    seconds = float(sys.argv[1]) if len(sys.argv) > 1 else 5.0
    rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 3
    server.CONFIG["talk"] = f'command = ["{sys.executable}", "talk.py"]'
    server._FILES = (*server._FILES, Path(__file__).with_name("functions") / "talk.py")
    figures: dict[str, list[float]] = {}
    with (
        server.scratch_folder(None) as folder,
        server.running(folder / "server", ("counter", "talk")) as running,
    ):
        postgres = cluster.find(running)
        pgbench.prepare(postgres)
        for round_ in range(rounds):
            measured = {
                "pgbench": pgbench.run(postgres, CONNECTIONS, seconds, folder).per_second,
                "plain": _drive(running, "/v1/call/counter/k%d/add", seconds, round_),
                "tell": _drive(running, "/v1/call/talk/k%d/tell", seconds, round_),
            }
            measured["left after tell"] = _left(postgres)
            _wait_until_empty(postgres)
            measured["chains"] = _chains(running, postgres, seconds)
            print(" ".join(f"{name}={value:.0f}" for name, value in measured.items()), flush=True)
            for name, value in measured.items():
                figures.setdefault(name, []).append(value)
    median = {name: statistics.median(values) for name, values in figures.items()}
    print(f"messages to pgbench {median['chains'] / median['pgbench']:.2f}")
    print(f"tell to plain {median['tell'] / median['plain']:.2f}")
    print(f"plain to pgbench {median['plain'] / median['pgbench']:.2f}")


def _drive(running: server.Server, path: str, seconds: float, seed: int) -> float:
    driven = load.drive(load.Load(running.port, path, KEYS, "1", CONNECTIONS), seconds, seed=seed)
    if driven.errors:
        print(f"{path}: {driven.errors}")
    return driven.per_second


def _left(postgres: cluster.Cluster) -> float:
    return float(postgres.query("SELECT count(*) FROM inversion.message")[0][0])


def _wait_until_empty(postgres: cluster.Cluster) -> None:
    while _left(postgres):
        time.sleep(0.1)


def _delivered(running: server.Server) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{running.admin_port}/metrics") as page:
        found = re.search(rb"^inversion_messages_delivered_total ([0-9.e+]+)", page.read(), re.MULTILINE)
    return int(float(found[1])) if found else 0


def _chains(running: server.Server, postgres: cluster.Cluster, seconds: float) -> float:
    """Chains of a fixed length, from the first to the last message; about as long as a round elsewhere."""
    length = max(10, round(60 * seconds))
    before, began_s = _delivered(running), time.perf_counter()
    with Client(running.port) as client:
        for number in range(CHAINS):
            client.post(f"/v1/call/talk/c{number}-a/ball", str(length))
    give_up_s = began_s + 60 * seconds
    while (count := _delivered(running) - before) < CHAINS * length and time.perf_counter() < give_up_s:
        time.sleep(0.02)
    _wait_until_empty(postgres)
    return count / (time.perf_counter() - began_s)


if __name__ == "__main__":
    main()
