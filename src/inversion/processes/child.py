"""One OS process: started from the loop, its own session, a short environment, a bounded farewell.

    started -> (its stdin closed -> TERM to the group ->) KILL to the group -> exited, reaped

The only module that starts processes or sends signals. When the leader is gone the rest of its group is
killed before the leader is reaped, so that the group's number cannot belong to anybody else yet. The end of
a process is its exit, never the end of a pipe: a grandchild may hold a pipe open for ever.
Starting takes the loop about half a millisecond; a thread would double that.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shutil
import signal
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from time import perf_counter
from typing import Final

import attrs

from inversion import open_files
from inversion.config import Function
from inversion.processes.log_lines import LogLine, LogLines
from inversion.watch import Watch

#: What a child sees of our environment: never PG*, DATABASE_URL or INVERSION_*.
_INHERITED: Final = frozenset({"PATH", "HOME", "LANG", "TZ", "TMPDIR", "USER"})
#: File numbers the child's own are copied from must lie above the child's.
_LOWEST_FILE: Final = 16
#: A pipe of the kernel's usual maximum: a batch of frames fits into one write.
_PIPE_BYTES: Final = 1 << 20
READ_BYTES: Final = 1 << 18
_STDERR_READ_BYTES: Final = 16 << 10
#: After stdin was closed: most programs leave at once, `sleep` never.
FAREWELL_S: Final = 1.0
#: Read after an exit: what a full pipe may hold. A grandchild that still writes cannot keep us.
_LEFT_BYTES: Final = 4 << 20
#: Python ignores these for itself and a child would inherit that: `yes | head` would never end.
_DEFAULT_SIGNALS: Final = (signal.SIGPIPE, signal.SIGXFSZ)


#: This node has no files, processes or memory left just now.
_SHORTAGES: Final = frozenset((errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM))


class CannotStart(Exception):
    """The command does not exist or cannot be executed; the message says which and what to do."""


@attrs.frozen(slots=True)
class Exit:
    """How a process ended."""

    status: int | None  #: None: a signal ended it
    signal: str | None

    @property
    def extra(self) -> Mapping[str, object]:
        """For a problem body."""
        return {"exit_status": self.status} if self.signal is None else {"signal": self.signal}

    def __str__(self) -> str:
        return f"exit status {self.status}" if self.signal is None else f"signal {self.signal}"


@attrs.frozen(slots=True)
class Recipe:
    """How a function's process is started: all that can be found out beforehand."""

    function: str
    program: str  #: absolute
    command: tuple[str, ...]
    folder: str
    env: Mapping[str, str]
    grace_s: float

    @staticmethod
    def of(function: Function) -> Recipe:
        """Look the command up. Raises CannotStart."""
        env = environment(os.environ, function.env)
        return Recipe(
            function.name,
            _program(function, env),
            function.command,
            str(function.folder),
            env,
            function.grace_s,
        )


def environment(ours: Mapping[str, str], of_function: Mapping[str, str]) -> Mapping[str, str]:
    """What a child sees: a few names of ours, and what its function's `env` says."""
    env = {name: value for name, value in ours.items() if name in _INHERITED or name.startswith("LC_")}
    env.setdefault("PATH", os.defpath)
    if not {"LANG", "LC_ALL", "LC_CTYPE"} & env.keys():
        env["LANG"] = "C.UTF-8"  # frames are UTF-8; Ruby and Perl believe the locale
    env["PYTHONUNBUFFERED"] = "1"  # or a `print` that answers stays in a buffer of 8 KiB
    env.update(of_function)
    return env


def _program(function: Function, env: Mapping[str, str]) -> str:
    name = function.command[0]
    asks = f"function {function.name}: command {name!r}"
    if "/" not in name:
        found = shutil.which(name, path=env["PATH"])
        if found is not None:
            return os.path.abspath(found)
        if (function.folder / name).is_file():
            raise CannotStart(
                f"{asks} is not on the PATH; for the file beside inversion.toml write './{name}'"
            )
        raise CannotStart(f"{asks} does not exist on the PATH: install it, or correct `command`")
    path = Path(os.path.abspath(function.folder / name))
    if not path.is_file():
        raise CannotStart(f"{asks} does not exist (looked for {path}): correct `command`")
    if not os.access(path, os.X_OK):
        raise CannotStart(f"{asks} is not executable: chmod +x {path}")
    return str(path)


