"""The process that is checked: what it is sent, what it writes, how it ends.

`Peers` starts them as the node would (the same environment, the same words when a command cannot run), and
none outlives it. A `Peer` takes bytes without waiting and gives lines under a time limit; what it writes to
stderr is kept beside. A line is what ends with 0x0A: what else is left at the end is `held`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, closing
from pathlib import Path
from time import perf_counter
from typing import Final

import trio

from inversion.config import Function, Sandbox
from inversion.processes.child import Child, Exit, Failure, Recipe, read_some, widen_pipe, write_some
from inversion.processes.sandbox import Sandboxes
from inversion.processes.spawners import Spawners
from inversion.watch import WRITABLE, Watch

#: How often stderr, farewells and leftovers are looked after.
_SWEEP_S: Final = 0.05
#: What a process may write that nobody has asked for; one that floods is ended.
_MOST_BYTES: Final = 256 << 20
#: A spawner starts a process within a few of them.
_START_LOOK_S: Final = 0.002
#: After KILL a process is gone in milliseconds.
_REAP_S: Final = 5.0
#: Log lines kept of one process.
_MOST_LOGGED: Final = 1_000


class Peer:
    """One process."""

    def __init__(self, recipe: Recipe, watch: Watch) -> None:
        self.lines: deque[bytes] = deque()  #: written, and not yet taken
        self.is_over = False  #: its output has ended
        self.is_deaf = False  #: it closed its stdin, or is gone
        self.logged: deque[str] = deque(maxlen=_MOST_LOGGED)  #: the last lines of stderr
        self.sent_bytes = 0
        self._watch = watch
        self._held: list[bytes] = []
        self._unread_bytes = 0
        self._unsent: deque[memoryview] = deque()
        self._is_writing = False
        self._closes = False
        self._is_held = False
        self._changed = trio.Event()
        self.child = Child(recipe, watch, self._log, self._exited)
        widen_pipe(self.child.stdin)
        watch.add(self.child.stdout, self._read)

    @property
    def held(self) -> bytes:
        """What it has written behind its last newline."""
        return b"".join(self._held)

    @property
    def unsent_bytes(self) -> int:
        """What it has not taken from its pipe."""
        return sum(len(part) for part in self._unsent)

    @property
    def exit(self) -> Exit | None:
        """How it ended; None: it runs."""
        return self.child.exit

    def send(self, data: bytes) -> None:
        """Give it these bytes, as fast as it takes them. What comes after its death is lost."""
        if data and not self.is_deaf:
            self.sent_bytes += len(data)
            self._unsent.append(memoryview(data))
            if not self._is_writing:
                self._write()

    def close_stdin(self) -> None:
        """The end of its input, behind what was sent."""
        self._closes = True
        if not self._unsent:
            self.child.close_stdin()

    def hold(self) -> None:
        """Do not read its output, until a line is asked for."""
        if not self.is_over and not self._is_held:
            self._is_held = True
            self._watch.remove(self.child.stdout)

    def _resume(self) -> None:
        if self._is_held:
            self._is_held = False
            if not self.is_over and self.child.stdout >= 0:
                self._watch.add(self.child.stdout, self._read)

    async def until(self, ready: Callable[[], bool], within_s: float) -> bool:
        """Wait until that is so, or until nothing more can come; False: it took too long."""
        with trio.move_on_after(within_s):
            while not ready():
                if self.is_over and self.exit is not None:
                    return ready()
                await self._changed.wait()
            return True
        return ready()

    async def started(self) -> Failure | None:
        """Wait until it runs, or cannot: then why."""
        while self.child.pid is None and self.exit is None:  # noqa: ASYNC110 (nobody tells of it)
            await trio.sleep(_START_LOOK_S)
        return self.child.failure

    async def line(self, within_s: float) -> bytes | None:
        """Its next line; None: there is none within that time, or ever."""
        self._resume()
        await self.until(lambda: bool(self.lines) or self.is_over, within_s)
        return self.lines.popleft() if self.lines else None

    async def end(self) -> None:
        """By force, and reaped. (Its stderr is then read to its end.)"""
        if self.exit is None:
            self.child.kill()
        with trio.CancelScope(shield=True):
            await self.until(lambda: self.exit is not None, _REAP_S)

    def _write(self) -> None:
        while self._unsent:
            written = write_some(self.child.stdin, self._unsent[0])
            if written is None:
                self.is_deaf = True
                self._unsent.clear()
                break
            if written < len(self._unsent[0]):
                self._unsent[0] = self._unsent[0][written:]
                if not self._is_writing:
                    self._is_writing = True
                    self._watch.add(self.child.stdin, self._write, WRITABLE)
                return
            self._unsent.popleft()
        if self._is_writing:
            self._is_writing = False
            self._watch.remove(self.child.stdin)
        if self._closes or self.is_deaf:
            self.child.close_stdin()
        self._tell()

    def _read(self) -> None:
        data = read_some(self.child.stdout)
        if data is None:
            return
        if not data:
            self._output_ended()
            return
        *lines, rest = data.split(b"\n")
        if lines:
            self.lines.append(b"".join((*self._held, lines[0])))
            self.lines.extend(lines[1:])
            self._held.clear()
        if rest:
            self._held.append(rest)
        self._unread_bytes += len(data)
        if self._unread_bytes > _MOST_BYTES:
            self.child.kill()
        self._tell()

    def _output_ended(self) -> None:
        if not self.is_over:
            self.is_over = True
            self._watch.remove(self.child.stdout)
            self._tell()

    def _exited(self) -> None:
        while not self.is_over and self.child.stdout >= 0:
            before = self._unread_bytes
            self._read()
            if self._unread_bytes == before:
                self._output_ended()  # a grandchild may hold the pipe: nothing more is waited for
        self.is_deaf = True
        self._unsent.clear()
        self.child.close()
        self._tell()

    def _log(self, function: str, stream: str, text: str) -> None:
        self.logged.append(text)

    def _tell(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


class Peers:
    """Starts processes of one command."""

    def __init__(self, recipe: Recipe, watch: Watch) -> None:
        self._recipe = recipe
        self._watch = watch
        self._all: list[Peer] = []

    def start(self) -> Peer:
        """A new process. Raises OSError when there are no files or processes left."""
        peer = Peer(self._recipe, self._watch)
        self._all.append(peer)
        return peer

    async def end(self) -> None:
        """All that still run, by force."""
        for peer in self._all:
            await peer.end()

    def sweep(self, now_s: float) -> None:
        """Every 50 ms."""
        self._all = [peer for peer in self._all if peer.exit is None]
        for peer in self._all:
            peer.child.sweep(now_s)


@asynccontextmanager
async def peers_of(command: Sequence[str], folder: Path) -> AsyncIterator[Peers]:
    """Start processes within this block; all of them, and what they started, end with it.

    Raises CannotStart if there is no such program.
    """
    with closing(Watch()) as watch:
        spawners = Spawners(watch)
        function = Function("check", tuple(command), folder, sandbox=Sandbox.NONE)
        peers = Peers(Recipe.of(function, Sandboxes(spawners, lenient=True)), watch)
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch.run)
                nursery.start_soon(_sweep, peers, spawners)
                try:
                    yield peers
                finally:
                    with trio.CancelScope(shield=True, deadline=trio.current_time() + _REAP_S):
                        await peers.end()
                        await spawners.close()
                    nursery.cancel_scope.cancel()
        except BaseExceptionGroup as group:
            if len(group.exceptions) > 1:
                raise
            raise group.exceptions[0] from None  # what happened in the block, as it was


async def _sweep(peers: Peers, spawners: Spawners) -> None:
    while True:
        await trio.sleep(_SWEEP_S)
        peers.sweep(perf_counter())
        spawners.sweep(perf_counter())
