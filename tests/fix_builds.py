"""The programs of the languages that are compiled: built when first asked for, once in a session, by the line
that the README of the language has. What a build leaves goes away with the session.
"""

from __future__ import annotations

import atexit
import shlex
import subprocess
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import attrs

from fix_node import RUNTIMES

BUILD_S = 300.0  # a release build of Rust on two busy cores, with its libraries


@attrs.frozen
class Build:
    """`{program}` is counter, cart or interpreter, `{main}` Counter, ..., `{out}` its own folder."""

    line: str
    command: str


GSON = "/usr/share/java/gson.jar"
JAVA = f"java -XX:+UseSerialGC -XX:TieredStopAtLevel=1 -cp {{out}}:{GSON}"

BUILDS = {
    "go": Build("go build -o {out}/{program} {program}.go shim.go", "{out}/{program}"),
    "rust": Build("cargo build --release --locked --target-dir {out}", "{out}/release/{program}"),
    "c": Build("cc -O2 -o {out}/{program} {program}.c -ljson-c", "{out}/{program}"),
    "cpp": Build("g++ -O0 -o {out}/{program} {program}.cpp", "{out}/{program}"),
    "java": Build(f"javac -cp {GSON} -d {{out}} {{program}}.java shim.java", f"{JAVA} {{main}}"),
}


@cache
def built(language: str, program: str, folder: Path | None = None) -> tuple[str, ...]:
    """The command of a program of the language's folder, or of another one, once it is built."""
    build, out = BUILDS[language], _session_folder() / language
    out.mkdir(exist_ok=True)
    _run(build.line.format(out=out, program=program), folder or RUNTIMES / language)
    return tuple(shlex.split(build.command.format(out=out, program=program, main=program.capitalize())))


@cache
def _session_folder() -> Path:
    folder = TemporaryDirectory(prefix="inversion-builds-")
    atexit.register(folder.cleanup)
    return Path(folder.name)


@cache  # Rust's line builds all programs at once
def _run(line: str, folder: Path) -> None:
    done = subprocess.run(shlex.split(line), cwd=folder, capture_output=True, timeout=BUILD_S, check=False)
    assert done.returncode == 0, f"{line}\n{done.stderr.decode(errors='replace')}"