def keep_files_private() -> None:
    """Files this process was started with are not passed on (Python's own never are)."""
    for name in os.listdir("/proc/self/fd"):
        file = int(name)
        if file > 2:
            try:
                os.set_inheritable(file, False)
            except OSError as error:
                if error.errno != errno.EBADF:  # the listing's own file is closed by now
                    raise


def open_pipe() -> tuple[int, int]:
    """(read end, write end), both above the numbers a child gives its files."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    return raise_file(read_end), raise_file(write_end)


def raise_file(file: int) -> int:
    """The same file under a number that no child's file has."""
    if file >= _LOWEST_FILE:
        return file
    raised = fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, _LOWEST_FILE)
    os.close(file)
    return raised


def widen_pipe(file: int) -> None:
    """A pipe as wide as an ordinary user may have it; where that is refused it stays as it is."""
    try:
        fcntl.fcntl(file, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)
    except OSError as error:
        if error.errno != errno.EPERM:
            raise


def read_some(file: int, most_bytes: int = READ_BYTES) -> bytes | None:
    """What is there; b"": the end; None: nothing yet."""
    try:
        return os.read(file, most_bytes)
    except BlockingIOError:
        return None


def read_left(file: int) -> bytes:
    """What is there after the exit, up to a pipe's worth."""
    parts: list[bytes] = []
    left_bytes = _LEFT_BYTES
    while left_bytes > 0 and (data := read_some(file)):
        parts.append(data)
        left_bytes -= len(data)
    return b"".join(parts)


def write_some(file: int, data: bytes | memoryview) -> int | None:
    """How many bytes went out, perhaps none; None: nobody reads there any more."""
    try:
        return os.write(file, data)
    except BlockingIOError:
        return 0
    except BrokenPipeError:
        return None


