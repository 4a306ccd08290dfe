"""Waiting for the end of a child that is started with subprocess, without a thread."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Final

import trio

#: Where there is no file that tells of the end.
_POLL_S: Final = 0.02


async def exited(process: subprocess.Popen[bytes]) -> None:
    """Wait for a child's end and reap it."""
    if sys.platform == "linux" and process.poll() is None:
        pidfd = os.pidfd_open(process.pid)
        try:
            await trio.lowlevel.wait_readable(pidfd)
        finally:
            os.close(pidfd)
        process.wait()
    while process.poll() is None:  # noqa: ASYNC110 (macOS: a foreign process sets no Event)
        await trio.sleep(_POLL_S)
