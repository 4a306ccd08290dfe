"""Messages against the yardstick: `python -m bench.messages [SECONDS [ROUNDS]]`. Prints one line a figure.

Every round measures one after the other: pgbench, plain calls, calls that send one message each, to an entity
of its own and to one of ten (until all were delivered), chains of 64 pairs of entities that play ball, single
messages on an idle node, and plain calls beside a million timers. Ratios are taken within a round; their
medians at the end.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
import time
import urllib.request
from collections.abc import Mapping
from pathlib import Path

from bench import cluster, load, machine, pgbench, server
from bench.client import Client

CONNECTIONS = 64
KEYS = 1_000
CHAINS = 64
TIMERS = 1_000_000
#: Messages sent one by one to an idle node, and the pause between them: it comes to rest.
SINGLE = 100
PAUSE_S = 0.02

_PLAIN = "/v1/call/counter/k%d/add"
_TELL = "/v1/call/talk/k%d/tell"
#: The same, to one of ten entities for all.
_REPORT = "/v1/call/talk/k%d/report"

#: They wait a day: beside the counter's calls they are nothing but there.
_WIND = f"""\
INSERT INTO inversion.timer (function, key, name, id, target_function, target_key, handler, body, hops,
                             attempt, failures, due_at, born_at)
SELECT 'talk', 'k' || n % {KEYS}, 't' || n, 'timer-' || n, 'counter', 'k' || n % {KEYS}, 'add', '1', 1, 0, 0,
       now() + interval '1 day' + n * interval '1 millisecond', now()
  FROM generate_series(1, {TIMERS}) AS n
