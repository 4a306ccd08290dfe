"""Did the load do what its row says? Counts read back, processes started, fsyncs made, samples compared."""

from __future__ import annotations

import json
import statistics
import threading
import time
from collections import defaultdict

import attrs

from bench.client import Answered, Client
from bench.cluster import Cluster
from bench.load import Load

#: What was in flight when the load ended lands within this, or never.
_SETTLE_S = 10.0
_PAUSE_S = 0.05

#: PostgreSQL's sessions report their flushes late; at least this share must have been reported.
_LEAST_SHARE_SEEN = 0.5

#: A sample every so often while the load warms up: too few to weigh.
_SAMPLE_EVERY_S = 0.02


@attrs.frozen
class Tally:
    """Over all keys of a load: the sum of the counts and the sum of the versions."""

    counts: int = 0
    versions: int = 0

    def since(self, before: Tally) -> Tally:
        return Tally(self.counts - before.counts, self.versions - before.versions)


def tally(port: int, load: Load) -> Tally:
    """Read back, through HTTP, every entity the load writes; twice the same, so nothing is in flight."""
    give_up_s = time.monotonic() + _SETTLE_S
    with Client(port) as client:
        seen = _tally(client, load)
        while time.monotonic() < give_up_s:
            time.sleep(_PAUSE_S)
            again = _tally(client, load)
            if again == seen:
                return again
            seen = again
    raise RuntimeError(f"counts still moved {_SETTLE_S:g} s after the load had ended")


def _tally(client: Client, load: Load) -> Tally:
    counts = versions = 0
    for number in range(1, load.keys + 1):
        _, _, _, function, key, _ = load.key_path(number).split("/")
        answered = client.get(f"/v1/state/{function}/{key}")
        if answered.status == 404:
            continue
        if answered.status != 200:
            raise RuntimeError(f"GET state of {function}/{key}: {answered.status} {answered.body!r}")
        counts += _count(answered.body)
        versions += int(answered.headers["etag"].strip('"'))
    return Tally(counts, versions)


def _count(body: bytes) -> int:
    """The state of the counter: a number, or an object that holds one."""
    state = json.loads(body)
    return int(state["count"] if isinstance(state, dict) else state)


def landed(acknowledged: int, in_flight: int, moved: Tally) -> str | None:
    """Why the counts do not bear out what was acknowledged; None: they do.

    Each acknowledged request is counted; those in flight when the load ended may be.
    """
    for what, number in (("counts", moved.counts), ("versions", moved.versions)):
        if not acknowledged <= number <= acknowledged + in_flight:
            return f"{acknowledged} acknowledged, but the {what} grew by {number}"
    return None


def durable(acknowledged: int, in_flight: int, fsyncs: int) -> str | None:
    """Why these answers cannot all have waited for the disk; None: they can.

    One flush of the log frees at most what was in flight.
    """
    if fsyncs * in_flight < acknowledged * _LEAST_SHARE_SEEN:
        return f"{acknowledged} acknowledged with {fsyncs} flushes of the log: not durable"
    return None


def wal_fsyncs(cluster: Cluster) -> int:
    """Flushes of the write-ahead log so far. Sessions report theirs about once a second."""
    major = int(cluster.query("SHOW server_version_num")[0][0]) // 10_000
    if major >= 18:
        sql = "SELECT sum(fsyncs) FROM pg_stat_io WHERE object = 'wal'"
    else:
        sql = "SELECT wal_sync FROM pg_stat_wal"
    return int(cluster.query(sql)[0][0])


class Sampler:
    """One more client beside a load, on a thread: what the server says each step took, and is it right?"""

    def __init__(self, port: int, load: Load, *, echoes: bool) -> None:
        self._load = load
        self._port = port
        self._echoes = echoes
        self._steps: dict[str, list[float]] = defaultdict(list)
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.problem: str | None = None

    def __enter__(self) -> Sampler:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    @property
    def steps_ms(self) -> dict[str, float]:
        """The median of each step of Server-Timing."""
        return {step: round(statistics.median(taken), 3) for step, taken in self._steps.items()}

    def _run(self) -> None:
        number = 0
        with Client(self._port) as client:
            while not self._stop.wait(_SAMPLE_EVERY_S):
                number = number % self._load.keys + 1
                try:
                    self._take(client.post(self._load.key_path(number), self._load.body))
                except Exception as error:  # a thread's failure must reach the row
                    self.problem = f"a sample failed: {error!r}"
                    return

    def _take(self, answered: Answered) -> None:
        wanted = self._load.body.encode() if self._echoes else answered.body
        if answered.status != 200 or answered.body != wanted:
            self.problem = f"a sample was answered {answered.status} {answered.body[:200]!r}"
        for part in answered.headers.get("server-timing", "").split(","):
            step, separator, duration = part.strip().partition(";dur=")
            if separator:
                self._steps[step].append(float(duration))
