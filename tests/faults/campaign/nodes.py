"""`inversion serve`, one or several on one database, each a process of its own that is started again."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter_ns
from typing import Final

import attrs
import orjson
import trio
from tests.faults.campaign import chimes
from tests.faults.campaign.cuts import Wire
from tests.faults.history.models import DRAW, PROGRAM
from tests.faults.soak import below
from tests.http.front_door import Client, EndOfAnswers, get

ROOT: Final = Path(__file__).parents[3]
MODELS: Final = ("register", "counter", "journal", "bank", "life", PROGRAM, DRAW)
START_S: Final = 60.0
#: Long enough for a database to recover meanwhile, short enough that a call that hangs is seen.
FUNCTION_TIMEOUT: Final = "2s"
LAST_LINES: Final = 20  #: of a log
#: Functions that talk: whatever befalls them, no message is ever given up.
TALKING: Final = 'retry = { attempts = 1_000, pause = "20ms", longest_pause = "300ms" }'
#: To the server outside (orders.py), until it has answered.
OUTSIDE: Final = """allow = ["127.0.0.1"]
timeout = "3s"
retry = { attempts = 1_000, pause = "50ms", longest_pause = "300ms" }
"""

_FUNCTION = """
[functions.{name}]
command = ["{program}", "{file}"]
timeout = "{timeout}"
processes = {{ min = 1, max = {processes} }}
state = {state}
sandbox = "none"  # as root serve refuses what an account of its own cannot read: the tests' Python
"""


def write_functions(folder: Path) -> list[str]:
    """A node's folder: all of Python, and three of node where there is one; the functions' names."""
    here = Path(__file__).parent
    folder.mkdir()
    shutil.copy(here / "entities.py", folder)
    shutil.copy(ROOT / "runtimes/python/shim.py", folder)
    names = [f"{model}-py" for model in MODELS]
    if shutil.which("node"):
        shutil.copy(here / "entities.js", folder)
        shutil.copy(ROOT / "runtimes/node/shim.js", folder)
        names += ["counter-js", "life-js", f"{PROGRAM}-js"]
    toml = f"[http]\nread_state = true\n{OUTSIDE}"
    for name in names:
        program, file = ("node", "entities.js") if name.endswith("js") else (sys.executable, "entities.py")
        toml += _FUNCTION.format(
            name=name,
            program=program,
            file=file,
            timeout=FUNCTION_TIMEOUT,
            processes=2,
            state=str(not name.startswith(DRAW)).lower(),
        )
    shutil.copy(here / "couriers.py", folder)
    toml += _FUNCTION.format(
        name="courier-py",
        program=sys.executable,
        file="couriers.py",
        timeout=FUNCTION_TIMEOUT,
        processes=5,  # three nap
        state="true",
    )
    toml += TALKING + chimes.TOML
    (folder / "inversion.toml").write_text(toml)
    return names


@attrs.define(eq=False)
class Node:
    """One of them; `url` changes with every life."""

    name: str
    folder: Path
    wire: Wire
    program: Sequence[str] = ("-m", "inversion")
    environ: Mapping[str, str] = attrs.field(factory=dict)
    kept: Path | None = None  #: what outlives the run's folder, for the logs of bad ends
    process: subprocess.Popen[bytes] | None = None
    url: str = ""
    admin_url: str = ""
    lives: int = 0
    disturbed_ns: int = 0  #: when it was last killed, stopped or continued: calls before that may be late
    struck_ns: int = 0  #: when something befell it or what it stands on
    up: bool = False
    counted: dict[str, float] = attrs.field(factory=dict)  #: of all lives before this one
    latest: dict[str, float] = attrs.field(factory=dict)  #: of this one, as last seen

    @property
    def log(self) -> Path:
        return self.folder / f"{self.name}.{self.lives}.log"

    async def start(self) -> None:
        self.lives += 1
        command = [sys.executable, *self.program, "serve", "--config", str(self.folder)]
        command += ["--database-url", self.wire.url, "--port", "0", "--admin-port", "0"]
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(  # noqa: ASYNC220 (a millisecond)
                command, stdout=log, stderr=subprocess.STDOUT, env={**os.environ, **self.environ}
            )
        with trio.fail_after(START_S):
            while (started := self._start_line()) is None:
                if self.process.poll() is not None:
                    raise RuntimeError(f"{self.name} did not start: {self.log.read_text()[-2000:]}")
                await trio.sleep(0.05)
        self.url, self.admin_url = started
        self.up = True

    def _start_line(self) -> tuple[str, str] | None:
        for line in self.log.read_bytes().splitlines(keepends=True):
            if line.endswith(b"\n") and b'"started"' in line:
                event = orjson.loads(line)
                return event["url"], event["admin_url"]
        return None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def functions(self) -> list[int]:
        """The pids of its functions' processes."""
        return [
            pid
            for pid, command in below(self.pid)
            if ("entities." in command or "couriers." in command) and "spawner" not in command
        ]

    def signal(self, how: signal.Signals) -> None:
        self.disturbed_ns = perf_counter_ns()
        os.kill(self.pid, how)

    async def end(self, how: signal.Signals) -> int:
        """Its exit status."""
        self.up = False
        for name, value in self.latest.items():
            self.counted[name] = self.counted.get(name, 0.0) + value
        self.latest = {}
        assert self.process is not None
        if self.process.poll() is None:
            self.signal(how)
        with trio.fail_after(START_S):
            while (status := self.process.poll()) is None:  # noqa: ASYNC110 (another process)
                await trio.sleep(0.02)
        self.disturbed_ns = perf_counter_ns()
        if status != (0 if how is signal.SIGTERM else -how):
            self._keep_log(status)
        return status

    def _keep_log(self, status: int) -> None:
        """Of a bad end. Its last lines are printed: from elsewhere they are all that one sees."""
        if self.kept is None:
            return
        self.kept.mkdir(parents=True, exist_ok=True)
        log = Path(shutil.copy(self.log, self.kept))
        last = b"".join(log.read_bytes().splitlines(keepends=True)[-LAST_LINES:]).decode(errors="replace")
        print(f"{self.name} ended with {status}, its log is {log}, and ends with:\n{last}", file=sys.stderr)

    async def look(self) -> None:
        """Read its counters, if it answers."""
        with trio.move_on_after(2):
            try:
                client = await connect(self.admin_url)
                async with client.stream:
                    await client.send(get(b"/metrics"))
                    text = (await client.answer()).body.decode()
            except (OSError, trio.BrokenResourceError, EndOfAnswers):
                return
            self.latest = {}
            for line in text.splitlines():
                name, _, value = line.partition(" ")
                if name.startswith("inversion_") and "{" not in name:
                    self.latest[name.removeprefix("inversion_").removesuffix("_total")] = float(value)

    def count(self, name: str) -> int:
        return int(self.counted.get(name, 0.0) + self.latest.get(name, 0.0))


async def connect(url: str) -> Client:
    host, _, port = url.removeprefix("http://").rpartition(":")
    return Client(await trio.open_tcp_stream(host, int(port)))