"""

#: name -> (what is divided, by what, what is asked of it)
_RATIOS = {
    "messages to pgbench": ("chains", "pgbench", "at least 1.0"),
    "calls that tell to plain calls": ("tell", "plain", "at least 0.6"),
    "calls that tell, all delivered, to plain calls": ("tell delivered", "plain", ""),
    "calls that report to one of ten to plain calls": ("report", "plain", "at least 0.6"),
    "calls that report, all delivered, to plain calls": ("report delivered", "plain", ""),
    "plain beside a million timers to plain": ("plain beside timers", "plain before timers", "at least 0.9"),
    "plain to pgbench": ("plain", "pgbench", ""),
}


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
        _tell_and_wait("tell", _TELL, running, postgres, 1.0, 0)  # processes, caches and plans are warm
        for round_ in range(rounds):
            measured = _round(running, postgres, folder, seconds, round_)
            print(" ".join(f"{name}={value:.4g}" for name, value in measured.items()), flush=True)
            for name, value in measured.items():
                figures.setdefault(name, []).append(value)
    for name, (of, to, bar) in _RATIOS.items():
        ratio = statistics.median(a / b for a, b in zip(figures[of], figures[to], strict=True))
        print(f"{name}: {ratio:.2f}{bar and f' ({bar})'}")
    after_ms = statistics.median(figures["commit to start p50 ms"])
    print(f"commit of the sender to start of the receiver, idle, p50: {after_ms:.2f} ms (at most 5)")


def _round(
    running: server.Server, postgres: cluster.Cluster, folder: Path, seconds: float, round_: int
) -> dict[str, float]:
    measured = {"pgbench": pgbench.run(postgres, CONNECTIONS, seconds, folder).per_second}
    before = _cpu(running)
    measured["plain"] = _drive(running, _PLAIN, seconds, round_)
    measured |= _us_per("plain", before, _cpu(running), measured["plain"] * seconds)
    before = _cpu(running)
    measured |= _tell_and_wait("tell", _TELL, running, postgres, seconds, round_)
    measured |= _us_per("tell", before, _cpu(running), measured["tell"] * seconds)
    before = _cpu(running)
    measured |= _tell_and_wait("report", _REPORT, running, postgres, seconds, round_)
    measured |= _us_per("report", before, _cpu(running), measured["report"] * seconds)
    before = _cpu(running)
    measured["chains"] = _chains(running, postgres, seconds)
    measured |= _us_per("chains", before, _cpu(running), CHAINS * _length(seconds))
    measured["commit to start p50 ms"] = _commit_to_start_ms(running, f"single-{round_}")
    measured["plain before timers"] = _drive(running, _PLAIN, seconds, round_)
    _run(postgres, _WIND, "VACUUM ANALYZE inversion.timer", "CHECKPOINT")
    measured["plain beside timers"] = _drive(running, _PLAIN, seconds, round_)
    _run(postgres, "TRUNCATE inversion.timer", "CHECKPOINT")
    return measured


def _drive(running: server.Server, path: str, seconds: float, seed: int) -> float:
    driven = load.drive(load.Load(running.port, path, KEYS, "1", CONNECTIONS), seconds, seed=seed)
    if driven.errors:
        print(f"{path}: {driven.errors}")
    return driven.per_second


def _tell_and_wait(
    name: str, path: str, running: server.Server, postgres: cluster.Cluster, seconds: float, seed: int
) -> Mapping[str, float]:
    """The rate of the calls alone, and what is left of it when the time until all is delivered counts too."""
    per_second = _drive(running, path, seconds, seed)
    ended_s = time.perf_counter()
    left = _left(postgres)
    delivered = per_second * seconds / (seconds + _empty_s(postgres) - ended_s)
    return {name: per_second, f"{name} delivered": delivered, f"left after {name}": left}


def _left(postgres: cluster.Cluster) -> float:
    return float(postgres.query("SELECT count(*) FROM inversion.message")[0][0])


def _empty_s(postgres: cluster.Cluster) -> float:
    """Wait until no message is left, and say since when: the look itself takes psql a while."""
    while True:
        looked_s = time.perf_counter()
        if not _left(postgres):
            return looked_s
        time.sleep(0.02)


def _delivered(running: server.Server) -> int:
    with urllib.request.urlopen(f"http://127.0.0.1:{running.admin_port}/metrics") as page:
        found = re.search(rb"^inversion_messages_delivered_total ([0-9.e+]+)", page.read(), re.MULTILINE)
    return int(float(found[1])) if found else 0


def _length(seconds: float) -> int:
    """Of a chain: about as long as a round elsewhere."""
    return max(10, round(120 * seconds))


def _chains(running: server.Server, postgres: cluster.Cluster, seconds: float) -> float:
    """Chains of a fixed length, from the first to the last message."""
    length = _length(seconds)
    before, began_s = _delivered(running), time.perf_counter()
    with Client(running.port) as client:
        for number in range(CHAINS):
            client.post(f"/v1/call/talk/c{number}-a/ball", str(length))
    give_up_s = began_s + 60 * seconds
    while (count := _delivered(running) - before) < CHAINS * length and time.perf_counter() < give_up_s:
        time.sleep(0.05)  # the page costs the node about as much as a hundred messages
    return count / (_empty_s(postgres) - began_s)


def _commit_to_start_ms(running: server.Server, receiver: str) -> float:
    """The median of how long after its sender's commit a message was begun. The node does nothing else.

    The sender says in the message when it answered, the receiver looks at the same clock first of all;
    between lie the sender's commit, which Server-Timing tells, and what is asked for. (And the answer's way
    to the node, which makes the figure a little too large.)
    """
    committed_ms = []
    with Client(running.port) as client:
        for _ in range(SINGLE):
            answered = client.post("/v1/call/talk/single/stamp", json.dumps(receiver))
            taken = re.search(r"store_state;dur=([0-9.]+)", answered.headers.get("server-timing", ""))
            committed_ms.append(float(taken[1]) if taken else 0.0)
            time.sleep(PAUSE_S)
        passed_s = json.loads(client.get(f"/v1/state/talk/{receiver}").body)
    if len(passed_s) != SINGLE:
        raise RuntimeError(f"{SINGLE} messages were sent one by one, {len(passed_s)} came")
    return statistics.median(1_000 * s - ms for s, ms in zip(passed_s, committed_ms, strict=True))


def _run(postgres: cluster.Cluster, *statements: str) -> None:
    for statement in statements:
        postgres.query(statement)


def _cpu(running: server.Server) -> Mapping[int, tuple[str, int]]:
    """Nanoseconds on a processor of each process of the server, with its role."""
    used = {}
    for pid, process in machine.tree(running.pid).items():
        role = "postgres" if process.name == "postgres" else "node" if pid == running.pid else "functions"
        used[pid] = role, machine.on_processor_ns(pid)
    return used


def _us_per(
    what: str, before: Mapping[int, tuple[str, int]], after: Mapping[int, tuple[str, int]], count: float
) -> Mapping[str, float]:
    """Microseconds of processor for one of `count`, by role."""
    used = dict.fromkeys(("node", "functions", "postgres"), 0.0)
    for pid, (role, ns) in after.items():
        used[role] += (ns - before.get(pid, (role, 0))[1]) / 1_000
    return {f"{what} us {role}": us / count for role, us in used.items()}


if __name__ == "__main__":
    main()
