"""How a function's processes are confined: `sandbox` in inversion.toml, and what this host and account allow.

The basic sandbox is all that a spawner can do to itself for good (Confinement), a private folder, and, when
the node is root, an account of the function's own: a number that no user has. A command that this account
cannot read is a start error. Only where nobody asked for the sandbox, and the caller is lenient (`dev`, on
the files of whoever started it), the function then runs as the node does, and the log says so once.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import resource
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

import attrs

from inversion.config import Function, Sandbox
from inversion.observe import logs
from inversion.processes.spawner import Confinement, Spawner
from inversion.processes.spawners import Spawners

#: The numbers that systemd keeps for accounts which exist only while something runs. No distribution gives
#: them to users, and they lie below 65,536: a container's user namespace knows them too.
_FIRST_UID: Final = 61_184
_UIDS: Final = 65_520 - _FIRST_UID
#: For each of `processes.max`: a JVM or Node brings 10 to 40 threads, and each counts.
_TASKS_PER_PROCESS: Final = 64
_FEWEST_TASKS: Final = 512
#: Linux, <linux/capability.h>: CAP_KILL, CAP_SETGID, CAP_SETUID.
_NEEDED: Final = 1 << 5 | 1 << 6 | 1 << 7
#: "#! interpreter" may name a script again; the kernel follows as many.
_MOST_INTERPRETERS: Final = 4

_log = logs.get_logger("sandbox")


class Closed(Exception):
    """The function's own account cannot read its command; the message names the path and both remedies."""


@attrs.frozen(slots=True)
class Cell:
    """Where a function's processes live."""

    spawner: Spawner
    private: str  #: the folder for its temporary files; "" for none
    uid: int | None  #: None: the node's own

    def env(self, env: Mapping[str, str], of_function: Mapping[str, str]) -> Mapping[str, str]:
        """What a child sees, given what it would see outside; what its function's `env` says, stays."""
        if not self.private:
            return env
        changed = {**env, "TMPDIR": self.private}
        if self.uid is not None:
            changed["HOME"] = self.private  # the node's home is closed to it
            changed.pop("USER", None)
        return {**changed, **of_function}


class Sandboxes:
    """Of all functions of a node."""

    def __init__(self, spawners: Spawners, *, lenient: bool) -> None:
        self._spawners = spawners
        self._lenient = lenient
        self._has_accounts = own_accounts_work()
        self._uids: dict[str, int] = {}
        self._private: dict[tuple[str, bool], str] = {}
        self._untold: dict[str, Path] = {}  # functions that do without an account -> what is closed to it
        self._told: set[str] = set()

    def cell(self, function: Function, program: str, search: str) -> Cell:
        """Of a function whose program is this file; `search` is its PATH. Raises Closed."""
        if function.sandbox is Sandbox.NONE:
            return Cell(self._spawners.of(Confinement()), "", None)
        uid = self._uid(function) if self._has_accounts else None
        if uid is not None and (closed := first_closed(uid, _files(function, program, search))) is not None:
            if function.sandbox is not None or not self._lenient:
                raise Closed(_remedies(function, uid, closed))
            if function.name not in self._told:
                self._untold[function.name] = closed
            uid = None
        limits = function.limits
        walls = [
            (resource.RLIMIT_CORE, 0),
            (resource.RLIMIT_DATA, limits.memory_bytes),
            (resource.RLIMIT_NOFILE, limits.files),
        ]
        if uid is not None:  # of an account that others use too it would count their processes as well
            fewest = max(_FEWEST_TASKS, _TASKS_PER_PROCESS * function.processes.max)
            walls.append((resource.RLIMIT_NPROC, limits.processes or fewest))
        confinement = Confinement(basic=True, uid=uid, limits=tuple(walls))
        return Cell(self._spawners.of(confinement), self._private_folder(function, uid), uid)

    def sweep(self) -> None:
        """Say what is to be said, of all functions together."""
        if self._untold:
            _log.warning(
                "these run as root and not under an account of their own, which could not read their files",
                functions=sorted(self._untold),
                closed=sorted({str(path) for path in self._untold.values()}),
            )
            self._told.update(self._untold)
            self._untold.clear()

    def _uid(self, function: Function) -> int:
        """The same at each start, while nobody else has it."""
        uid = self._uids.get(function.name)
        if uid is None:
            digest = hashlib.sha256(os.fsencode(function.folder / function.name)).digest()
            begin = int.from_bytes(digest[:4])
            taken = set(self._uids.values())
            numbers = (_FIRST_UID + (begin + step) % _UIDS for step in range(_UIDS))
            uid = next(number for number in numbers if number not in taken and not _is_known(number))
            self._uids[function.name] = uid
        return uid

    def _private_folder(self, function: Function, uid: int | None) -> str:
        key = function.name, uid is None
        folder = self._private.get(key)
        if folder is None:
            parent = _temporary_folder(uid)
            name = f"inversion-{function.name}-{secrets.token_hex(4)}"
            folder = self._private[key] = "" if parent is None else str(parent / name)
        return folder


