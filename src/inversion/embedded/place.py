"""Where the embedded PostgreSQL lies and as whom it runs.

An ordinary user's server runs as that user. PostgreSQL refuses uid 0, so root's wears another number in
a user namespace, and the files stay root's. Where namespaces are refused (Docker's default) it runs as
`nobody` from a folder of that account below the system's state folder, and `postgres` in our folder is a
link to it: the choice made at first stays. Only folders made here are ever given a mode or an owner.
"""

from __future__ import annotations

import hashlib
import os
import pwd
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from pathlib import Path

import attrs

from inversion.embedded.binaries import Binaries, EmbeddedUnavailable, readable_copy

STATE_FOLDER = Path("/var/lib/inversion")
UNPRIVILEGED_USER = "nobody"
SUPERUSER = "inversion"
TOKEN_PREFIX = "inversion-"
SOCKET_NAME = ".s.PGSQL.5432"
SOCKET_PATH_BYTES = 107  #: sockaddr_un.sun_path without its NUL


class Account(Enum):
    """As whom the server runs."""

    OURS = "this account"
    NAMESPACE = "this account, under another number in a user namespace"
    UNPRIVILEGED = f"the account {UNPRIVILEGED_USER}, because user namespaces are refused here"


@attrs.frozen(slots=True)
class Place:
    """One cluster's folders and the account that owns the data."""

    account: Account
    binaries: Binaries
    data: Path
    sockets: Path
    log: Path
    user: int  #: of the data and of the processes, as seen from outside
    group: int

    def __str__(self) -> str:
        as_whom = f", as {self.account.value}" if self.account is Account.UNPRIVILEGED else ""
        return f"{self.binaries} in {self.data}{as_whom}"

    @property
    def token(self) -> str:
        """In the title of every process of this cluster (cluster_name); stays when the folder is moved."""
        info = self.data.stat()
        return f"{TOKEN_PREFIX}{info.st_dev:x}-{info.st_ino:x}"

    @property
    def conninfo(self) -> str:
        quoted = str(self.sockets).replace("\\", "\\\\").replace("'", "\\'")
        return f"host='{quoted}' port=5432 user={SUPERUSER} dbname=postgres"

    def spawn(self, program: str, arguments: Sequence[str], death_signal: str) -> subprocess.Popen[bytes]:
        """Start a program as the account. It gets `death_signal` when the calling *thread* ends.

        Not when that happens in the first milliseconds, before setpriv has asked for it: the next start
        ends what is left.
        """
        before = _namespace_command() if self.account is Account.NAMESPACE else []
        setpriv = shutil.which("setpriv")
        if setpriv is not None:  # macOS has no such signal; the next start ends what was left behind
            before = [*before, setpriv, "--pdeathsig", death_signal, "--"]
        changes = self.account is Account.UNPRIVILEGED
        with self.log.open("ab") as log:
            return subprocess.Popen(
                [*before, str(self.binaries.folder / program), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env={"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"},
                umask=0o077,
                start_new_session=True,  # Ctrl-C is for us, who then stop it in order
                user=self.user if changes else None,
                group=self.group if changes else None,
                extra_groups=[] if changes else None,
            )


def settle(
    folder: Path,
    binaries: Binaries,
    *,
    log: Callable[[str], None],
    environ: Mapping[str, str] = os.environ,
    namespaces: bool = True,
    state_folder: Path = STATE_FOLDER,
) -> Place:
    """Choose account and folders, or EmbeddedUnavailable. `namespaces=False`: as where they are refused."""
    data, user = folder / "postgres", os.geteuid()
    if data.is_symlink():
        if user != 0:
            raise EmbeddedUnavailable(
                f"{data} points to {data.readlink()}, made by root for the account {UNPRIVILEGED_USER}: "
                "start as root again, or remove the link to begin with an empty database"
            )
        return _unprivileged(folder, binaries, log, state_folder)
    account = Account.OURS if user != 0 and _has_name(user) else Account.NAMESPACE
    if account is Account.NAMESPACE and sys.platform == "darwin":
        raise EmbeddedUnavailable(
            "PostgreSQL refuses to run as root: start as an ordinary user, or give --database-url"
        )
    if account is Account.OURS or (namespaces and namespaces_work(binaries)):
        if data.exists() and (owner := data.stat().st_uid) != user:
            raise EmbeddedUnavailable(
                f"{data} belongs to uid {owner} and this is uid {user}: start as its owner, "
                "use another folder, or give --database-url"
            )
        sockets = _socket_folder(folder, environ)
        return Place(account, binaries, data, sockets, folder / "postgres.log", user, os.getegid())
    if user != 0:
        raise EmbeddedUnavailable(
            f"PostgreSQL needs a name for uid {user} in the user database, or user namespaces, which are "
            "refused here: start as a user with a name, or give --database-url"
        )
    if data.exists():
        raise EmbeddedUnavailable(
            f"{data} was made by root in a user namespace, and user namespaces are refused here: allow them, "
            "or give the folder to an ordinary user and start as that user, or give --database-url"
        )
    return _unprivileged(folder, binaries, log, state_folder)


def _unprivileged(folder: Path, binaries: Binaries, log: Callable[[str], None], state_folder: Path) -> Place:
    remedy = "start as an ordinary user, or give --database-url"
    try:
        account = pwd.getpwnam(UNPRIVILEGED_USER)
    except KeyError:
        raise EmbeddedUnavailable(
            f"PostgreSQL refuses to run as root, user namespaces are refused here and there is no account "
            f"{UNPRIVILEGED_USER}: {remedy}"
        ) from None
    link = folder / "postgres"
    digest = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:12]
    home = link.readlink().parent if link.is_symlink() else state_folder / f"{folder.parent.name}-{digest}"
    if len(os.fsencode(home / "socket" / SOCKET_NAME)) > SOCKET_PATH_BYTES or not home.name.isascii():
        home = state_folder / digest
    if link.is_symlink() and not link.exists():
        log(f"the database in {link.readlink()} is gone: beginning with an empty one")
    sockets = home / "socket"
    try:
        if not state_folder.exists():
            state_folder.mkdir(parents=True)
            state_folder.chmod(0o755)
        for made in (home, sockets):
            if not made.exists():
                made.mkdir(mode=0o700)
                os.chown(made, account.pw_uid, account.pw_gid, follow_symlinks=False)
        binaries = readable_copy(binaries, state_folder / "binaries", account.pw_uid, account.pw_gid)
        if not link.is_symlink():
            link.symlink_to(home / "postgres")
    except OSError as error:
        raise EmbeddedUnavailable(
            "PostgreSQL refuses to run as root, user namespaces are refused here, and a folder for the "
            f"account {UNPRIVILEGED_USER} cannot be made ({error}): {remedy}"
        ) from error
    return Place(
        Account.UNPRIVILEGED,
        binaries,
        home / "postgres",
        sockets,
        folder / "postgres.log",
        account.pw_uid,
        account.pw_gid,
    )


