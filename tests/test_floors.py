"""The house rules of architecture.md that a program can check, with the floor list as data.

The list is the docstring of `inversion`: a module imports only what stands above it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

import inversion

SOURCE = Path(inversion.__file__).parent
REPOSITORY = Path(__file__).parent.parent
FORBIDDEN_NAMES = {"utils", "helpers", "common", "base", "core", "manager"}
MOST_LINES = 400
MOST_DOCSTRING_LINES = 10

#: Library -> the only modules that may know it.
DOORS = {
    "psycopg": r"state\.(dialing|postgres)",
    "psycopg_binary": r"state\.(dialing|postgres)",
    "orjson": r"json_text",
    "msgspec": r"json_text",
    "structlog": r"observe\..*",
    "logging": r"observe\..*",
    "prometheus_client": r"observe\..*",
    "httptools": r"http\..*",
    "h11": r"protocol\.outgoing",
    "cattrs": r"config_file",
    "watchfiles": r"reload\.lookout",
    "cronsim": r"protocol\.cron",
    "zoneinfo": r"protocol\.cron",
    "click": r"cli(\..*)?",
    "rich": r"cli(\..*)?",
    "subprocess": r"processes\..*|embedded.*|nodes\.member|cli\.making",
    "asyncio": r"nothing",
    "threading": r"nothing",
}
#: What protocol/ must do without: it is sans-IO, and time arrives as an argument.
NOT_IN_PROTOCOL = {"trio", "time", "os", "random", "secrets", "logging", "socket", "threading"}


def _floors() -> list[str]:
    docstring = inversion.__doc__ or ""
    return re.findall(r"^ {4}([a-z_.]+)(?:  ? *\S.*)?$", docstring, re.MULTILINE)


FLOORS = _floors()


def _module_name(path: Path) -> str:
    """Dotted, without `inversion`; "" is the package itself."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_module_name(path): path for path in sorted(SOURCE.rglob("*.py"))}


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def imports(module: str) -> Iterator[str]:
    """Every module that this one imports, wherever in the file; ours without `inversion`."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield _ours(alias.name)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module}: relative import in line {node.lineno}"
            for alias in node.names:
                whole = _ours(f"{node.module}.{alias.name}")
                yield whole if whole in MODULES else _ours(node.module or "")


def _ours(name: str) -> str:
    return (
        name.removeprefix("inversion").removeprefix(".") if name.split(".")[0] == "inversion" else f"/{name}"
    )


def library(name: str) -> str | None:
    """The top-level package of a foreign import; None: it is ours."""
    return name[1:].split(".")[0] if name.startswith("/") else None


def listed(module: str) -> bool:
    """Whether a module needs a floor: packages that hold nothing but a docstring do not."""
    path = MODULES[module]
    bare = path.name == "__init__.py" and all(isinstance(node, ast.Expr) for node in tree(module).body)
    return module != "" and not bare


def test_the_floor_list_is_found() -> None:
    assert "transition" in FLOORS
    assert FLOORS[0] == "errors"


def test_every_module_stands_in_the_floor_list_once() -> None:
    modules = sorted(module for module in MODULES if listed(module))
    assert sorted(FLOORS) == modules


@pytest.mark.parametrize("module", [module for module in MODULES if listed(module)])
def test_a_module_imports_only_what_stands_above_it(module: str) -> None:
    above = FLOORS[: FLOORS.index(module)] if module in FLOORS else FLOORS
    wrong = {name for name in imports(module) if library(name) is None and name not in ("", *above)}
    assert not wrong, f"{module} imports {wrong}, which do not stand above it"


@pytest.mark.parametrize("module", MODULES)
def test_a_library_is_known_to_its_door_only(module: str) -> None:
    for name in imports(module):
        door = DOORS.get(library(name) or "")
        assert door is None or re.fullmatch(door, module), f"{module} imports {name[1:]}"


@pytest.mark.parametrize("module", [module for module in MODULES if module.startswith("protocol")])
def test_protocol_is_sans_io(module: str) -> None:
    assert not {library(name) for name in imports(module)} & NOT_IN_PROTOCOL
    for node in ast.walk(tree(module)):
        if (
            isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id == "datetime"
        ):
            assert node.attr not in ("now", "utcnow", "today"), f"{module}:{node.lineno}: reads a clock"


def test_state_and_processes_never_import_each_other() -> None:
    for module in MODULES:
        wing = module.split(".")[0]
        if wing in ("state", "processes"):
            other = "processes" if wing == "state" else "state"
            assert not [name for name in imports(module) if name.split(".")[0] == other], module


#: Where it begins a string: BEGIN, COMMIT and SHOW are a connection's business.
_SQL = re.compile(r"\s*(SELECT|INSERT|UPDATE|DELETE|WITH|CREATE|ALTER|DROP|TRUNCATE|GRANT)\s", re.DOTALL)


@pytest.mark.parametrize("module", [module for module in MODULES if not module.startswith("state.sql")])
def test_sql_stands_in_sql_files(module: str) -> None:
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    found = [
        node.value
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Constant)
        and isinstance(node.value, str | bytes)
        and id(node) not in docstrings
        and _SQL.match(node.value if isinstance(node.value, str) else node.value.decode("latin-1"))
    ]
    assert not found


_SPAWNING = {
    ("os", "kill"),
    ("os", "killpg"),
    ("os", "fork"),
    ("os", "posix_spawn"),
    ("os", "posix_spawnp"),
    ("signal", "pidfd_send_signal"),
    ("trio", "run_process"),
    ("lowlevel", "open_process"),
}


@pytest.mark.parametrize("module", MODULES)
def test_only_the_process_wing_spawns_and_signals(module: str) -> None:
    if re.fullmatch(r"processes\.(left_behind|spawner|spawner_process)|embedded.*|pid_one", module):
        return
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Attribute):
            owner = node.value
            name = owner.id if isinstance(owner, ast.Name) else getattr(owner, "attr", "")
            assert (name, node.attr) not in _SPAWNING, f"{module}:{node.lineno}"


@pytest.mark.parametrize("module", MODULES)
def test_a_module_is_short_named_for_what_it_is_and_says_what_it_is_for(module: str) -> None:
    text = MODULES[module].read_text(encoding="utf-8")
    assert not set(module.split(".")) & FORBIDDEN_NAMES
    assert len(text.splitlines()) <= MOST_LINES
    docstring = ast.get_docstring(tree(module))
    assert docstring, "a module begins with its contract"
    if module != "":
        prose = [
            line for line in docstring.splitlines() if not line.startswith("    ")
        ]  # tables are indented
        assert len(prose) <= MOST_DOCSTRING_LINES


@pytest.mark.parametrize("module", MODULES)
def test_nothing_is_swallowed_slept_away_or_put_off(module: str) -> None:
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.ExceptHandler):
            silent = len(node.body) == 1 and isinstance(node.body[0], ast.Pass)
            assert not silent, f"{module}:{node.lineno}: use contextlib.suppress and say why"
            assert node.type is not None, f"{module}:{node.lineno}: a bare except"
        if isinstance(node, ast.Attribute) and node.attr == "sleep" and isinstance(node.value, ast.Name):
            assert node.value.id != "time", f"{module}:{node.lineno}: blocks the loop"
    assert not re.search(r"\b(TODO|FIXME|XXX)\b", MODULES[module].read_text(encoding="utf-8"))


def test_a_shim_never_imports_inversion() -> None:
    shims = [path for path in (REPOSITORY / "runtimes").rglob("*") if path.is_file()]
    assert shims
    pattern = re.compile(
        rb"""^\s*(?:from|import)\s+inversion\b(?!_)|(?:require\(|from\s+)["']inversion["'/]""", re.MULTILINE
    )
    for path in shims:
        assert not pattern.search(path.read_bytes()), path
