"""What a spawner does to itself, for its children to inherit, and to them. Imports nothing of ours."""

from __future__ import annotations

import ctypes
import errno
import os
import resource
from collections.abc import Mapping
from typing import Any, Final

#: Linux, <sys/prctl.h>.
_PR_SET_DUMPABLE: Final = 4
_PR_SET_CHILD_SUBREAPER: Final = 36
_PR_SET_NO_NEW_PRIVS: Final = 38


def confine(settings: Mapping[str, Any]) -> None:
    """Do to this process what its children shall inherit. Raises OSError."""
    _prctl(_PR_SET_CHILD_SUBREAPER, 1)
    if settings["basic"]:
        _confine_basically(settings)
    # A child of the same account must not trace us. Last: files of ours in /proc are root's from now on.
    _prctl(_PR_SET_DUMPABLE, 0)


def _confine_basically(settings: Mapping[str, Any]) -> None:
    os.umask(0o077)
    _raise_oom_score(settings["oom_score_adj"])
    for which, most in settings["limits"]:
        hard = resource.getrlimit(which)[1]
        ours = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(which, (ours, ours))
    uid = settings["uid"]
    if uid is not None:
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    _prctl(_PR_SET_NO_NEW_PRIVS, 1)


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"prctl({option}): {os.strerror(number)}")


def _raise_oom_score(least: int) -> None:
    try:
        with open("/proc/self/oom_score_adj", "r+") as file:
            if int(file.read()) < least:
                file.seek(0)
                file.write(str(least))
    except OSError:
        return  # a kernel that emulates Linux may have no such thing


class NiceSession:
    """Where the kernel shares by session first (autogroup), a nice value counts within its session only.

    So all children stay in ours, which is made a nice one. Begun before `confine`, which closes that file.
    """

    def __init__(self, nice: int) -> None:
        self._nice = nice
        try:
            self._file = os.open("/proc/self/autogroup", os.O_WRONLY | os.O_CLOEXEC)
        except OSError:
            self._file = -1  # such a kernel does not share by session
        self.insist()

    def insist(self) -> None:
        """Ordinary users may do it once in a tenth of a second, all together: try again if that was it."""
        if self._file < 0:
            return
        try:
            os.write(self._file, b"%d" % self._nice)
        except OSError as error:
            if error.errno == errno.EAGAIN:
                return
        os.close(self._file)
        self._file = -1


def be_nice(group: int, nice: int) -> None:
    """Not this process itself: it answers in time also while what it started spins."""
    try:
        os.setpriority(os.PRIO_PGRP, group, nice)
    except OSError:
        return  # it has made itself nicer already


def remove_tree(folder: str) -> None:
    """Whatever its owner did to the modes. What cannot be removed stays."""
    try:
        os.chmod(folder, 0o700)
        with os.scandir(folder) as entries:
            for entry in list(entries):
                if entry.is_dir(follow_symlinks=False):
                    remove_tree(entry.path)
                else:
                    os.unlink(entry.path)
        os.rmdir(folder)
    except (OSError, RecursionError):
        return