def _socket_folder(folder: Path, environ: Mapping[str, str]) -> Path:
    """In our folder; below the runtime folder when that path is too long, or libpq would split it."""
    sockets = folder / "socket"
    text = os.fspath(sockets)
    if len(os.fsencode(sockets / SOCKET_NAME)) > SOCKET_PATH_BYTES or "," in text or not text.isprintable():
        digest = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
        runtime = environ.get("XDG_RUNTIME_DIR", "/tmp")
        if not os.access(runtime, os.W_OK) or len(os.fsencode(runtime)) > SOCKET_PATH_BYTES // 2:
            runtime = "/tmp"
        sockets = Path(runtime, f"inversion-{digest}")
    sockets.mkdir(mode=0o700, exist_ok=True)
    info = sockets.lstat()
    if not stat.S_ISDIR(info.st_mode) or info.st_uid != os.geteuid() or info.st_mode & 0o077:
        raise EmbeddedUnavailable(f"{sockets} is not a folder that only this account can enter: remove it")
    return sockets


def _namespace_command() -> list[str]:
    """PostgreSQL wants a number that is not 0 and has a name: the first such of the user database."""
    for entry in sorted(pwd.getpwall(), key=lambda each: each.pw_uid):
        if entry.pw_uid != 0:
            return ["unshare", "-U", f"--map-user={entry.pw_uid}", f"--map-group={entry.pw_gid}", "--"]
    raise EmbeddedUnavailable(
        "the user database knows only root, as whom PostgreSQL refuses to run: give --database-url"
    )


def namespaces_work(binaries: Binaries) -> bool:
    """Can root's server run under another number here?"""
    if shutil.which("unshare") is None:
        return False
    command = [*_namespace_command(), str(binaries.folder / "postgres"), "-V"]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


def _has_name(user: int) -> bool:
    try:
        pwd.getpwuid(user)
    except KeyError:
        return False
    return True
