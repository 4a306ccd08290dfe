"""The spawner: a small process that starts children for a node and outlives none of them.

Run by the node with `python -I -S` and one end of a SOCK_SEQPACKET pair as file 3; imports next to nothing.

    in    (START, number, program, arguments, environment, folder, private folder, files) + the files
          (SIGNAL, number, signal): to the group of that child
    out   READY | UNFIT why | STARTED number pid + pidfd | REFUSED number errno | ENDED number code status

It confines itself before it says READY; what it starts inherits that. When a child ends, the rest of its
group is killed before it is reaped, then whoever left that group. When the node's end of the socket is
closed, by whatever death, it kills all that lives below it, removes the private folders and ends.
"""

from __future__ import annotations

import array
import errno
import fcntl
import marshal
import os
import select
import signal
import socket
import struct
import sys
from collections.abc import Mapping
from time import monotonic
from typing import Any, Final

from inversion.processes.confine import NiceSession, be_nice, confine, remove_tree

START: Final = 1
SIGNAL: Final = 2

READY: Final = 1
UNFIT: Final = 2
STARTED: Final = 3
REFUSED: Final = 4
ENDED: Final = 5

#: What a report is: kind, number, and two that depend on the kind. UNFIT has a text behind it.
REPORT: Final = struct.Struct("=BIii")
#: A longer request travels in a memory file, the first of its files: the kernel limits one message's size.
LONGEST_MESSAGE: Final = 64 << 10
IN_MEMORY_FILE: Final = b"\0"
#: REFUSED: it was the folder, not the program; or the private folder.
AT_PROGRAM, AT_FOLDER, AT_PRIVATE = range(3)
#: In every child's environment: "spawner.number", by which a process is known that left its group.
MARK: Final = "INVERSION_CHILD"
#: The file number of the socket at start.
SOCKET_FILE: Final = 3
#: No file that is passed on may have a number that a child's shall get. Below this all are taken at start.
LOWEST_FILE: Final = 16
#: Python, and so we, ignore these or handle them; a child shall find the default.
_DEFAULT_SIGNALS: Final = (
    signal.SIGPIPE,
    signal.SIGXFSZ,
    signal.SIGINT,
    signal.SIGQUIT,  # ignored with SIGINT by what a shell starts with &
    signal.SIGTERM,
    signal.SIGHUP,
)
#: In the middle of an exec a process has no environment to show: only one that shows none for so long is
#: taken for one that has shed it.
_SURE_S: Final = 0.1
#: Between two looks at what cannot be told at once.
_LOOK_AGAIN_MS: Final = 10


