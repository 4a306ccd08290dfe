"""One node as the parent has it: a process that is started again when it ends.

The process is `inversion node`, in a group of its own (Ctrl-C is for the parent, who tells it). Its standard
output is its log, whose lines go to ours. A node that keeps ending is started again after pauses, as a
function's process is (protocol/breaker.py).
"""

from __future__ import annotations

import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
from time import perf_counter
from typing import Final

import attrs
import trio

from inversion import open_files
from inversion.http.framing import HttpRequest
from inversion.http.service import HttpResponse
from inversion.nodes.asking import ask
from inversion.nodes.charge import Charge, Word, packed, word_of
from inversion.nodes.handover import hand_over
from inversion.observe import logs
from inversion.processes.child_exit import exited
from inversion.protocol.breaker import Breaker

#: What an interpreter needs until it has read its charge; /proc shows it to every process of the account.
_ENVIRON: Final = frozenset(("PATH", "HOME", "LANG", "TMPDIR", "VIRTUAL_ENV"))
_ENVIRON_BEGINS: Final = ("PYTHON", "LC_", "LD_", "DYLD_")
_COMMAND: Final = (sys.executable, "-P", "-m", "inversion", "node")
_READ_BYTES: Final = 1 << 16
#: A line of the log that is longer is cut: no line of ours is.
_MOST_LINE_BYTES: Final = 1 << 20
#: The last words of a node that has ended: something that it started may keep the pipe open.
_LAST_WORDS_S: Final = 0.5

_log = logs.get_logger("nodes")


class NodeGone(Exception):
    """There is no process that could be asked just now."""


@attrs.frozen(slots=True, eq=False)
class _Life:
    """One process of a node."""

    process: subprocess.Popen[bytes]
    control: socket.socket  #: never blocks


class Member:
    """A node with its number. `run` it as a task."""

    def __init__(self, number: int, charge: Charge) -> None:
        self.number = number
        self.word = trio.Event()  #: it has been up, or cannot start
        self.said: Word | None = None
        self.is_up = False
        self.starts = 0
        self.drained = True  #: its process of the end, if it was up, has left nothing unanswered
        self._charge = charge
        self._life: _Life | None = None
        self._stopping = False
        self._pause = trio.CancelScope()
        self._breaker = Breaker()

    @property
    def pid(self) -> int | None:
        return None if self._life is None else self._life.process.pid

    async def run(self) -> None:
        """Keep a process running until `stop`. Cancelled: it is killed."""
        while not self._stopping:
            begun_s = perf_counter()
            self._breaker.started(begun_s)
            status = await self._live()
            now_s = perf_counter()
            if self._stopping or (self.starts == 1 and self.said is not None and self.said.failure):
                return
            if status == 0:
                _log.info("a node has ended and is started again", node=self.number)
                continue
            self._breaker.lives(now_s, begun_s)
            self._breaker.died(now_s, random.random(), spoken=True)
            pause_s = max(0.0, self._breaker.next_start_s - now_s)
            _log.error("a node ended", node=self.number, status=status, starts_again_in_s=round(pause_s, 2))
            with trio.CancelScope() as self._pause:
                await trio.sleep(pause_s)

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Send the signal and start no other process."""
        self._stopping = True
        self._pause.cancel()
        if self._life is not None and self._life.process.poll() is None:
            self._life.process.send_signal(number)

    async def ask(self, request: HttpRequest) -> HttpResponse:
        """Its answer. Raises NodeGone when it cannot be asked, InversionError when it ends meanwhile."""
        if self._life is None:
            raise NodeGone
        try:
            stream = hand_over(self._life.control)
        except OSError:
            raise NodeGone from None
        return await ask(stream, request)

    async def _live(self) -> int:
        """One process from start to end; its status, negative for a signal."""
        ours, theirs = socket.socketpair()
        with contextlib.ExitStack() as closing:
            with theirs:
                control = closing.enter_context(trio.socket.from_stdlib_socket(ours))
                process = self._start(theirs.fileno())
            self.starts += 1
            self._life = _Life(process, ours)
            try:
                await self._accompany(process, control)
            finally:
                self._life, was_up, self.is_up = None, self.is_up, False
                if process.poll() is None:
                    process.kill()
                process.wait()
                if was_up and self._stopping and process.returncode != 0:
                    self.drained = False
        return process.returncode

    def _start(self, control: int) -> subprocess.Popen[bytes]:
        environ = {
            name: value
            for name, value in os.environ.items()
            if name in _ENVIRON or name.startswith(_ENVIRON_BEGINS)
        }
        with open_files.as_at_start():
            return subprocess.Popen(
                [*_COMMAND, "--number", str(self.number), "--control", str(control)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                pass_fds=(control, *self._charge.listening),
                env=environ,
                process_group=0,
            )

    async def _accompany(self, process: subprocess.Popen[bytes], control: trio.socket.SocketType) -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        with process.stdin, process.stdout:
            async with (
                trio.lowlevel.FdStream(os.dup(process.stdin.fileno())) as lifeline,
                trio.lowlevel.FdStream(os.dup(process.stdout.fileno())) as log,
                trio.open_nursery() as nursery,
            ):
                process.stdin.close()  # `lifeline` is the one end there is
                heard, relayed = trio.Event(), trio.Event()
                nursery.start_soon(self._hear, control, heard)
                nursery.start_soon(_relay, log, relayed)
                with contextlib.suppress(trio.BrokenResourceError):
                    await lifeline.send_all(packed(self._charge))
                await exited(process)
                with trio.move_on_after(_LAST_WORDS_S):
                    await heard.wait()
                    await relayed.wait()
                nursery.cancel_scope.cancel()

    async def _hear(self, control: trio.socket.SocketType, done: trio.Event) -> None:
        """Its word, until its end."""
        data = b""
        with contextlib.suppress(ConnectionResetError):
            while more := await control.recv(_READ_BYTES):
                data += more
                if (word := word_of(data)) is not None:
                    data = b""
                    self.said = word
                    self.is_up = word.failure is None
                    if word.failure is not None and self.word.is_set():
                        _log.error("a node cannot start", node=self.number, reason=word.failure)
                    self.word.set()
        done.set()


async def _relay(log: trio.abc.ReceiveStream, done: trio.Event) -> None:
    """Whole lines only: two nodes that write into one pipe would mix up those over 4 KiB."""
    kept = b""
    while data := await log.receive_some(_READ_BYTES):
        *lines, kept = (kept + data).split(b"\n")
        for line in lines:
            logs.relay(line.decode("utf-8", "replace"))
        kept = kept[:_MOST_LINE_BYTES]
    done.set()
