"""Which files matter, and whom a change concerns. Pure: paths and configs in, names out.

A function's own folder is where the files stand that its command names, else the config's. A changed file
concerns the functions whose command names it or whose own folder holds it; what no command names and what
lies beside all of these folders (a library they share) concerns every one.
"""

from __future__ import annotations

import os.path
import re
from collections import deque
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

import attrs

from inversion.config import Config, Function

#: Folders full of what nobody writes by hand. One whose name begins with a dot is left out as well.
_IGNORED_FOLDERS: Final = frozenset({"__pycache__", "node_modules", "site-packages", "lost+found"})
#: Files that mark their folder as made by a tool: a virtual environment, a build cache (cargo's target/).
_MARKS: Final = frozenset({"pyvenv.cfg", "CACHEDIR.TAG"})
#: What editors, interpreters and running programs write beside the code.
_IGNORED_FILES: Final = re.compile(
    r".*~|\.#.*|#.*#|.*\.sw[a-z]|4913|.*\.(?:tmp|bak|orig|rej|part)|.*\.py[co]|\.DS_Store|.*___jb_\w+___"
    r"|\.goutputstream-.*|.*\.kate-swp|.*\.(?:log|pid|sock|lock)|.*\.(?:db|sqlite3?)(?:-\w+)?",
    re.IGNORECASE,
)

#: A file that changes so often is data that a function writes: it is left alone from then on.
_MOST_CHANGES: Final = 12
_CHANGES_WITHIN_S: Final = 30.0


def is_code(file_name: str) -> bool:
    """Whether a change of such a file may matter."""
    return _IGNORED_FILES.fullmatch(file_name) is None


def is_entered(folder_name: str, content: Collection[str]) -> bool:
    """Whether to look into a folder that holds these names."""
    hidden = folder_name.startswith(".") or folder_name in _IGNORED_FOLDERS
    return not hidden and _MARKS.isdisjoint(content)


def candidates(function: Function) -> frozenset[Path]:
    """What the command may name: each of its words, taken as a path."""
    words = function.command if "/" in function.command[0] else function.command[1:]
    return frozenset(Path(os.path.normpath(function.folder / word)) for word in words)


def own_folder(function: Function, files: Collection[Path]) -> Path:
    """The deepest folder that holds every file its command names, within the config's folder."""
    root = function.folder
    named = [path.parent for path in candidates(function) if path in files and path.is_relative_to(root)]
    return Path(os.path.commonpath(named)) if named else root


def concerned(
    functions: Mapping[str, Function], changed: Iterable[Path], files: Collection[Path]
) -> dict[str, list[Path]]:
    """Function -> the changed files that concern it. `files`: all there are, or were before."""
    own = {name: own_folder(function, files) for name, function in functions.items()}
    found: dict[str, list[Path]] = {}
    for path in sorted(changed):
        for name, function in functions.items():
            root = function.folder
            if path in candidates(function):
                concerns = True
            elif not path.is_relative_to(root):
                concerns = False  # it is watched because another function names it
            elif path.is_relative_to(own[name]):
                concerns = True
            elif any(path in candidates(other) for other in functions.values()):
                concerns = False  # the program of another function
            else:
                concerns = not any(path.is_relative_to(each) for each in own.values() if each != root)
            if concerns:
                found.setdefault(name, []).append(path)
    return found


#: Of `[http]`, what outgoing requests go by: the next one goes by the new values.
_OUTGOING: Final = ("allow", "timeout_s", "retry")


@attrs.frozen(slots=True)
class Difference:
    """From one config to the next."""

    renewed: Sequence[str]  #: added, or changed in what its processes are
    rescheduled: Sequence[str]  #: its schedules changed
    removed: Sequence[str]
    outgoing: bool  #: what outgoing requests go by changed
    needs_restart: Sequence[str]  #: keys whose new values nothing takes up while it runs


def difference(old: Config, new: Config, started: Config) -> Difference:
    """What takes effect at once, and what does not (and is not what the node was started with)."""
    renewed, rescheduled = [], []
    for name, each in new.functions.items():
        before = old.functions.get(name)
        if before is None or attrs.evolve(before, cron=each.cron) != each:
            renewed.append(name)
        if before is not None and before.cron != each.cron:
            rescheduled.append(name)
    removed = [name for name in old.functions if name not in new.functions]
    restart = []
    for table in ("limits", "http"):
        after = getattr(new, table)
        for name in (attribute.name for attribute in attrs.fields(type(after))):
            value = getattr(after, name)
            if table == "http" and name in _OUTGOING:
                continue
            if value not in (getattr(getattr(old, table), name), getattr(getattr(started, table), name)):
                restart.append(f"{table}.{name.removesuffix('_bytes').removesuffix('_s')}")
    outgoing = any(getattr(old.http, name) != getattr(new.http, name) for name in _OUTGOING)
    return Difference(renewed, rescheduled, removed, outgoing, restart)


class Restless:
    """Tells files that change again and again from code that somebody edits."""

    def __init__(self) -> None:
        self.left_alone: set[Path] = set()
        self._times_s: dict[Path, deque[float]] = {}

    def saw(self, path: Path, now_s: float) -> bool:
        """It has changed. False: too often, from now on it is in `left_alone`."""
        times_s = self._times_s.setdefault(path, deque(maxlen=_MOST_CHANGES))
        times_s.append(now_s)
        if len(times_s) == _MOST_CHANGES and now_s - times_s[0] <= _CHANGES_WITHIN_S:
            self.left_alone.add(path)
            return False
        return True