def own_accounts_work() -> bool:
    """Whether this process may give its children other accounts: root, with what root usually may."""
    if os.geteuid() != 0:
        return False
    status = Path("/proc/self/status").read_text()
    effective = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:"))
    return int(effective, 16) & _NEEDED == _NEEDED and all(
        _is_mapped(Path("/proc/self", name)) for name in ("uid_map", "gid_map")
    )


def _is_mapped(mapping: Path) -> bool:
    """Whether this user namespace knows our numbers."""
    ranges = [[int(number) for number in line.split()] for line in mapping.read_text().splitlines()]
    return any(first <= _FIRST_UID and first + count >= _FIRST_UID + _UIDS for first, _, count in ranges)


def _is_known(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


def _temporary_folder(uid: int | None) -> Path | None:
    """Where the account may make a folder. None: nowhere, as in a container whose root is read-only."""
    try:
        usual = Path(tempfile.gettempdir())
    except FileNotFoundError:
        return None
    if uid is None:
        return usual
    for folder in (usual, Path("/tmp")):
        if first_closed(uid, [(folder, stat.S_IWOTH | stat.S_IXOTH)]) is None:
            return folder
    return None


# -- may it read its files? ------------------------------------------------------------------------------


def _files(function: Function, program: str, search: str) -> Iterable[tuple[Path, int]]:
    """What must be open to a function's account, and for what: 4 to read, 2 to write, 1 to execute."""
    yield function.folder, 1
    script = Path(program)
    for _ in range(_MOST_INTERPRETERS):
        interpreter = _interpreter(script, search)
        yield script, 1 if interpreter is None else 5
        if interpreter is None:
            break
        script = interpreter
    for argument in function.command[1:]:
        path = function.folder / argument
        if len(os.fsencode(path)) < 4_096 and "\n" not in argument and path.exists():
            yield path, 5 if path.is_dir() else 4


def _interpreter(script: Path, search: str) -> Path | None:
    """What the #! line of a script names; with `env`, what that will find."""
    try:
        with script.open("rb") as file:
            first = file.readline(256)
    except OSError:
        return None
    if not first.startswith(b"#!"):
        return None
    words = [os.fsdecode(word) for word in first[2:].split()]
    if words and os.path.basename(words[0]) == "env":
        names = [word for word in words[1:] if not word.startswith("-") and "=" not in word]
        found = shutil.which(names[0], path=search) if names else None
        return None if found is None else Path(found)
    return Path(words[0]) if words else None


def first_closed(uid: int, paths: Iterable[tuple[Path, int]]) -> Path | None:
    """The first folder or file that the account, which is in no group, cannot use as it has to."""
    for path, needs in paths:
        for each in dict.fromkeys((Path(os.path.abspath(path)), Path(os.path.realpath(path)))):
            for folder in reversed(each.parents):
                if not _is_open(uid, folder, 1):
                    return folder
            if not _is_open(uid, each, needs):
                return each
    return None


def _is_open(uid: int, path: Path, needs: int) -> bool:
    try:
        info = path.stat()
    except OSError:
        return True  # it is not there, which is told in other words
    shift = 6 if info.st_uid == uid else 3 if info.st_gid == uid else 0
    return info.st_mode >> shift & needs == needs


def _remedies(function: Function, uid: int, closed: Path) -> str:
    right = "o+x" if closed.is_dir() else "o+rx" if os.access(closed, os.X_OK) else "o+r"
    return (
        f"function {function.name}: its own account, uid {uid}, cannot read {closed}: "
        f'allow it (chmod {right} {closed}), or write sandbox = "none" in [functions.{function.name}]'
    )
