"""Which rows there are, in the order of one round, and how each is measured.

Rows that a ratio compares stand next to each other, so that both meet the same minute of this machine.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import attrs

from bench import load as loads
from bench import machine, pgbench, server, verify
from bench.cluster import Cluster
from bench.load import Load
from bench.report import Detail, Measured
from bench.server import Server
from bench.spawn_limit import SpawnLimit

KEYS = 1_000

#: A counter's message; an echo's body is about as long as a small JSON message.
_ADD = "1"
_BODY = '{"sku":"a1","qty":2,"note":"' + "x" * 70 + '"}'


@attrs.frozen
class Bench:
    """What the rows of one run share."""

    server: Server
    cluster: Cluster
    spawn_limit: SpawnLimit
    folder: Path
    seconds: float

    @property
    def warm_up_s(self) -> float:
        return max(1.0, min(3.0, self.seconds / 3))


@attrs.frozen
class Spec:
    """A row: its name, what it says of its connections, and its measurement in one round."""

    name: str
    connections: int
    measure: Callable[[Bench, int], Measured]


def _counter(connections: int, keys: int, *, keyed: bool = False) -> Callable[[Bench, int], Measured]:
    path = "/v1/call/counter/k%d/add" if keys > 1 else "/v1/call/counter/hot/add"

    def measure(bench: Bench, number: int) -> Measured:
        load = Load(bench.server.port, path, keys, _ADD, connections, keyed)
        return _driven(bench, load, number, stateful=True)

    return measure


def _echo(connections: int, path: str) -> Callable[[Bench, int], Measured]:
    def measure(bench: Bench, number: int) -> Measured:
        load = Load(bench.server.port, path, 1, _BODY, connections)
        return _driven(bench, load, number, stateful=False)

    return measure


def _pgbench(connections: int) -> Callable[[Bench, int], Measured]:
    def measure(bench: Bench, _: int) -> Measured:
        pgbench.run(bench.cluster, connections, bench.warm_up_s, bench.folder)
        return pgbench.run(bench.cluster, connections, bench.seconds, bench.folder)

    return measure


def _spawn_limit(in_flight: int) -> Callable[[Bench, int], Measured]:
    def measure(bench: Bench, _: int) -> Measured:
        return bench.spawn_limit.run(in_flight, bench.seconds, _BODY, "cat")

    return measure


SPECS = (
    Spec("hot_key_c64", 64, _counter(64, 1)),
    Spec("keys_1000_c64", 64, _counter(64, KEYS)),
    Spec("pgbench_c64", 64, _pgbench(64)),
    Spec("keyed_1000_c64", 64, _counter(64, KEYS, keyed=True)),
    Spec("keys_1000_c16", 16, _counter(16, KEYS)),
    Spec("one_connection_c1", 1, _counter(1, KEYS)),
    Spec("pgbench_c1", 1, _pgbench(1)),
    Spec("stateless_c64", 64, _echo(64, "/v1/call/echo")),
    Spec("exec_cat_c16", 16, _echo(16, "/v1/call/cat")),
    Spec("spawn_limit_c16", 16, _spawn_limit(16)),
)

#: Not part of a round: each of its runs is a server of its own.
FIRST_ANSWER = "first_answer"
FIRST_ANSWER_RUNS = 3

NAMES = (*(spec.name for spec in SPECS), FIRST_ANSWER)


def measure_first_answer(folder: Path, number: int) -> Measured:
    """From an empty folder to the first answered call, initdb included: what a newcomer waits for."""
    with server.running(folder / f"first-{number}", ["counter"]) as started:
        ms = started.first_answer_s * 1000
    return Measured(per_second=0.0, p50_ms=ms, p99_ms=ms, requests=1)


def _driven(bench: Bench, load: Load, number: int, *, stateful: bool) -> Measured:
    """Warm up with samples, measure, and hold the result against what can be counted."""
    with verify.Sampler(load.port, load, echoes=not stateful) as sampler:
        loads.drive(load, bench.warm_up_s, seed=2 * number)
    counted = verify.tally(load.port, load) if stateful else verify.Tally()
    fsyncs, forks = verify.wal_fsyncs(bench.cluster), machine.forks()
    before = machine.tree(bench.server.pid)
    driven = loads.drive(load, bench.seconds, seed=2 * number + 1)
    after = machine.tree(bench.server.pid)
    fsyncs, forks = verify.wal_fsyncs(bench.cluster) - fsyncs, machine.forks() - forks
    moved = verify.tally(load.port, load).since(counted) if stateful else None

    problem = driven.errors or sampler.problem
    details: dict[str, Detail] = {"steps_ms": sampler.steps_ms}
    if moved is not None:
        problem = problem or verify.landed(driven.requests, load.connections, moved)
        details |= {"counted": moved.counts, "versions": moved.versions, "wal_fsyncs": fsyncs}
        problem = problem or verify.durable(driven.requests, load.connections, fsyncs)
    elif "/cat" in load.path:
        details["forks"] = forks
        if forks < driven.requests:
            problem = problem or f"{driven.requests} acknowledged with {forks} processes started"
    details["cpu"] = _cpu_shares(bench, before, after, driven)
    return Measured(
        per_second=driven.per_second,
        p50_ms=driven.p50_ms,
        p99_ms=driven.p99_ms,
        requests=driven.requests,
        invalid=problem,
        details=details,
    )


def _cpu_shares(
    bench: Bench,
    before: Mapping[int, machine.Process],
    after: Mapping[int, machine.Process],
    driven: loads.Driven,
) -> dict[str, float]:
    """Of one processor, by role."""
    used = machine.cpu_by_role(bench.server.pid, before, after)
    shares = {role: round(seconds / driven.seconds, 2) for role, seconds in used.items()}
    return shares | {"load": round(driven.cpu_share, 2)}
