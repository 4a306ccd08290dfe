"""Ends what a spawner left behind that was killed: found by the mark in the environment of all it started.

Where a spawner lives it does better, for what leaves its group falls to it. This is for the day it is gone.
A process that has left its group and emptied its environment is not found.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

from inversion.processes.spawner_process import MARK


def end_marked(mark: str) -> None:
    """KILL to every process that comes from the spawner with this mark."""
    begins = f"{MARK}={mark}.".encode()
    for name in os.listdir("/proc"):
        if name.isdigit() and _is_marked(name, begins):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                pidfd = os.pidfd_open(int(name))
                try:
                    if _is_marked(name, begins):  # and not another that has its number by now
                        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
                finally:
                    os.close(pidfd)


def _is_marked(pid: str, begins: bytes) -> bool:
    try:
        environment = Path("/proc", pid, "environ").read_bytes()
    except OSError:
        return False  # it has ended, or is another account's
    return any(entry.startswith(begins) for entry in environment.split(b"\0"))
