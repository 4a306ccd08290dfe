"""A new function of a language: the counter of `runtimes/<language>/` under a name of its own.

`runtimes/<language>/language.toml` says what to copy and how to run, build and test it; what stands in its
folder `init/` comes as well, with `counter` replaced by the new name. Reads files, writes none: `made` says
what to write.
"""

from __future__ import annotations

import json
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

import attrs

from inversion import shipped

#: What the copied programs are called.
_EXAMPLE: Final = "counter"
#: In a command: where the function's files are, seen from inversion.toml; "" or a folder with its slash.
_FOLDER_SLOT: Final = "{dir}"


@attrs.frozen(slots=True)
class Language:
    """What `language.toml` says."""

    name: str  #: of its folder
    folder: Path
    title: str
    needs: tuple[str, ...]  #: programs that must be on PATH
    command: tuple[str, ...]
    files: tuple[str, ...]
    build: str | None = None  #: a line for sh, in the function's folder
    test: str | None = None
    renamed: bool = True  #: whether the language lets a file have any name


@attrs.frozen(slots=True)
class Made:
    """A function to be: file name -> content, and its place in inversion.toml."""

    files: Mapping[str, bytes]
    section: str
    build: str | None
    test: str | None


def languages() -> dict[str, Language]:
    """All there are, by name."""
    return {file.parent.name: _read(file) for file in sorted(shipped.runtimes().glob("*/language.toml"))}


def _read(file: Path) -> Language:
    table = tomllib.loads(file.read_text(encoding="utf-8"))
    needs, command, files = (tuple(table.pop(key)) for key in ("needs", "command", "files"))
    return Language(file.parent.name, file.parent, table.pop("title"), needs, command, files, **table)


def made(language: Language, name: str, folder: str) -> Made:
    """`name` as a function of that language, its files in `folder` seen from inversion.toml ("": beside)."""
    stem = name.replace("-", "_") if language.renamed else _EXAMPLE
    files = {}
    for file in language.files:
        text = (language.folder / file).read_bytes()
        here = f"runtimes/{language.name}/".encode()
        files[_renamed(file, stem)] = text.replace(here + _EXAMPLE.encode(), stem.encode()).replace(here, b"")
    for path in sorted((language.folder / "init").glob("*")):
        files[_renamed(path.name, stem)] = path.read_bytes().replace(_EXAMPLE.encode(), stem.encode())
    within = f"{folder}/" if folder else ""
    command = [_renamed(word, stem).replace(_FOLDER_SLOT, within) for word in language.command]
    return Made(
        files,
        f"[functions.{name}]\ncommand = {json.dumps(command)}\n",
        language.build and _renamed(language.build, stem),
        language.test and _renamed(language.test, stem),
    )


def _renamed(text: str, stem: str) -> str:
    return text.replace(_EXAMPLE, stem)
