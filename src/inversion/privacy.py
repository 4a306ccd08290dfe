"""What functions cannot read of this process, though they may run under its account.

Else /proc/PID/environ and /proc/PID/mem would show them the database's password. Programs that are started
begin readable again. Root reads everything still; a debugger of the same account does not, nor is there a
core file. Linux only.
"""

from __future__ import annotations

import ctypes
import os
import sys
from typing import Final

#: <sys/prctl.h>
_PR_SET_DUMPABLE: Final = 4


def keep_memory_private() -> None:
    if sys.platform != "linux":
        return
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl(PR_SET_DUMPABLE): {os.strerror(number)}")
