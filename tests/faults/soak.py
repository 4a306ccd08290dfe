"""Half an hour of faults against one node, and what is left of it: `python tests/faults/soak.py`.

A real `inversion dev` on its embedded PostgreSQL under a steady load of counters, exec calls and misconduct;
every two seconds a fault: a function killed, a backend or the postmaster killed, a client torn off, a slow
one, a function that is changed on disk. Every ten seconds the node's descriptors, threads, memory and
processes are counted. At the end every counter must lie between its acknowledged and its possible value,
and what was counted after the warm-up must not have grown.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from time import monotonic

import attrs
import trio

ROOT = Path(__file__).parents[2]
KEYS = 50
WARM_UP_S = 120.0
SAMPLE_S = 10.0
FAULT_S = 2.0
#: More than that in an hour would be a leak; a heap that is still settling stays below.
MOST_GROWTH_MIB_PER_HOUR = 24.0
TOML = """
[functions.counter]
command = ["{python}", "counter.py"]
processes = {{ min = 1, max = 2 }}
[functions.sabotage]
command = ["{python}", "sabotage.py", "--hello"]
timeout = "1s"
[functions.cat]
command = "cat"
mode = "exec"
state = false
"""


@attrs.define
class Tally:
    """What the clients were told of one counter."""

    acknowledged: int = 0
    unknown: int = 0


@attrs.define
class Sample:
    """The node at one moment."""

    at_s: float
    node_mib: float
    spawner_mib: float
    descriptors: int
    threads: int
    processes: int
    zombies: int


class Soak:
    """One run: a node, its clients, its faults."""

    def __init__(self, folder: Path, minutes: float, port: int) -> None:
        self.folder = folder
        self.url = f"http://127.0.0.1:{port}"
        self.end_s = monotonic() + minutes * 60
        self.tallies = [Tally() for _ in range(KEYS)]
        self.told: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.samples: list[Sample] = []
        self.node = self._start(port)

    def _start(self, port: int) -> subprocess.Popen[bytes]:
        for name in ("python/shim.py", "python/counter.py"):
            shutil.copy(ROOT / "runtimes" / name, self.folder)
        shutil.copy(ROOT / "tests" / "functions" / "sabotage.py", self.folder)
        (self.folder / "inversion.toml").write_text(TOML.format(python=sys.executable))
        command = [sys.executable, "-m", "inversion", "dev", str(self.folder)]
        command += ["--port", str(port), "--admin-port", "0"]
        log = (self.folder / "node.log").open("wb")
        return subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT)

    async def run(self) -> None:
        begun_s = monotonic()
        while await self._call("counter/probe/add", b"0") != "applied":
            assert self.node.poll() is None, (self.folder / "node.log").read_text()
            await trio.sleep(0.2)
        async with trio.open_nursery() as nursery:
            for worker in range(6):
                nursery.start_soon(self._count_for_ever, worker)
            nursery.start_soon(self._misbehave_for_ever)
            nursery.start_soon(self._hurt_for_ever)
            while monotonic() < self.end_s:
                await trio.sleep(SAMPLE_S)
                self.samples.append(sample(self.node.pid, monotonic() - begun_s))
            nursery.cancel_scope.cancel()

    # The clients.

    async def _call(self, path: str, body: bytes) -> str:
        """The outcome that the caller was told; what is torn or late is `unknown`."""
        return await trio.to_thread.run_sync(partial(exchange, f"{self.url}/v1/call/{path}", body))

    async def _count_for_ever(self, worker: int) -> None:
        dice = random.Random(worker)
        while True:
            key = dice.randrange(KEYS)
            with trio.CancelScope(shield=True):  # the end must not lose an answer
                outcome = await self._call(f"counter/k{key}/add", b"1")
            self.told[outcome] += 1
            self.tallies[key].acknowledged += outcome == "applied"
            self.tallies[key].unknown += outcome == "unknown"
            await trio.sleep(0.005)

    async def _misbehave_for_ever(self) -> None:
        dice = random.Random("misconduct")
        handlers = ("exit", "never", "wrong_id", "print_before", "no_json", "huge", "half", "well", "effect")
        while True:
            await self._call(f"sabotage/s{dice.randrange(5)}/{dice.choice(handlers)}", b"1")
            await self._call("cat", b"x" * 10_000)
            await trio.sleep(0.1)

    # The faults.

    async def _hurt_for_ever(self) -> None:
        dice = random.Random("faults")
        faults = (
            self._kill_a_function,
            self._kill_a_function,
            self._touch_the_code,
            self._tear_a_client_off,
            self._be_slow,
            self._kill_a_backend,
            self._kill_the_postmaster,
            self._kill_the_spawner,
        )
        while True:
            await trio.sleep(FAULT_S)
            fault = dice.choice(faults)
            if fault():
                self.faults[fault.__name__.removeprefix("_")] += 1

    def _kill(self, *words: str) -> bool:
        found = [pid for pid, command in below(self.node.pid) if all(word in command for word in words)]
        if not found:
            return False
        os.kill(random.choice(found), signal.SIGKILL)
        return True

    def _kill_a_function(self) -> bool:
        return self._kill(random.choice(("counter.py", "sabotage.py")))

    def _kill_a_backend(self) -> bool:
        return self._kill("postgres:", "inversion")

    def _kill_the_postmaster(self) -> bool:
        return random.random() < 0.3 and self._kill("postgres", "-D")

    def _kill_the_spawner(self) -> bool:
        return self._kill("spawner")

    def _touch_the_code(self) -> bool:
        with (self.folder / "counter.py").open("a") as file:
            file.write("#\n")
        return True

    def _tear_a_client_off(self) -> bool:
        return self._speak(
            b"POST /v1/call/counter/torn/add HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n1"
        )

    def _be_slow(self) -> bool:
        return self._speak(b"POST /v1/call/counter/slow/add HTTP/1.1\r\nHost: x\r\nContent-Le")

    def _speak(self, raw: bytes) -> bool:
        host, _, port = self.url.removeprefix("http://").partition(":")
        try:
            with socket.create_connection((host, int(port)), timeout=5) as client:
                client.sendall(raw)
        except OSError:
            return False
        return True

    # The end.

    def check(self) -> list[str]:
        """What is wrong with what is left; nothing when all is well."""
        wrong = []
        for key, tally in enumerate(self.tallies):
            value = counter_of(f"{self.url}/v1/state/counter/k{key}")
            if not tally.acknowledged <= value <= tally.acknowledged + tally.unknown:
                wrong.append(f"k{key} is {value}: acknowledged {tally.acknowledged}, unknown {tally.unknown}")
        settled = [sample for sample in self.samples if sample.at_s >= WARM_UP_S]
        if len(settled) >= 12:
            third = len(settled) // 3
            for name in ("descriptors", "threads", "processes"):
                first, last = (median(part, name) for part in (settled[:third], settled[-third:]))
                if last > first + 3:
                    wrong.append(f"{name} grew from {first:g} to {last:g}")
            for name in ("node_mib", "spawner_mib"):
                slope = slope_per_hour(settled, name)
                if slope > MOST_GROWTH_MIB_PER_HOUR:
                    wrong.append(f"{name} grows by {slope:.1f} an hour")
        if any(sample.zombies > 2 for sample in settled[-3:]):
            wrong.append("zombies stay")
        return wrong

    def report(self) -> dict[str, object]:
        settled = [sample for sample in self.samples if sample.at_s >= WARM_UP_S] or self.samples
        third = max(1, len(settled) // 3)
        figures = {
            name: {
                "first third": median(settled[:third], name),
                "last third": median(settled[-third:], name),
                "most": max(getattr(sample, name) for sample in settled),
            }
            for name in ("node_mib", "spawner_mib", "descriptors", "threads", "processes", "zombies")
        }
        half = len(settled) // 2
        slopes = {
            name: [
                round(slope_per_hour(part, name), 2) for part in (settled, settled[half:]) if len(part) > 1
            ]
            for name in ("node_mib", "spawner_mib")
        }
        return {
            "seconds": round(self.samples[-1].at_s),
            "told": dict(self.told),
            "faults": dict(self.faults),
            "figures": figures,
            "MiB per hour, of all and of the second half": slopes,
        }

    def stop(self) -> int:
        self.node.send_signal(signal.SIGTERM)
        return self.node.wait(60)


def exchange(url: str, body: bytes) -> str:
    request = urllib.request.Request(url, body, {"Inversion-Timeout": "5s"})
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return str(answer.headers["Inversion-Outcome"])
    except urllib.error.HTTPError as error:
        with error:
            return str(error.headers["Inversion-Outcome"])
    except OSError:
        return "unknown"


def counter_of(url: str) -> int:
    try:
        with urllib.request.urlopen(url, timeout=20) as answer:
            return int(json.load(answer)["count"])
    except urllib.error.HTTPError as error:
        with error:
            if error.code != 404:
                raise
        return 0


def below(pid: int) -> list[tuple[int, str]]:
    """(pid, command line) of all processes that descend from it."""
    parents: dict[int, int] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parents[int(entry.name)] = int((entry / "stat").read_text().rpartition(")")[2].split()[1])
            except OSError:
                continue  # it has just ended
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return [(one, command_of(one)) for one in found[1:]]


def command_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
    except OSError:
        return ""


def sample(pid: int, at_s: float) -> Sample:
    children = below(pid)
    own = [one for one, command in children if not command.startswith("postgres:")]
    zombies = sum(state_of(one) == "Z" for one, _ in children)
    spawner_mib = sum(mib_of(one) for one, command in children if "spawner" in command)
    return Sample(
        at_s,
        mib_of(pid),
        spawner_mib,
        len(list(Path(f"/proc/{pid}/fd").iterdir())),
        len(list(Path(f"/proc/{pid}/task").iterdir())),
        len(own),
        zombies,
    )


def state_of(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return ""


def mib_of(pid: int) -> float:
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except OSError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / (1 << 20)


def median(samples: Sequence[Sample], name: str) -> float:
    return round(statistics.median(getattr(sample, name) for sample in samples), 1)


def slope_per_hour(samples: Sequence[Sample], name: str) -> float:
    if len(samples) < 2:
        return 0.0
    at, values = [sample.at_s for sample in samples], [getattr(sample, name) for sample in samples]
    return statistics.linear_regression(at, values).slope * 3600


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0)
    parser.add_argument("--port", type=int, default=18480)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        soak = Soak(Path(folder), arguments.minutes, arguments.port)
        try:
            trio.run(soak.run)
            wrong = soak.check()
        finally:
            status = soak.stop()
        print(json.dumps({**soak.report(), "exit status": status}, indent=1))
        if status != 0:
            wrong.append(f"the node ended with status {status}")
    for sentence in wrong:
        print(f"WRONG: {sentence}")
    sys.exit(bool(wrong))


if __name__ == "__main__":
    main()