class Spawner:
    """What it has started, and what was left to it."""

    def __init__(self, node: socket.socket, settings: Mapping[str, Any], session: NiceSession) -> None:
        self._node = node
        self._mark = settings["mark"]
        self._nice = settings["nice"]
        self._session = session
        self._leaders: dict[int, int] = {}  # pid -> number; not reaped, so the pid is still its own
        self._pids: dict[int, int] = {}  # number -> pid
        self._adopted: dict[int, int | None] = {}  # pid -> number of the child it comes from
        self._unsure: dict[int, float] = {}  # pid -> since when it shows nothing
        self._private: set[str] = set()
        try:
            self._children = os.open(f"/proc/self/task/{os.getpid()}/children", os.O_RDONLY)
        except OSError:
            self._children = -1  # a kernel without that file: all of /proc is looked through
        self._woken, wake = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wake, warn_on_full_buffer=False)

    def serve(self) -> None:
        """Until the node is gone."""
        poll = select.poll()
        poll.register(self._node, select.POLLIN)
        poll.register(self._woken, select.POLLIN)
        while True:
            ready = [file for file, _ in poll.poll(_LOOK_AGAIN_MS if self._unsure else None)]
            if self._unsure:
                self._chase()
            if self._woken in ready:
                self._sleep_again()
                self._reap()
            if self._node.fileno() in ready and not self._take_request():
                return

    def end(self) -> None:
        """Kill everything below this process, and leave nothing in the private folders."""
        for pid in self._leaders:
            _kill(os.killpg, pid)
            _kill(os.kill, pid)
        self._pids.clear()  # nobody belongs to a living child any more
        poll = select.poll()
        poll.register(self._woken, select.POLLIN)
        while self._reap():
            self._chase()
            poll.poll(_LOOK_AGAIN_MS)
            self._sleep_again()
        for folder in self._private:
            remove_tree(folder)

    # -- requests ----------------------------------------------------------------------------------------

    def _take_request(self) -> bool:
        try:
            data, ancillary, _, _ = self._node.recvmsg(
                LONGEST_MESSAGE, socket.CMSG_SPACE(16 * 4), socket.MSG_CMSG_CLOEXEC
            )
        except ConnectionError:
            return False
        files = array.array("i")
        for level, kind, content in ancillary:
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
                files.frombytes(content[: len(content) - len(content) % files.itemsize])
        try:
            if not data:
                return False
            if data == IN_MEMORY_FILE:
                data = os.pread(files[0], os.fstat(files[0]).st_size, 0)
                self._start(marshal.loads(data), files[1:])
                return True
            request = marshal.loads(data)
            if request[0] == START:
                self._start(request, files)
            elif (pid := self._pids.get(request[1])) is not None:
                _kill(os.killpg, pid, request[2])
                if request[2] == signal.SIGKILL:
                    _kill(os.kill, pid)  # it may have gone to another group of our session
        finally:
            for file in files:
                os.close(file)
        return True

    def _start(self, request: tuple[Any, ...], files: array.array[int]) -> None:
        _, number, program, arguments, environment, folder, private, numbers = request
        environment[MARK] = f"{self._mark}.{number}"
        where = AT_PRIVATE
        try:
            if private:
                self._make_private(private)
            where = AT_FOLDER
            os.chdir(folder)
            where = AT_PROGRAM
            if len(files) != len(numbers):
                raise OSError(errno.EMFILE, "the kernel had no number left for them")
            pid = os.posix_spawn(
                program,
                arguments,
                environment,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, ours, theirs) for ours, theirs in zip(files, numbers, strict=True)
                ],
                setpgroup=0,
                setsigmask=(),
                setsigdef=_DEFAULT_SIGNALS,
            )
        except (OSError, ValueError) as error:  # the latter: a NUL in an argument
            self._report(REFUSED, number, getattr(error, "errno", errno.EINVAL), where)
            return
        self._leaders[pid] = number
        self._pids[number] = pid
        be_nice(pid, self._nice)
        self._session.insist()
        try:
            pidfd = os.pidfd_open(pid)
        except OSError:  # no file number is left; it only serves the day when we are killed
            self._report(STARTED, number, pid)
            return
        try:
            self._report(STARTED, number, pid, pidfd=pidfd)
        finally:
            os.close(pidfd)

    def _make_private(self, folder: str) -> None:
        if folder in self._private:
            return
        try:
            os.mkdir(folder, 0o700)
        except FileExistsError:
            # An earlier spawner of this node was killed. Nobody else can have made it: it is this account's.
            info = os.lstat(folder)
            if info.st_uid != os.geteuid() or not os.path.isdir(folder) or os.path.islink(folder):
                raise
        self._private.add(folder)

    def _report(self, kind: int, number: int, a: int = 0, b: int = 0, *, pidfd: int = -1) -> None:
        ancillary = [] if pidfd < 0 else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", (pidfd,)))]
        try:
            self._node.sendmsg([REPORT.pack(kind, number, a, b)], ancillary)
        except ConnectionError:
            return  # the node is gone, which `serve` is about to read
        except OSError:
            if pidfd < 0:
                raise
            self._report(kind, number, a, b)  # too many files are on their way: without this one

    # -- ends --------------------------------------------------------------------------------------------

    def _sleep_again(self) -> None:
        try:
            os.read(self._woken, 4096)
        except BlockingIOError:
            return

    def _reap(self) -> bool:
        """Reap what has ended; False: there is no child left."""
        reaped = False
        while True:
            try:
                ended = os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT)
            except ChildProcessError:
                return False
            if ended is None:
                break
            reaped = True
            pid = ended.si_pid
            number = self._leaders.pop(pid, None)
            if number is not None:
                _kill(os.killpg, pid)
                self._pids.pop(number, None)
            os.waitid(os.P_PID, pid, os.WEXITED)
            self._adopted.pop(pid, None)
            if number is not None:
                self._report(ENDED, number, ended.si_code, ended.si_status)
        if reaped:
            self._chase()
        return True

    def _chase(self) -> None:
        """Kill what was left to us, but for what can be shown to belong to a child that lives.

        It shows by its group, or by the mark in its environment. Who has shed both goes with the next
        child that ends: better that than a process which nobody ends.
        """
        unsure: dict[int, float] = {}
        now_s = monotonic()
        for pid in self._children_now():
            if pid in self._leaders:
                continue
            if pid not in self._adopted and self._pids:
                comes_from = self._comes_from(pid)
                since_s = self._unsure.get(pid, now_s)
                if comes_from is None and now_s - since_s < _SURE_S:
                    unsure[pid] = since_s
                    continue
                self._adopted[pid] = comes_from
            if self._adopted.get(pid) not in self._pids:
                _kill(os.killpg, pid)  # it is the first of a group, perhaps
                _kill(os.kill, pid)
        self._unsure = unsure

    def _comes_from(self, pid: int) -> int | None:
        try:
            leader = os.getpgid(pid)
            if leader in self._leaders:
                return self._leaders[leader]
            with open(f"/proc/{pid}/environ", "rb") as file:
                environment = file.read()
        except OSError:
            return None  # it has ended, or it is another account's
        begins = f"{MARK}={self._mark}.".encode()
        for entry in environment.split(b"\0"):
            if entry.startswith(begins) and (number := entry[len(begins) :]).isdigit():
                return int(number)
        return None

    def _children_now(self) -> list[int]:
        if self._children >= 0:
            return [int(pid) for pid in os.pread(self._children, 1 << 20, 0).split()]
        ours = os.getpid()
        return [int(name) for name in os.listdir("/proc") if name.isdigit() and _parent(name) == ours]


