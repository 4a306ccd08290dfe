"""One embedded cluster, for as long as `run` runs.

Lifecycle: take the lock, find binaries, settle the place, initdb when there is no cluster, end what a
killed owner left behind, start, wait until ready, `started(conninfo)`; start again whenever the server
dies; on cancel SIGINT, SIGQUIT, SIGKILL, reaped. If this process is killed the kernel sends the
postmaster SIGQUIT. All lies in one folder: postgres/ (data), socket/, postgres.lock, postgres.log.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import trio

from inversion.embedded.binaries import Binaries, EmbeddedUnavailable, find_binaries
from inversion.embedded.leftovers import POLL_S, end_leftovers, pid_file_text
from inversion.embedded.place import STATE_FOLDER, SUPERUSER, Account, Place, settle
from inversion.processes.child_exit import exited

SLOW_START_S = 10.0  #: crash recovery may take minutes; a sentence in the log every so often
RESTART_MIN_S, RESTART_MAX_S = 0.1, 1.0  #: a full disk that has space again is to be noticed soon
STEADY_S = 30.0  #: after a life this long the next start is an attempt like the first
FAREWELL = ((signal.SIGINT, 5.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))  #: fast, immediate, by force
HURRIED = ((signal.SIGQUIT, 1.0), (signal.SIGKILL, 5.0))  #: nothing is lost, the next start recovers
LOG_BYTES = 8 << 20  #: a longer postgres.log becomes postgres.log.1 at start
LOG_TAIL_BYTES = 1_500

SETTINGS = (
    "listen_addresses=",
    "unix_socket_permissions=0700",
    "port=5432",
    "max_connections=100",  # a node uses four; the rest is for more nodes, people and the 64 clients of bench
    "fsync=on",  # said here, nothing in the data folder can weaken these three
    "full_page_writes=on",
    "synchronous_commit=on",
    "logging_collector=off",
    "log_destination=stderr",
    "log_line_prefix=%m [%p] ",
)


class EmbeddedPostgres:
    """The cluster in `folder`, which is the `.inversion` beside the config."""

    def __init__(
        self,
        folder: Path,
        *,
        log: Callable[[str], None] = lambda sentence: None,
        environ: Mapping[str, str] = os.environ,
        namespaces: bool = True,
        state_folder: Path = STATE_FOLDER,
    ) -> None:
        self.folder = folder.absolute()
        self.place: Place | None = None  #: known once started; its str() is for the start line
        self.pid: int | None = None  #: the postmaster's, while it is ready
        self.restarts = 0
        self.hurried = False  #: do not wait for an orderly stop
        self._log = log
        self._environ = environ
        self._namespaces = namespaces
        self._state_folder = state_folder

    async def run(self, task_status: trio.TaskStatus[str] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled; `started(conninfo)` when it accepts connections, or EmbeddedUnavailable."""
        _make_own_folder(self.folder)
        with _lock(self.folder / "postgres.lock"):
            place = self.place = settle(
                self.folder,
                find_binaries(self._environ),
                log=self._log,
                environ=self._environ,
                namespaces=self._namespaces,
                state_folder=self._state_folder,
            )
            _turn_over(place.log)
            try:
                if not _is_cluster(place.data, place.binaries):
                    await _create_cluster(place)
                await self._supervise(place, task_status)
            finally:
                _leave(place, self.folder)

    async def _supervise(self, place: Place, task_status: trio.TaskStatus[str]) -> None:
        pause_s = RESTART_MIN_S
        announced = False
        while True:
            await end_leftovers(place)
            log_position, stale, begun_s = _size(place.log), pid_file_text(place), trio.current_time()
            process = _start(place)
            try:
                if await self._ready(place, process, stale):
                    self.pid = process.pid
                    if not announced:
                        announced = True
                        task_status.started(place.conninfo)
                    await exited(process)
            finally:
                self.pid = None
                with trio.CancelScope(shield=True):
                    await _stop(process, HURRIED if self.hurried else FAREWELL)
                    await end_leftovers(place)
            how = f"exit status {process.returncode}"
            if not announced:
                said = _tail(place.log, log_position)
                raise EmbeddedUnavailable(f"PostgreSQL did not start ({how}){_advice(said, place)}")
            self.restarts += 1
            if trio.current_time() - begun_s > STEADY_S:
                pause_s = RESTART_MIN_S
            self._log(f"PostgreSQL ended ({how}) and is started again in {pause_s:g} s; see {place.log}")
            await trio.sleep(pause_s)
            pause_s = min(pause_s * 2, RESTART_MAX_S)

    async def _ready(self, place: Place, process: subprocess.Popen[bytes], stale: str) -> bool:
        """True when postmaster.pid says so (what pg_ctl waits for); False when the server ended before."""
        said_s = trio.current_time()
        while process.poll() is None:
            text = pid_file_text(place)
            lines = text.splitlines()
            if text != stale and len(lines) >= 8 and int(lines[0]) == process.pid and "ready" in lines[7]:
                return True
            if trio.current_time() - said_s > SLOW_START_S:
                said_s = trio.current_time()
                self._log("PostgreSQL is still starting; it may be recovering from a crash")
            await trio.sleep(POLL_S)
        return False


