"""The core with one thing changed in its source: what the host's cases have to notice.

The alterations are in alterations.txt. The modules are made anew from the altered one on, beside those of
the package.
"""

from __future__ import annotations

import sys
from functools import cache
from importlib import import_module
from pathlib import Path
from types import CodeType, ModuleType
from typing import Final

import attrs
from host_script import Core

import inversion

SOURCE: Final = Path(inversion.__file__).parent
#: In the order in which they import each other.
MODULES: Final = (
    "json_text",
    "protocol.effects",
    "protocol.frames",
    "protocol.conversation",
    "protocol.verdict",
)


@attrs.frozen
class Alteration:
    name: str
    module: str
    old: str
    new: str


def alterations() -> list[Alteration]:
    found = []
    module, name = "", ""
    old: list[str] = []
    new: list[str] = []
    for line in (Path(__file__).parent / "alterations.txt").read_text().split("\n"):
        match line[:1]:
            case "=":
                module = line[3:]
            case "#":
                name, old, new = line[2:], [], []
            case "-":
                old.append(line[1:])
            case "+":
                new.append(line[1:])
            case "" if name:
                found.append(Alteration(name, module, "\n".join(old), "\n".join(new)))
                name = ""
    return found


def core(alteration: Alteration | None = None) -> Core:
    """The core, altered."""
    for name in MODULES:
        import_module(f"inversion.{name}")
    kept = {name: sys.modules[f"inversion.{name}"] for name in MODULES}
    if alteration is None:
        return Core(*kept.values())
    first = MODULES.index(alteration.module)
    try:
        made = {name: _made(name, alteration) for name in MODULES[first:]}
    finally:
        for name, module in kept.items():
            _put(name, module)
    return Core(*({**kept, **made}[name] for name in MODULES))


def _made(name: str, alteration: Alteration) -> ModuleType:
    module = ModuleType(f"inversion.{name}")
    module.__file__ = str(SOURCE / f"{name.replace('.', '/')}.py")
    if alteration.module == name:
        source = _text(module.__file__)
        assert source.count(alteration.old) == 1, (
            f"alterations.txt, {alteration.name}: its text stands no longer in {alteration.module}, or twice"
        )
        code = compile(source.replace(alteration.old, alteration.new), module.__file__, "exec")
    else:
        code = _compiled(module.__file__)
    _put(name, module)
    exec(code, module.__dict__)
    return module


@cache
def _text(path: str) -> str:
    return Path(path).read_text()


@cache
def _compiled(path: str) -> CodeType:
    return compile(_text(path), path, "exec")


def _put(name: str, module: ModuleType) -> None:
    """Where those who import it find it."""
    whole = f"inversion.{name}"
    sys.modules[whole] = module
    package, _, last = whole.rpartition(".")
    setattr(sys.modules[package], last, module)
