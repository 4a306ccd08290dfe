"""What a killed owner left behind: found by its cluster_name, ended before the next start.

Every process of a cluster carries the place's token in its command line or title, which anybody may read,
also where /proc/<pid>/cwd is closed (another account in a container). Only for the holder of the lock.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

import trio

from inversion.embedded.binaries import EmbeddedUnavailable
from inversion.embedded.place import TOKEN_PREFIX, Place

POLL_S = 0.02  #: for what tells us nothing by itself: postmaster.pid, processes that are not our children
LEFTOVER_QUIT_S, LEFTOVER_KILL_S = 3.0, 5.0  #: SIGQUIT: no checkpoint, so quick; the next start recovers


async def end_leftovers(place: Place) -> None:
    """End processes of this cluster that no owner watches. The caller holds the lock: they are nobody's."""
    for number, patience_s in ((signal.SIGQUIT, LEFTOVER_QUIT_S), (signal.SIGKILL, LEFTOVER_KILL_S)):
        for pid in processes(place.token):
            _signal_if_still(pid, place.token, number)
        with trio.move_on_after(patience_s):
            while processes(place.token):  # noqa: ASYNC110 (a foreign process sets no Event)
                await trio.sleep(POLL_S)
            break
    else:
        raise EmbeddedUnavailable(
            f"processes {processes(place.token)} of the database in {place.data} cannot be ended: "
            "end them by hand"
        )
    _drop_foreign_pid(place)
    # The socket's lock names the same pid. A killed postmaster that nobody has reaped yet still counts as
    # alive for the next one, which would refuse to start; the folder is ours alone.
    for lock in place.sockets.glob(".s.PGSQL.*.lock"):
        lock.unlink(missing_ok=True)


def pid_file_text(place: Place) -> str:
    """postmaster.pid as it is now; empty when there is none."""
    try:
        return (place.data / "postmaster.pid").read_text(errors="replace")
    except FileNotFoundError:
        return ""


def _drop_foreign_pid(place: Place) -> None:
    """A postmaster.pid that names an unrelated process (after a reboot) makes postgres refuse for ever."""
    pid_file = place.data / "postmaster.pid"
    first = pid_file_text(place).partition("\n")[0]
    if not first.isdigit() or not _alive(int(first)):
        return
    command = _commands(int(first)).get(int(first), "")
    another = _working_folder(int(first)) not in (None, place.data.resolve()) or TOKEN_PREFIX in command
    if _is_postgres(command) and not another:
        raise EmbeddedUnavailable(
            f"a PostgreSQL that inversion did not start (pid {first}) may use {place.data}: stop it, "
            f"or remove {pid_file} when it belongs to something else"
        )
    pid_file.unlink()


def processes(token: str) -> list[int]:
    """Live PostgreSQL processes with our cluster_name in their arguments or title."""
    return [pid for pid, command in _commands().items() if token in command and _is_postgres(command)]


def _is_postgres(command: str) -> bool:
    program = command.partition("\0")[0].partition(" -D ")[0]
    return program.startswith("postgres:") or os.path.basename(program) == "postgres"


def _commands(pid: int | None = None) -> dict[int, str]:
    """Command lines by pid: of one process, or of all. Zombies have none."""
    if sys.platform != "linux":
        which = ["-p", str(pid)] if pid is not None else ["-ax"]
        listed = subprocess.run(
            ["ps", *which, "-o", "pid=,command="], capture_output=True, text=True, check=False
        )
        rows = (line.split(maxsplit=1) for line in listed.stdout.splitlines())
        return {int(row[0]): row[1] for row in rows if len(row) == 2}
    commands: dict[int, str] = {}
    for name in [str(pid)] if pid is not None else os.listdir("/proc"):
        if name.isdigit():
            with contextlib.suppress(OSError):  # ended meanwhile
                commands[int(name)] = Path("/proc", name, "cmdline").read_bytes().decode(errors="replace")
    return commands


def _signal_if_still(pid: int, token: str, number: signal.Signals) -> None:
    """Signal a process that is not our child, never one that took its number meanwhile."""
    if sys.platform != "linux":
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        return
    with contextlib.suppress(ProcessLookupError):
        pidfd = os.pidfd_open(pid)
        try:
            if token in _commands(pid).get(pid, ""):
                signal.pidfd_send_signal(pidfd, number)
        finally:
            os.close(pidfd)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _working_folder(pid: int) -> Path | None:
    try:
        return Path(f"/proc/{pid}/cwd").resolve(strict=True)
    except OSError:
        return None