def _start(place: Place) -> subprocess.Popen[bytes]:
    arguments = ["-D", str(place.data)]
    for setting in (*SETTINGS, f"unix_socket_directories={place.sockets}", f"cluster_name={place.token}"):
        arguments += ["-c", setting]
    return place.spawn("postgres", arguments, "QUIT")


async def _stop(process: subprocess.Popen[bytes], farewell: Sequence[tuple[signal.Signals, float]]) -> None:
    for number, patience_s in farewell:
        if process.poll() is not None:
            return
        process.send_signal(number)
        with trio.move_on_after(patience_s):
            await exited(process)


async def _create_cluster(place: Place) -> None:
    """initdb beside the final place, renamed when complete: a killed one never looks like a cluster."""
    new = place.data.with_name(f"postgres.new-{os.getpid()}")
    for unfinished in place.data.parent.glob("postgres.new-*"):
        shutil.rmtree(unfinished, ignore_errors=True)
    log_position = _size(place.log)
    arguments = [
        "-D",
        str(new),
        "-A",
        "trust",
        "-U",
        SUPERUSER,
        "--encoding=UTF8",
        "--locale=C",
        "--no-instructions",
    ]
    process = place.spawn("initdb", arguments, "KILL")
    try:
        await exited(process)
    finally:
        if process.poll() is None:
            process.kill()
            process.wait()
    if process.returncode != 0:
        said = _tail(place.log, log_position)
        raise EmbeddedUnavailable(f"initdb failed ({process.returncode}){_advice(said, place)}")
    new.rename(place.data)
    parent = os.open(place.data.parent, os.O_RDONLY)
    try:
        os.fsync(parent)  # the rest initdb has synced
    finally:
        os.close(parent)


#: What PostgreSQL says -> what to do.
_ADVICE = (
    ("shared memory segment", "/dev/shm is too small or not writable: docker run --shm-size=128m"),
    ("free disk space|No space left", "the disk of {folder} is full: make room there"),
    ("file descriptors|Too many open files", "too few files may be opened: raise `ulimit -n` to 256 or more"),
    ("Cannot allocate memory|could not fork", "memory or processes are short: allow this user more of them"),
)
#: The lines of a log that say why.
_REASON = re.compile(r"FATAL|PANIC|ERROR|error:|HINT|DETAIL|could not|No space", re.IGNORECASE)


def _advice(said: str, place: Place) -> str:
    """The end of the sentence: what to do, where that is known, and what the log says."""
    for words, what in _ADVICE:
        if re.search(words, said):
            reasons = " | ".join(line for line in said.split(" | ") if _REASON.search(line))
            return f": {what.format(folder=place.data.parent)}. {place.log} says: {reasons}"
    return f". {place.log} says: {said}"


def _is_cluster(data: Path, binaries: Binaries) -> bool:
    """Whether there is a cluster, made by this major version. A folder with other content is refused."""
    mark = data / "PG_VERSION"
    version = mark.read_text().strip() if mark.exists() else ""
    if not version:
        if data.exists() and any(data.iterdir()):
            raise EmbeddedUnavailable(f"{data} holds something that is no PostgreSQL cluster: move it away")
        return False
    if version != str(binaries.major):
        raise EmbeddedUnavailable(
            f"the database in {data} was made by PostgreSQL {version}, found was {binaries}: set "
            f"INVERSION_PG_BIN to the bin folder of a PostgreSQL {version}, or move the folder away"
        )
    return True


@contextlib.contextmanager
def _lock(path: Path) -> Iterator[None]:
    """Hold the file lock; the kernel lets go of it however the process ends."""
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            raise EmbeddedUnavailable(
                f"another inversion (pid {file.read().strip() or 'unknown'}) uses the database in "
                f"{path.parent}: stop it first, or give --database-url"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _make_own_folder(folder: Path) -> None:
    if not folder.exists():
        folder.mkdir(mode=0o700)
        (folder / ".gitignore").write_text("*\n")  # data is not source


def _leave(place: Place, folder: Path) -> None:
    """A socket folder outside of ours goes with us, unless something else is in it."""
    if place.account is not Account.UNPRIVILEGED and place.sockets.parent != folder:
        with contextlib.suppress(OSError):
            place.sockets.rmdir()


def _turn_over(log: Path) -> None:
    if _size(log) > LOG_BYTES:
        log.replace(log.with_suffix(".log.1"))


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _tail(log: Path, position: int) -> str:
    with log.open("rb") as file:
        file.seek(max(position, _size(log) - LOG_TAIL_BYTES))
        return " | ".join(file.read().decode(errors="replace").split("\n")).strip(" |")
