"""The node's side of one spawner process: what it shall start, and what becomes of that.

    start   the child's files and all that is known of it go out; what becomes of it is told to its Spawned
    signal  to the group of a child that has not ended
    close   it kills what it has left and ends

Nothing here waits. If the process is killed, what it had started is killed from here, each child is told
that it has ended, and the next start brings a new process.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import marshal
import os
import secrets
import shutil
import signal
import socket
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Final, Protocol

import attrs

import inversion
from inversion import open_files
from inversion.observe import logs
from inversion.processes import spawner_process as wire
from inversion.processes.left_behind import end_marked
from inversion.watch import READABLE, WRITABLE, Watch

#: What functions give way by, while the machine is short of processors: the node and PostgreSQL then get
#: three times the share of a function that spins.
NICE: Final = 5
MOST_NICE: Final = 19  #: Linux knows no more
#: When memory is short the kernel takes functions first, and neither the node nor PostgreSQL.
OOM_SCORE_ADJ: Final = 500
#: Reports taken in one round of the loop: others wait.
_MOST_REPORTS: Final = 64
#: After a spawner was killed all processes are looked through for what it left, for so long: what it was
#: just about to start shows up late.
_HAUNTED_S: Final = 0.5
#: The process sees the standard library first, and of ours only what it imports.
_PROGRAM: Final = (
    "import sys; sys.path.append(sys.argv[1]); from inversion.processes.spawner_process import main; main()"
)
_LIBRARY: Final = str(Path(inversion.__file__).parents[1])
#: The kernel's queue between us is full; or the process is gone, of which we hear in a moment.
_LATER: Final = frozenset((errno.EAGAIN, errno.ENOBUFS, errno.ETOOMANYREFS, errno.EPIPE, errno.ECONNRESET))

_log = logs.get_logger("spawner")


@attrs.frozen(slots=True)
class Confinement:
    """What a spawner does to itself before it starts anything; its children inherit it."""

    basic: bool = False  #: all of the below, no new privileges, umask 077; else nothing
    uid: int | None = None  #: None: the node's own
    limits: tuple[tuple[int, int], ...] = ()  #: resource.RLIMIT_*, and how much


@attrs.frozen(slots=True)
class Start:
    """What is started."""

    program: str  #: absolute
    command: Sequence[str]
    env: Mapping[str, str]
    folder: str
    private: str = ""  #: a folder that the spawner makes for it, and removes at its own end


class Spawned(Protocol):
    """Who is told what becomes of a child. `refused` or `ended` comes once, and last."""

    def started(self, pid: int) -> None:
        """It runs."""

    def refused(self, number: int, where: int) -> None:
        """errno, and at which of wire.AT_*."""

    def unfit(self, reason: str, *, lasting: bool) -> None:
        """There is no spawner: it does not come up, for good or perhaps not. Last, like the other two."""

    def ended(self, code: int, status: int) -> None:
        """It is reaped: si_code and si_status of waitid(2)."""


@attrs.define(slots=True, eq=False)
class _Child:
    told: Spawned
    pid: int = -1  #: not known before it has started
    pidfd: int = -1  #: to be sure of the pid when nobody is left who would reap it


class Spawner:
    """One spawner process, whichever it is just now."""

    def __init__(self, watch: Watch, confinement: Confinement) -> None:
        self.pid: int | None = None  #: None: there is none just now
        self._watch = watch
        self.confinement = confinement
        self._mark = ""  #: of this process, in the environment of all that comes from it
        self._haunted: dict[str, float] = {}  # marks of those that were killed -> looked for until then
        self._node: socket.socket | None = None
        self._pidfd = -1
        self._is_ready = False
        self._unfit = ""
        self._numbers = 0
        self._children: dict[int, _Child] = {}
        self._unsent: deque[tuple[bytes, Sequence[int]]] = deque()
        self._private: set[str] = set()

    def get_ready(self) -> None:
        """Have its process started, which takes some 20 ms, before it is needed. Raises OSError."""
        if self._node is None:
            self._open()

    def start(self, start: Start, files: Sequence[tuple[int, int]], told: Spawned) -> int:
        """Start a child with these (our file, its number); its number for `signal`. They stay ours.

        Raises OSError when this node has no files or processes left.
        """
        if self._node is None:
            self._open()
        self._numbers = number = self._numbers + 1
        request = (
            wire.START,
            number,
            start.program,
            tuple(start.command),
            dict(start.env),
            start.folder,
            start.private,
            tuple(theirs for _, theirs in files),
        )
        self._ask(marshal.dumps(request), [ours for ours, _ in files])
        self._children[number] = _Child(told)
        if start.private:
            self._private.add(start.private)
        return number

    def signal(self, number: int, what: signal.Signals) -> None:
        """To the group of a child. Nothing happens when it has ended."""
        if number in self._children:
            self._ask(marshal.dumps((wire.SIGNAL, number, int(what))), ())

    def sweep(self, now_s: float) -> None:
        """Time has passed: look for what a killed process left behind."""
        for mark, until_s in tuple(self._haunted.items()):
            end_marked(mark)
            if now_s >= until_s:
                del self._haunted[mark]

    def close(self) -> None:
        """It kills what it has left, and ends by itself."""
        if self._node is not None:
            self._watch.remove(self._node.fileno())
            self._node.close()
            self._node = None
            self._drop_unsent()
            self._watch.add(self._pidfd, self._reap)

    def kill(self) -> None:
        """By force, and reaped; what it had to remove is removed from here."""
        self.close()
        if self.pid is not None:
            self._watch.remove(self._pidfd)
            self._bury()
            self._end_children()
        for folder in self._private:
            shutil.rmtree(folder, ignore_errors=True)  # it is still there when its last process was killed

    # -- requests out ------------------------------------------------------------------------------------

    def _open(self) -> None:
        self._mark = secrets.token_hex(8)
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            ours.setblocking(False)
            ours.send(
                marshal.dumps(
                    {
                        "mark": self._mark,
                        "nice": min(os.nice(0) + NICE, MOST_NICE),
                        "oom_score_adj": OOM_SCORE_ADJ,
                        "basic": self.confinement.basic,
                        "uid": self.confinement.uid,
                        "limits": self.confinement.limits,
                    }
                )
            )
            self.pid = _spawn(theirs.fileno())
            try:
                self._pidfd = os.pidfd_open(self.pid)
            except OSError:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                self.pid = None
                raise
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._node = ours
        self._is_ready, self._unfit = False, ""
        self._watch.add(ours.fileno(), self._hear)

    def _ask(self, request: bytes, files: Sequence[int]) -> None:
        if not self._unsent and self._send(request, files):
            return
        held: list[int] = []
        try:
            for file in files:
                held.append(os.dup(file))
        except OSError:
            for file in held:
                os.close(file)
            raise
        self._unsent.append((request, held))
        if len(self._unsent) == 1 and self._node is not None:
            self._watch.change(self._node.fileno(), READABLE | WRITABLE)

    def _send(self, request: bytes, files: Sequence[int]) -> bool:
        """False: it cannot be sent now."""
        assert self._node is not None
        if len(request) > wire.LONGEST_MESSAGE:
            memory = os.memfd_create("inversion-start", os.MFD_CLOEXEC)
            try:
                with open(memory, "wb", closefd=False) as file:
                    file.write(request)
                return self._send(wire.IN_MEMORY_FILE, [memory, *files])
            finally:
                os.close(memory)
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", files))] if files else []
        try:
            self._node.sendmsg([request], ancillary)
        except OSError as error:
            if error.errno in _LATER:
                return False
            raise
        return True

    def _send_on(self) -> None:
        while self._unsent and self._send(*self._unsent[0]):
            for file in self._unsent.popleft()[1]:
                os.close(file)
        if not self._unsent and self._node is not None:
            self._watch.change(self._node.fileno(), READABLE)

    def _drop_unsent(self) -> None:
        while self._unsent:
            for file in self._unsent.popleft()[1]:
                os.close(file)

    # -- reports in --------------------------------------------------------------------------------------

    def _hear(self) -> None:
        for _ in range(_MOST_REPORTS):
            if self._node is None:
                return
            try:
                data, files, _, _ = socket.recv_fds(
                    self._node, wire.LONGEST_MESSAGE, 1, socket.MSG_CMSG_CLOEXEC
                )
            except BlockingIOError:
                break
            except ConnectionError:
                continue  # it had not read all of ours; what it had said before comes all the same
            if not data:
                self._lost()
                return
            self._understand(data, files)
        if self._unsent:
            self._send_on()

    def _understand(self, data: bytes, files: Sequence[int]) -> None:
        kind, number, a, b = wire.REPORT.unpack_from(data)
        if kind == wire.READY:
            self._is_ready = True
        elif kind == wire.UNFIT:
            self._unfit = data[wire.REPORT.size :].decode(errors="replace")
        elif kind == wire.STARTED:
            child = self._children[number]
            child.pid, child.pidfd = a, files[0] if files else -1
            child.told.started(a)
        else:
            child = self._children.pop(number)
            if child.pidfd >= 0:
                os.close(child.pidfd)
            if kind == wire.ENDED:
                child.told.ended(a, b)
            else:
                child.told.refused(a, b)

    # -- its death ---------------------------------------------------------------------------------------

    def _lost(self) -> None:
        """It is gone, or will be at once: end what it had started."""
        assert self._node is not None
        self._watch.close_file(self._node.detach())
        self._node = None
        self._drop_unsent()
        was_ready = self._is_ready
        how = self._bury()
        if was_ready:
            _log.error("a spawner was ended: what it had started is ended too", how=how)
        children = self._end_children()
        for child in children:
            if was_ready:
                child.told.ended(os.CLD_KILLED, signal.SIGKILL)
            else:
                reason = self._unfit or f"its spawner does not come up ({how})"
                child.told.unfit(reason, lasting=bool(self._unfit))

    def _bury(self) -> str:
        """Kill its process and reap it. How it had ended."""
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself
            signal.pidfd_send_signal(self._pidfd, signal.SIGKILL)
        ended = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        os.close(self._pidfd)
        self._pidfd, self.pid = -1, None
        assert ended is not None
        status = "exit status" if ended.si_code == os.CLD_EXITED else "signal"
        return f"{status} {ended.si_status}"

    def _reap(self) -> None:
        """It has ended, as it was told."""
        self._watch.remove(self._pidfd)
        self._bury()
        self._end_children()

    def _end_children(self) -> Sequence[_Child]:
        """Kill what the process had started and anything that comes from it; the children it had."""
        children = list(self._children.values())
        self._children.clear()
        for child in children:
            if child.pidfd >= 0:
                with contextlib.suppress(ProcessLookupError, PermissionError):
                    # While it lives its number is its own, and so is its group's.
                    signal.pidfd_send_signal(child.pidfd, signal.SIGKILL)
                    os.killpg(child.pid, signal.SIGKILL)
                os.close(child.pidfd)
        if children:
            end_marked(self._mark)
            self._haunted[self._mark] = perf_counter() + _HAUNTED_S
        return children


def _spawn(socket_file: int) -> int:
    """Start the process; its pid."""
    file = fcntl.fcntl(socket_file, fcntl.F_DUPFD_CLOEXEC, wire.LOWEST_FILE)
    try:
        with open_files.as_at_start():
            return os.posix_spawn(
                sys.executable,
                [sys.executable, "-I", "-S", "-X", "utf8", "-c", _PROGRAM, _LIBRARY],
                {name: value for name, value in os.environ.items() if name == "LD_LIBRARY_PATH"},
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0),
                    (os.POSIX_SPAWN_DUP2, file, wire.SOCKET_FILE),
                ],
                setsid=True,  # Ctrl-C is for us
                setsigmask=(),
            )
    finally:
        os.close(file)