def _parent(pid: str) -> int:
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[1])
    except OSError:
        return 0  # it has just ended


def _kill(send: Any, pid: int, number: int = signal.SIGKILL) -> None:
    try:
        send(pid, number)
    except (ProcessLookupError, PermissionError):
        return  # there is none; or it runs as somebody else (setuid)


def _close_files_of_others() -> None:
    """What the node was started with and what it left inheritable."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) > SOCKET_FILE:
            try:
                os.close(int(name))
            except OSError:
                continue  # the listing's own is closed by now


def main() -> None:
    _close_files_of_others()
    file = fcntl.fcntl(SOCKET_FILE, fcntl.F_DUPFD_CLOEXEC, LOWEST_FILE)
    os.close(SOCKET_FILE)
    while (filler := os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC)) < LOWEST_FILE - 1:
        continue
    if filler >= LOWEST_FILE:
        os.close(filler)
    node = socket.socket(fileno=file)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # it ends with its node: others are not told of the order
    settings = marshal.loads(node.recv(LONGEST_MESSAGE))
    try:
        session = NiceSession(settings["nice"])
        confine(settings)
        spawner = Spawner(node, settings, session)
    except (OSError, ValueError) as error:
        node.send(REPORT.pack(UNFIT, 0, 0, 0) + str(error).encode())
        sys.exit(1)
    try:
        node.send(REPORT.pack(READY, 0, 0, 0))
    except BrokenPipeError:
        return  # the node could not start, and is gone
    spawner.serve()
    spawner.end()