class Child:
    """One process. `exited` is called once, when it is reaped; then `close` is due."""

    def __init__(
        self,
        recipe: Recipe,
        watch: Watch,
        log_line: LogLine,
        exited: Callable[[], None],
        *,
        env: Mapping[str, str] | None = None,
        files: Sequence[tuple[int, int]] = (),
    ) -> None:
        """Start it. `files` are (ours, the child's number) beside stdin, stdout and stderr; they stay ours.

        Raises CannotStart.
        """
        self._recipe = recipe
        self._watch = watch
        self._exited = exited
        self._term_at_s: float | None = None
        self._kill_at_s: float | None = None
        self.exit: Exit | None = None
        self.stderr = LogLines(recipe.function, "stderr", log_line)
        self.started_s = perf_counter()
        opened: list[int] = []
        try:
            for _ in range(3):
                opened += open_pipe()
            stdin, self.stdin, self.stdout, stdout, self._stderr, stderr = opened
            theirs = [(stdin, 0), (stdout, 1), (stderr, 2), *files]
            self.pid, self._pidfd = _spawn(recipe, recipe.env if env is None else env, theirs)
        except (OSError, ValueError) as error:
            for file in opened:
                os.close(file)
            if isinstance(error, OSError) and error.errno in _SHORTAGES:
                raise  # nothing is wrong with the command
            raise CannotStart(_why_not(recipe, error)) from None
        for file in (stdin, stdout, stderr):
            os.close(file)
        for file in (self.stdin, self.stdout, self._stderr):
            os.set_blocking(file, False)
        watch.add(self._stderr, self._drain_stderr)
        watch.add(self._pidfd, self._reap)

    def close_stdin(self) -> None:
        """EOF means leave."""
        if self.stdin >= 0:
            self._watch.close_file(self.stdin)
            self.stdin = -1

    def send_off(self, now_s: float) -> None:
        """Close stdin; if it does not leave, TERM and KILL follow in `sweep`."""
        self.close_stdin()
        if self._term_at_s is None:
            self._term_at_s = now_s + FAREWELL_S

    def terminate(self, now_s: float) -> None:
        """TERM to the group now, KILL after the grace."""
        if self._kill_at_s is None:
            self._signal_group(signal.SIGTERM)
            self._kill_at_s = now_s + self._recipe.grace_s

    def kill(self) -> None:
        """KILL to the group."""
        self._signal_group(signal.SIGKILL)

    def sweep(self, now_s: float) -> None:
        """Do what is due of the farewell."""
        if self._kill_at_s is not None:
            if now_s >= self._kill_at_s:
                self.kill()
        elif self._term_at_s is not None and now_s >= self._term_at_s:
            self.terminate(now_s)

    def close(self) -> None:
        """Give the pipes back. After the exit."""
        self.close_stdin()
        self.close_stdout()

    def close_stdout(self) -> None:
        if self.stdout >= 0:
            self._watch.close_file(self.stdout)
            self.stdout = -1

    def _close_stderr(self) -> None:
        if self._stderr >= 0:
            self._watch.close_file(self._stderr)
            self._stderr = -1

    def _drain_stderr(self) -> None:
        data = read_some(self._stderr, _STDERR_READ_BYTES)
        if data:
            self.stderr.feed(data, perf_counter())
        elif data is not None:
            self._close_stderr()

    def _signal_group(self, number: signal.Signals) -> None:
        if self.exit is None:  # not reaped: the number is still its own
            try:
                os.killpg(self.pid, number)
            except ProcessLookupError:
                return  # the group is empty
            except PermissionError:
                return  # what is left of it runs as somebody else (setuid)

    def _reap(self) -> None:
        ended = os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED | os.WNOHANG | os.WNOWAIT)
        if ended is None:
            return
        self.kill()
        os.waitid(os.P_PIDFD, self._pidfd, os.WEXITED)
        self._watch.close_file(self._pidfd)
        if self._stderr >= 0:
            if data := read_left(self._stderr):
                self.stderr.feed(data, perf_counter())
            self._close_stderr()
        self.stderr.end()
        if ended.si_code == os.CLD_EXITED:
            self.exit = Exit(ended.si_status, None)
        else:
            self.exit = Exit(None, _signal_name(ended.si_status))
        exited, self._exited = self._exited, _nothing  # its owner holds this object: no cycle stays
        exited()


def _spawn(recipe: Recipe, env: Mapping[str, str], files: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """(pid, pidfd). posix_spawn puts files under any number but knows no folder: go there and back."""
    home = None if _here() == recipe.folder else os.open(".", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        if home is not None:
            os.chdir(recipe.folder)
        with open_files.as_at_start():
            pid = os.posix_spawn(
                recipe.program,
                recipe.command,
                env,
                file_actions=[(os.POSIX_SPAWN_DUP2, ours, theirs) for ours, theirs in files],
                setsid=True,
                setsigmask=(),
                setsigdef=_DEFAULT_SIGNALS,
            )
    finally:
        if home is not None:
            os.fchdir(home)
            os.close(home)
    try:
        return pid, os.pidfd_open(pid)
    except OSError:  # no file number is left: nobody would hear of its end
        os.killpg(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
        raise


def _nothing() -> None:
    """What an exit calls a second time."""


def _here() -> str | None:
    """The folder we are in; None: it was removed."""
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


def _signal_name(number: int) -> str:
    known = {each.value: each.name for each in signal.Signals}
    return known.get(number, f"SIG{number}")  # most real-time signals have no name


def _why_not(recipe: Recipe, error: OSError | ValueError) -> str:
    starts = f"function {recipe.function}: {recipe.program} cannot be started"
    if not isinstance(error, OSError):
        return f"{starts}: {error}"
    if error.errno == errno.ENOEXEC:
        return f"{starts}: it is neither a program of this machine nor does it begin with a #! line"
    if error.errno == errno.ENOENT and os.path.exists(recipe.program):
        if not os.path.isdir(recipe.folder):
            return f"{starts}: its folder {recipe.folder} does not exist"
        return f"{starts}: the interpreter named in its #! line does not exist"
    return f"{starts}: {error.strerror}"
