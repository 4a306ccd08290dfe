"""Tells which files changed in content, from the kernel's notices.

A notice is only the occasion to look: what changed is the difference between two looks at the folders, so
that renames, editors' detours and notices that came too early lose nothing. Folders are watched one by one,
not as a tree: PostgreSQL writes in .inversion/, and node_modules has more folders than a user may watch.
The only module that knows watchfiles.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable, Collection, Mapping
from hashlib import blake2b
from pathlib import Path
from stat import S_ISREG
from typing import TYPE_CHECKING, Final

import attrs
import trio

from inversion.observe import logs
from inversion.reload import concern

if TYPE_CHECKING:
    from watchfiles._rust_notify import RustNotify

#: Changes that come closer together than this are one: an editor writes, renames, sets a mode...
_STEP_MS: Final = 100
#: ...but no change waits longer than this for quiet.
_GROUP_MS: Final = 1_000
#: Between two looks where the kernel gives no notices: none are left, or the folder is not there just now.
_POLL_S: Final = 1.0
#: A folder with more than this is no source tree; the rest is not looked at.
_MOST_FILES: Final = 20_000
#: A larger file is compared by its size and times.
_MOST_READ_BYTES: Final = 8 << 20

_log = logs.get_logger("reload")

Signature = tuple[int, int, int]


@attrs.frozen(slots=True)
class Sight:
    """The files that matter, and the folders to watch for them."""

    files: Mapping[Path, Signature]
    folders: frozenset[Path]
    complete: bool = True


def look(root: Path, named: Collection[Path], only_suffix: str | None = None) -> Sight:
    """Look at a tree (or, with `only_suffix`, at such files of its top) and at files that functions name."""
    files: dict[Path, Signature] = {}
    folders: set[Path] = set()
    complete = True
    ahead = deque([root])
    while ahead:
        folder = ahead.popleft()
        try:
            with os.scandir(folder) as listing:
                entries = list(listing)
        except OSError:
            continue  # removed meanwhile, or not ours to read
        if folder != root and not concern.is_entered(folder.name, {entry.name for entry in entries}):
            continue
        folders.add(folder)
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                if only_suffix is None:
                    ahead.append(folder / entry.name)
            elif only_suffix is not None and Path(entry.name).suffix != only_suffix:
                continue
            elif concern.is_code(entry.name) and (signature := _signature(folder / entry.name)):
                if len(files) >= _MOST_FILES:
                    complete, ahead = False, deque()
                    break
                files[folder / entry.name] = signature
    for path in named:
        if path not in files and (signature := _signature(path)):
            files[path] = signature
            folders.add(path.parent)
    return Sight(files, frozenset(folders), complete)


def _signature(path: Path) -> Signature | None:
    """Changes whenever the file does; None: there is no such file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return (found.st_mtime_ns, found.st_size, found.st_ino) if S_ISREG(found.st_mode) else None


class Lookout:
    """What `look` sees, again and again. Looking happens in a thread."""

    def __init__(
        self, root: Path, named: Callable[[], Collection[Path]], only_suffix: str | None = None
    ) -> None:
        self._root = root
        self._named = named
        self._only_suffix = only_suffix
        self._digests: dict[Path, bytes | Signature | None] = {}
        self._without_notices = bool(os.environ.get("WATCHFILES_FORCE_POLLING"))
        self.sight = Sight({}, frozenset())

    async def first_look(self) -> None:
        """What is there now is what runs."""
        self.sight = await trio.to_thread.run_sync(look, self._root, self._named(), self._only_suffix)
        for path in self._named():
            self._digests[path] = _digest(path)
        if not self.sight.complete:
            _log.warning(
                f"more than {_MOST_FILES} files in {self._root}: only the first are watched for changes"
            )

    async def run(self, changed: Callable[[frozenset[Path]], None]) -> None:
        """Call `changed` with files whose content has changed, until cancelled. After `first_look`."""
        watched: frozenset[Path] = frozenset()
        notices: RustNotify | None = None
        try:
            while True:
                if notices is None or self.sight.folders != watched:
                    # The next one first: no moment is without one.
                    following = self._watch(self.sight.folders)
                    if notices is not None:
                        notices.close()
                    notices, watched = following, self.sight.folders
                    if notices is None:
                        await trio.sleep(_POLL_S)
                else:
                    await _wait(notices)
                if found := await trio.to_thread.run_sync(self._look_again, self._named()):
                    changed(found)
        finally:
            if notices is not None:
                notices.close()

    def _look_again(self, named: Collection[Path]) -> frozenset[Path]:
        """The files whose content is another than before."""
        before, self.sight = self.sight, look(self._root, named, self._only_suffix)
        after = self.sight.files
        differ = before.files.keys() ^ after.keys()
        differ |= {path for path, seen in after.items() if before.files.get(path, seen) != seen}
        return frozenset(filter(self._has_other_content, differ))

    def _has_other_content(self, path: Path) -> bool:
        digest = _digest(path)
        if path in self._digests and self._digests[path] == digest:
            return False
        self._digests[path] = digest
        return True

    def _watch(self, folders: Collection[Path]) -> RustNotify | None:
        """None: there will be no notices."""
        try:  # here, for `serve` needs none of it
            from watchfiles._rust_notify import RustNotify, WatchfilesRustInternalError
        except ImportError as error:
            self._without_notices = True
            _log.warning(f"{error}: files are looked at every {_POLL_S:g} s. pip install watchfiles")
            return None
        paths = [str(folder) for folder in folders if folder.is_dir()]
        if self._without_notices or not paths:
            return None
        try:
            return RustNotify(paths, False, False, 0, False, True)
        except FileNotFoundError:
            return None  # one of them was removed just now
        except (OSError, WatchfilesRustInternalError) as error:
            self._without_notices = True
            _log.warning(
                f"the kernel gives no notices of changed files ({error}): they are looked at every "
                f"{_POLL_S:g} s. Raise fs.inotify.max_user_watches and fs.inotify.max_user_instances"
            )
            return None


async def _wait(notices: RustNotify) -> None:
    """Until something has changed. The thread notices a cancellation by itself."""
    stop = trio.Event()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_set_at_end, stop)
        await trio.to_thread.run_sync(notices.watch, _GROUP_MS, _STEP_MS, 0, stop)
        nursery.cancel_scope.cancel()


async def _set_at_end(stop: trio.Event) -> None:
    try:
        await trio.sleep_forever()
    finally:
        stop.set()


def _digest(path: Path) -> bytes | Signature | None:
    """Of the content; None: there is no such file."""
    signature = _signature(path)
    if signature is None or signature[1] > _MOST_READ_BYTES:
        return signature
    try:
        return blake2b(path.read_bytes(), digest_size=16).digest()
    except OSError:
        return None
