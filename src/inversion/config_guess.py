"""How to run one file that has no inversion.toml: `inversion dev ./file`.

A program that can run by itself (executable, with a shebang or an ELF head) does; else the suffix names
the interpreter. The mode is guessed from the text: a file that names inversion, a shim or a "response"
speaks the line protocol, any other is run once per call; a file *.cgi is a CGI program. What cannot be
guessed is a ConfigError with the remedies.
"""

from __future__ import annotations

import os
import re
import shutil
import sys
from pathlib import Path
from typing import Final

import attrs

from inversion.config import Config, Function, Mode
from inversion.config_file import FILE_NAME, ConfigError

#: Suffix -> interpreter, where the file does not say itself.
_INTERPRETERS: Final = {
    ".py": ("python3",),
    ".js": ("node",),
    ".mjs": ("node",),
    ".cjs": ("node",),
    ".sh": ("bash",),
    ".bash": ("bash",),
    ".rb": ("ruby",),
    ".pl": ("perl",),
    ".php": ("php",),
    ".lua": ("lua",),
}
#: Suffix -> what to do; there is no one way that fits.
_ADVICE: Final = {
    ".ts": 'node runs it from version 22.6 on: command = ["node", "--experimental-strip-types", "{name}"]',
    ".go": 'build it, and run the program: command = ["./{stem}"]',
    ".rs": 'build it, and run the program: command = ["./{stem}"]',
    ".c": 'build it, and run the program: command = ["./{stem}"]',
    ".java": 'command = ["java", "{name}"]',
    ".jar": 'command = ["java", "-jar", "{name}"]',
}
#: A Go or Rust program with all its libraries is of this size; a shim's words stand somewhere in it.
_MOST_READ_BYTES: Final = 64 << 20
_SPEAKS_LINES = re.compile(rb"inversion|\b(?:shim|response)\b", re.IGNORECASE)
#: What web servers run as CGI wherever it lies (AddHandler cgi-script .cgi).
_CGI_SUFFIX: Final = ".cgi"
_NOT_IN_A_NAME = re.compile(r"[^a-z0-9_-]+")


@attrs.frozen(slots=True)
class Guess:
    """One file as a function; `reason` says in a few words why it is run like this."""

    config: Config
    reason: str


def guess(path: Path, mode: Mode | None = None) -> Guess:
    """One file as a function, and why it is run so. Raises ConfigError when there is no telling how."""
    file = path.absolute()
    try:
        with file.open("rb") as opened:
            content = opened.read(_MOST_READ_BYTES)
    except FileNotFoundError:
        raise ConfigError([f"{path}: there is no such file"]) from None
    except OSError as error:
        raise ConfigError([f"{path}: cannot be read: {error.strerror}"]) from None
    command, runs = _command(path, file, content)
    if mode is None and file.suffix == _CGI_SUFFIX:
        mode = Mode.CGI
        runs = f'{runs}; {_CGI_SUFFIX} is what CGI programs are called, so mode = "cgi"'
    elif mode is None:
        mode = Mode.LINES if _SPEAKS_LINES.search(content) else Mode.EXEC
        why = "names inversion, a shim or a response" if mode is Mode.LINES else "names no protocol"
        runs = f'{runs}; it {why}, so mode = "{mode.value}"'
    function = Function(name=name_for(file), command=command, folder=file.parent, mode=mode)
    if mode is Mode.CGI:
        function = attrs.evolve(function, state=False)
    return Guess(Config(functions={function.name: function}, folder=file.parent), runs)


def name_for(file: Path) -> str:
    """A function's name made of a file's: lower case, other characters as "-"."""
    name = _NOT_IN_A_NAME.sub("-", file.name.split(".")[0].lower()).strip("-")
    if not name[:1].isalpha():
        name = f"f-{name}".rstrip("-")
    return name[:63]


def _command(path: Path, file: Path, content: bytes) -> tuple[tuple[str, ...], str]:
    executable = os.access(file, os.X_OK)
    shebang = content.startswith(b"#!")
    program = content.startswith(b"\x7fELF")
    if executable and (shebang or program):
        return (f"./{file.name}",), "an executable"
    if (interpreter := _INTERPRETERS.get(file.suffix)) is not None:
        if shutil.which(interpreter[0]) is None and file.suffix == ".py":
            interpreter = (sys.executable,)  # a machine whose only Python is the one of our venv
        return (*interpreter, file.name), f"{file.suffix} is run by {interpreter[0]}"
    if (advice := _ADVICE.get(file.suffix)) is not None:
        raise ConfigError([f"{path}: {advice.format(name=file.name, stem=file.stem)} in {FILE_NAME}"])
    if shebang or program:
        raise ConfigError([f"{path}: not executable; run `chmod +x {path}`"])
    raise ConfigError(
        [
            f"{path}: no telling how to run it. Give it a first line such as `#!/usr/bin/env python3`"
            f' and run `chmod +x {path}`, or write {FILE_NAME} with command = ["program", "{file.name}"]'
        ]
    )
