"""One publication to many subscribers: `python -m bench.fan_out [SUBSCRIBERS]`. Prints one line a figure.

Plain calls over four connections all the while: before, while messages are made for a function that is not
there to take them, while they are made and delivered, and after. Then what the publisher waited for its
answer and what the node's memory grew by.
"""

from __future__ import annotations

import statistics
import sys
import threading
import time
from pathlib import Path

import attrs

from bench import cluster, server
from bench.client import Client

CONNECTIONS = 4
KEYS = 1_000
#: Before the publication, and behind it.
QUIET_S = 5.0
_POLL_S = 0.02


@attrs.define
class Calls:
    """Plain calls, one after the other on each connection, with when and how long."""

    port: int
    times: list[tuple[float, float]] = attrs.field(factory=list)
    stop: bool = False

    def run(self, first: int) -> None:
        with Client(self.port) as client:
            number = first
            while not self.stop:
                began_s = time.perf_counter()
                answered = client.post(f"/v1/call/counter/k{number % KEYS}/add", "1")
                assert answered.status == 200, answered.body
                self.times.append((began_s, time.perf_counter() - began_s))
                number += 1

    def say(self, when: str, since_s: float, until_s: float) -> None:
        took_ms = sorted(took_s * 1_000 for at_s, took_s in self.times if since_s <= at_s < until_s)
        p50, p99 = statistics.median(took_ms), took_ms[int(len(took_ms) * 0.99)]
        rate = len(took_ms) / (until_s - since_s)
        print(f"plain calls {when}: {rate:.0f}/s, p50 {p50:.1f} ms, p99 {p99:.1f} ms", flush=True)


def main() -> None:
    subscribers = int(sys.argv[1]) if len(sys.argv) > 1 else 20_000
    server.CONFIG["hears"] = f'command = ["{sys.executable}", "hears.py"]'
    server._FILES = (*server._FILES, Path(__file__).with_name("functions") / "hears.py")
    with (
        server.scratch_folder(None) as folder,
        server.running(folder / "server", ("counter", "hears")) as running,
    ):
        postgres = cluster.find(running)
        for topic, function in (("nowhere", "away"), ("news", "hears")):
            postgres.query(
                f"INSERT INTO inversion.subscription SELECT '{topic}', '{function}', 's' || n, 'hear'"
                f" FROM generate_series(1, {subscribers}) AS n"
            )
        calls = Calls(running.port)
        threads = [threading.Thread(target=calls.run, args=(n * 100,)) for n in range(CONNECTIONS)]
        for thread in threads:
            thread.start()
        try:
            _measure(running, postgres, calls, subscribers)
        finally:
            calls.stop = True
            for thread in threads:
                thread.join()


def _measure(running: server.Server, postgres: cluster.Cluster, calls: Calls, subscribers: int) -> None:
    _publish(running, "nobody")  # the function has started
    began_s = time.perf_counter()
    time.sleep(QUIET_S)
    rss_mib = _rss_mib(running.pid)
    published_s = time.perf_counter()
    calls.say("before", began_s, published_s)
    _publish(running, "nowhere")
    most_mib = _wait(running, postgres, "message WHERE function = '~topic'")
    made_s = time.perf_counter()
    calls.say("while messages are made that nobody takes", published_s, made_s)
    print(f"{subscribers} messages made in {made_s - published_s:.2f} s")
    postgres.query("DELETE FROM inversion.message")
    time.sleep(QUIET_S)
    published_s = time.perf_counter()
    answered_s = _publish(running, "news")
    most_mib = max(most_mib, _wait(running, postgres, "message"))
    heard_s = time.perf_counter()
    time.sleep(QUIET_S)
    calls.say("while messages are made and delivered", published_s, heard_s)
    calls.say("after", heard_s, time.perf_counter())
    heard = _count(postgres, "entity WHERE function = 'hears' AND state = '{\"count\":1}'")
    print(f"publisher answered after {answered_s * 1_000:.1f} ms")
    print(f"{heard} have heard it once, the last after {heard_s - published_s:.2f} s")
    print(f"memory of the node {rss_mib:.0f} MiB before, {most_mib:.0f} MiB at most")


def _publish(running: server.Server, topic: str) -> float:
    """How long the publisher waited for its answer."""
    began_s = time.perf_counter()
    with Client(running.port) as client:
        assert client.post("/v1/call/hears/x/say", f'"{topic}"').status == 200
    return time.perf_counter() - began_s


def _wait(running: server.Server, postgres: cluster.Cluster, what: str) -> float:
    """Until there is none left; what the node's memory was at most."""
    most_mib = 0.0
    while int(_count(postgres, what)):
        most_mib = max(most_mib, _rss_mib(running.pid))
        time.sleep(_POLL_S)
    return most_mib


def _count(postgres: cluster.Cluster, what: str) -> str:
    return postgres.query(f"SELECT count(*) FROM inversion.{what}")[0][0]


def _rss_mib(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.partition("VmRSS:")[2].split()[0]) / 1_024


if __name__ == "__main__":
    main()
