"""A supervisor with real processes, and turns walked through its pools as a mailbox does."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from time import perf_counter

import trio

from inversion.config import Config, Function, Limits
from inversion.gate import Walk
from inversion.messages import MessageIn, MessageOut, Request, State, Turn
from inversion.observe.metrics import Counters
from inversion.processes.supervisor import Supervisor
from inversion.watch import Watch
from plain import a_request, a_turn

NO_STATE_YET = State(value=None, version=0, turn=None)

#: A runtime in a few lines: `answer(frame)` returns what goes out beside the id.
SHIM = """
import json, os, sys, time
def out(frame):
    sys.stdout.write(json.dumps(frame) + "\\n"); sys.stdout.flush()
def serve(answer):
    for line in sys.stdin:
        frame = json.loads(line)
        out({"id": frame["id"], **answer(frame)})
"""


def python(folder: Path, code: str, name: str = "fn", **settings: object) -> Function:
    """A function that is a Python program with `out` and `serve` at hand."""
    path = folder / f"{name}.py"
    path.write_text(SHIM + textwrap.dedent(code))
    return Function(name, (sys.executable, str(path)), folder, **settings)  # type: ignore[arg-type]


class Serving:
    """What a test holds while its functions run."""

    def __init__(self, config: Config) -> None:
        self.logs: list[tuple[str, str, str]] = []
        self.watch = Watch()
        self.supervisor = Supervisor(config, self._log, self.watch, Counters.of(config.functions))
        self._logged = trio.Event()
        self._numbers = iter(range(1, 1_000_000))

    def pool(self, name: str = "fn"):
        return self.supervisor.pools[name]

    def request(self, body: bytes = b"1", key: str | None = "k", **settings: object) -> Request:
        return a_request(key, body, n=next(self._numbers), **settings)  # type: ignore[arg-type]

    async def call(
        self, body: bytes = b"1", *, key: str | None = "k", state: State = NO_STATE_YET, name: str = "fn"
    ) -> MessageOut:
        """One message through the pool. Raises what it failed with."""
        return await self.run(a_turn(self.request(body, key)), state, name)

    async def run(self, turn: Turn, state: State = NO_STATE_YET, name: str = "fn") -> MessageOut:
        outs: list[MessageOut] = []
        errors: list[Exception | None] = []
        done = trio.Event()

        async def steps() -> None:
            sent = await self.pool(name).send_message_in(MessageIn.of(turn, state))
            outs.append(await sent.receive_message_out())

        def ended(error: Exception | None) -> None:
            errors.append(error)
            done.set()

        Walk(steps(), ended).start()
        await done.wait()
        if errors[0] is not None:
            raise errors[0]
        return outs[0]

    async def logged(self, text: str) -> None:
        """Wait until a log line contains `text`."""
        while not any(text in line for _, _, line in self.logs):
            self._logged = trio.Event()
            await self._logged.wait()

    def _log(self, *line: str) -> None:
        function, stream, text = line
        self.logs.append((function, stream, text))
        self._logged.set()


@asynccontextmanager
async def serving(*functions: Function, limits: Limits | None = None) -> AsyncIterator[Serving]:
    """Run a supervisor for these functions, under a timeout, with its sweep every 10 ms."""
    served = Serving(Config({function.name: function for function in functions}, limits or Limits()))
    with closing(served.watch), trio.fail_after(15):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(served.watch.run)
            await nursery.start(served.supervisor.run)
            nursery.start_soon(_sweep, served.supervisor)
            yield served
            nursery.cancel_scope.cancel()


async def _sweep(supervisor: Supervisor) -> None:
    while True:
        supervisor.sweep(perf_counter())
        await trio.sleep(0.01)


async def until(happened: Callable[[], bool]) -> None:
    """Look until it is so; the caller has the timeout."""
    while not happened():  # noqa: ASYNC110  # another process makes it so
        await trio.sleep(0.005)


async def gone(pid: int) -> None:
    """Wait until no process has this id (a zombie whose parent is not ours does not count)."""
    await until(lambda: not _alive(pid))


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


async def together(*calls) -> Sequence[object]:
    """Run them at the same time: their results, or what they raised."""
    results: list[object] = [None] * len(calls)

    async def run(number: int, call) -> None:
        try:
            results[number] = await call
        except Exception as error:
            results[number] = error

    async with trio.open_nursery() as nursery:
        for number, call in enumerate(calls):
            nursery.start_soon(run, number, call)
    return results
