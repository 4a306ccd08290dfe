"""As PID 1, which is what a container's command is: two processes, so that the node is an ordinary one.

The kernel drops a signal that PID 1 has no handler for (a `docker stop` during the imports would be lost),
and gives it every orphan to bury. So the first process stays behind as a small init: it forwards signals,
reaps whatever ends, and ends as the program in the second one does, at which the kernel kills the rest.
"""

from __future__ import annotations

import os
import signal
from typing import Final

#: What people and engines send to the container and mean for the program.
_FORWARDED: Final = frozenset(
    {signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM, signal.SIGUSR1, signal.SIGUSR2}
)
#: Above it (SI_KERNEL): a terminal sent it to the whole group, the program included. Once is enough.
_SENT_BY_A_PROCESS: Final = 0
#: What a shell adds to the signal that ended a program.
_SIGNAL_STATUS: Final = 128


def become_two() -> None:
    """Returns in the second process, which is the program; the first one never comes back from here.

    To be called before anything is imported that starts threads.
    """
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _FORWARDED | {signal.SIGCHLD})
    program = os.fork()
    if program == 0:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return
    os._exit(_mind(program))


def _mind(program: int) -> int:
    """Forward and reap until the program has ended; its exit status."""
    while True:
        heard = signal.sigwaitinfo(_FORWARDED | {signal.SIGCHLD})
        if heard.si_signo != signal.SIGCHLD:
            if heard.si_code <= _SENT_BY_A_PROCESS:
                os.kill(program, heard.si_signo)  # not reaped: the number is still its own
        elif (status := _reap(program)) is not None:
            return status if status >= 0 else _SIGNAL_STATUS - status


def _reap(program: int) -> int | None:
    """Bury all that have ended: one SIGCHLD may stand for many. The program's end is told."""
    while True:
        pid, status = os.waitpid(-1, os.WNOHANG)
        if pid == program:
            return os.waitstatus_to_exitcode(status)
        if pid == 0:
            return None
