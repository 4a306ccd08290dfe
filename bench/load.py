"""The load: `wrk` where it is installed, else our own generator (own_load.py).

Both keep `connections` connections alive, each with one request in flight, and pick a key uniformly for
each request. Any answer that is no success makes the row invalid. The generator's own CPU share is part of
the result: near 100 % of its processes it was the bottleneck, not the server.
"""

from __future__ import annotations

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import attrs

_SCRIPT = Path(__file__).with_name("wrk.lua")

#: A generator that has not ended this long after its time is stuck.
_PATIENCE_S = 60.0


@attrs.frozen
class Load:
    """What is asked for, over and over."""

    port: int
    path: str  #: `%d` stands for the number of a key, 1..keys
    keys: int
    body: str
    connections: int
    keyed: bool = False  #: each request has an Idempotency-Key of its own

    def key_path(self, number: int) -> str:
        return self.path.replace("%d", str(number))


@attrs.frozen
class Driven:
    """What a generator counted."""

    requests: int
    seconds: float
    p50_ms: float
    p99_ms: float
    errors: str | None  #: None: every answer was a success
    cpu_share: float  #: of one processor

    @property
    def per_second(self) -> float:
        return self.requests / self.seconds


def threads(connections: int) -> int:
    """Threads of a load, ours and pgbench's alike: two suffice for what one server answers."""
    return min(connections, 2)


def generator() -> str:
    """Which generator drives: its name and version, for the output."""
    if (wrk := shutil.which("wrk")) is None:
        return "own generator (python -m bench.own_load): wrk is not installed"
    said = subprocess.run([wrk, "--version"], capture_output=True, text=True, check=False)
    return (said.stdout + said.stderr).splitlines()[0].split("Copyright")[0].strip()


def drive(load: Load, seconds: float, *, seed: int) -> Driven:
    """Apply the load for `seconds` and count."""
    wrk = shutil.which("wrk")
    command = _own(load, seconds, seed) if wrk is None else _wrk(wrk, load, seconds, seed)
    before = _children_cpu_s()
    ended = subprocess.run(
        command, capture_output=True, text=True, check=False, timeout=seconds + _PATIENCE_S
    )
    used_s = _children_cpu_s() - before
    line = next((line for line in ended.stdout.splitlines() if line.startswith("RESULT ")), None)
    if line is None:
        raise RuntimeError(f"the load generator ended without a result: {ended.stdout}{ended.stderr}")
    counted = json.loads(line.removeprefix("RESULT "))
    wrong = {kind: counted[kind] for kind in ("status", "socket", "timeout") if counted[kind]}
    return Driven(
        requests=counted["requests"] - counted["status"],
        seconds=counted["seconds"],
        p50_ms=counted["p50_ms"],
        p99_ms=counted["p99_ms"],
        errors=", ".join(f"{count} {kind} errors" for kind, count in wrong.items()) or None,
        cpu_share=used_s / counted["seconds"],
    )


def _wrk(wrk: str, load: Load, seconds: float, seed: int) -> list[str]:
    return [
        wrk,
        f"-t{threads(load.connections)}",
        f"-c{load.connections}",
        f"-d{max(1, round(seconds))}s",
        "--timeout=10s",
        f"-s{_SCRIPT}",
        f"http://127.0.0.1:{load.port}",
        "--",
        load.path,
        str(load.keys),
        load.body,
        str(seed),
        "keyed" if load.keyed else "plain",
    ]


def _own(load: Load, seconds: float, seed: int) -> list[str]:
    asked = attrs.asdict(load) | {"seconds": seconds, "seed": seed, "threads": threads(load.connections)}
    return [sys.executable, "-m", "bench.own_load", json.dumps(asked)]


def _children_cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime
