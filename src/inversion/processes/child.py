"""One OS process: started by a spawner, its own group, a short environment, a bounded farewell.

    starting -> running -> (its stdin closed -> TERM to the group ->) KILL to the group -> exited, reaped
    starting -> could not be started: `failure` says why

Its pipes are ours from the beginning, so that a message may be written before it runs. When it is gone the
spawner kills the rest of its group and what left the group. The end of a process is its exit, never the
end of a pipe: a grandchild may hold a pipe open for ever.
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

from inversion.config import Function
from inversion.processes.log_lines import LogLine, LogLines
from inversion.processes.noise import LogPipe
from inversion.processes.sandbox import Closed, Sandboxes
from inversion.processes.spawner import Spawner, Start
from inversion.processes.spawner_process import AT_FOLDER, AT_PRIVATE, LOWEST_FILE
from inversion.watch import Watch

#: What a child sees of our environment: never PG*, DATABASE_URL or INVERSION_*.
_INHERITED: Final = frozenset({"PATH", "HOME", "LANG", "TZ", "TMPDIR", "USER"})
#: A pipe of the kernel's usual maximum: a batch of frames fits into one write.
_PIPE_BYTES: Final = 1 << 20
READ_BYTES: Final = 1 << 18
#: After stdin was closed: most programs leave at once, `sleep` never.
FAREWELL_S: Final = 1.0
#: Read after an exit: what a full pipe may hold. A grandchild that still writes cannot keep us.
_LEFT_BYTES: Final = 4 << 20
#: This node has no files, processes or memory left just now.
_SHORTAGES: Final = frozenset((errno.EAGAIN, errno.EMFILE, errno.ENFILE, errno.ENOMEM))


class CannotStart(Exception):
    """The command does not exist or cannot be executed; the message says which and what to do."""


@attrs.frozen(slots=True)
class Failure:
    """Why a process could not be started."""

    sentence: str
    is_shortage: bool  #: nothing is wrong with the command: another time it may work


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
    spawner: Spawner
    program: str  #: absolute
    command: tuple[str, ...]
    folder: str
    private: str  #: its folder for temporary files, or ""
    env: Mapping[str, str]
    grace_s: float

    @staticmethod
    def of(function: Function, sandboxes: Sandboxes) -> Recipe:
        """Look the command up. Raises CannotStart."""
        env = environment(os.environ, function.env)
        program = _program(function, env)
        try:
            cell = sandboxes.cell(function, program, env["PATH"])
        except Closed as closed:
            raise CannotStart(str(closed)) from None
        return Recipe(
            function.name,
            cell.spawner,
            program,
            function.command,
            str(function.folder),
            cell.private,
            cell.env(env, function.env),
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
    if os.statvfs(path).f_flag & os.ST_NOEXEC:
        raise CannotStart(
            f"{asks} lies on a file system that is mounted noexec: name its interpreter in `command`, "
            f"move it, or remount {path.parent} with exec"
        )
    if not os.access(path, os.X_OK):
        raise CannotStart(f"{asks} is not executable: chmod +x {path}")
    return str(path)


def open_pipe() -> tuple[int, int]:
    """(read end, write end), both above the numbers a child gives its files."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    return raise_file(read_end), raise_file(write_end)


def raise_file(file: int) -> int:
    """The same file under a number that no child's file has."""
    if file >= LOWEST_FILE:
        return file
    raised = fcntl.fcntl(file, fcntl.F_DUPFD_CLOEXEC, LOWEST_FILE)
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
        """Have it started. `files` are (ours, the child's number) beside stdin, stdout and stderr; they
        stay ours. Raises OSError when there are no files or processes left.
        """
        self._recipe = recipe
        self._watch = watch
        self._exited = exited
        self._term_at_s: float | None = None
        self._kill_at_s: float | None = None
        self.pid: int | None = None  #: known when it runs
        self.exit: Exit | None = None
        self.failure: Failure | None = None  #: why it could not be started
        self.stderr = LogLines(recipe.function, "stderr", log_line)
        self.started_s = perf_counter()
        env = recipe.env if env is None else env
        start = Start(recipe.program, recipe.command, env, recipe.folder, recipe.private)
        opened: list[int] = []
        try:
            for _ in range(3):
                opened += open_pipe()
            stdin, self.stdin, self.stdout, stdout, self._stderr, stderr = opened
            self._number = recipe.spawner.start(start, [(stdin, 0), (stdout, 1), (stderr, 2), *files], self)
        except OSError:
            for file in opened:
                os.close(file)
            raise
        for file in (stdin, stdout, stderr):
            os.close(file)
        for file in (self.stdin, self.stdout, self._stderr):
            os.set_blocking(file, False)
        self._log_pipe = LogPipe(watch, self._stderr, self.stderr)

    # -- spawner.Spawned ---------------------------------------------------------------------------------

    def started(self, pid: int) -> None:
        self.pid = pid

    def refused(self, number: int, where: int) -> None:
        self._fail(Failure(_why_not(self._recipe, number, where), number in _SHORTAGES))

    def unfit(self, reason: str, *, lasting: bool) -> None:
        sentence = f"function {self._recipe.function}: no process could be started: {reason}"
        self._fail(Failure(sentence, is_shortage=not lasting))

    def ended(self, code: int, status: int) -> None:
        if self._stderr >= 0:
            if data := read_left(self._stderr):
                self.stderr.feed(data, perf_counter())
            self._close_stderr()
        self.stderr.end()
        self.exit = Exit(status, None) if code == os.CLD_EXITED else Exit(None, _signal_name(status))
        self._tell()

    def _fail(self, failure: Failure) -> None:
        self.failure = failure
        self._close_stderr()
        self.stderr.end()
        self.exit = Exit(None, None)
        self._tell()

    def _tell(self) -> None:
        exited, self._exited = self._exited, _nothing  # its owner holds this object: no cycle stays
        exited()

    # -- its end -----------------------------------------------------------------------------------------

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
        self._log_pipe.sweep(now_s)
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
            self._log_pipe.stop()
            self._watch.close_file(self._stderr)
            self._stderr = -1

    def _signal_group(self, number: signal.Signals) -> None:
        if self.exit is None:
            self._recipe.spawner.signal(self._number, number)


def _nothing() -> None:
    """What an exit calls a second time."""


def _signal_name(number: int) -> str:
    known = {each.value: each.name for each in signal.Signals}
    return known.get(number, f"SIG{number}")  # most real-time signals have no name


def _why_not(recipe: Recipe, number: int, where: int) -> str:
    starts = f"function {recipe.function}: {recipe.program} cannot be started"
    if number in _SHORTAGES:
        return f"function {recipe.function}: no process could be started: {os.strerror(number)}"
    if where == AT_PRIVATE:
        return f"{starts}: its folder {recipe.private} cannot be made: {os.strerror(number)}"
    if where == AT_FOLDER:
        if number == errno.ENOENT:
            return f"{starts}: its folder {recipe.folder} does not exist"
        return f"{starts}: its folder {recipe.folder}: {os.strerror(number)}"
    if number == errno.ENOEXEC:
        return f"{starts}: it is neither a program of this machine nor does it begin with a #! line"
    if number == errno.ENOENT and os.path.exists(recipe.program):
        return f"{starts}: the interpreter named in its #! line does not exist"
    return f"{starts}: {os.strerror(number)}"
