"""Reads inversion.toml: `load(path) -> Config`, or a `ConfigError` with one sentence for each fault.

tomllib parses, cattrs structures straight into the frozen classes of config.py. A sentence names the file,
the dotted key, what is wrong and the nearest right key. Nothing is ignored: an unknown key is a fault, and
so is a key that this release cannot honour yet.
"""

from __future__ import annotations

import difflib
import tomllib
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

import attrs
from cattrs import ClassValidationError, Converter, ForbiddenExtraKeysError
from cattrs.gen import make_dict_structure_fn, override

from inversion import config_values as values
from inversion.config import (
    Arguments,
    Channel,
    Config,
    Correlate,
    Crash,
    Function,
    HelloRule,
    Http,
    Limits,
    Mode,
    Processes,
    Queues,
    Retention,
    Retry,
    Sandbox,
    Walls,
)
from inversion.names import NAME
from inversion.protocol.schedules import read_table

FILE_NAME: Final = "inversion.toml"

#: Keys that belong to a mode; with another one they would do nothing.
_LINES_ONLY: Final = ("hello", "channel", "correlate", "strict", "rerun", "idle")
_EXEC_ONLY: Final = ("input", "output", "exit", "arguments")
_CGI_ONLY: Final = ("crash",)
#: A CGI program keeps no state and takes no messages.
_NOT_CGI: Final = ("state", "retry", "cron")

#: What interface.md promises and nothing honours yet.
_LATER_RETENTIONS: Final = ("tombstones",)

#: Places of values that do not come from the function's own table; no TOML key of a user reaches them.
_NAME_SLOT: Final = "\0name"
_FOLDER_SLOT: Final = "\0folder"


class ConfigError(Exception):
    """inversion.toml cannot be used. `faults` has one sentence each; `str()` is all of them, a line each."""

    def __init__(self, faults: Iterable[str]) -> None:
        self.faults = tuple(faults)
        super().__init__("\n".join(self.faults))


def load(path: Path) -> Config:
    """Read inversion.toml; `path` is the file or its folder. Raises ConfigError."""
    file = path / FILE_NAME if path.is_dir() else path
    shown = str(file)
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise ConfigError(
            [f"{shown}: there is no such file; write one, or run one program with `inversion dev ./FILE`"]
        ) from None
    except UnicodeDecodeError as error:
        raise ConfigError([f"{shown}: not UTF-8 at byte {error.start}"]) from None
    except OSError as error:
        raise ConfigError([f"{shown}: cannot be read: {error.strerror}"]) from None
    try:
        table = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError([f"{shown}: not valid TOML: {error}"]) from None
    config, faults = _config(table, file.resolve().parent)
    if faults:
        raise ConfigError(f"{shown}: {fault}" for fault in faults)
    return config


# --- the whole file -------------------------------------------------------------------------------------


def _config(table: dict[str, object], folder: Path) -> tuple[Config, list[str]]:
    faults: list[str] = []
    known = ("functions", "http", "limits", "retention")
    for key in sorted(table.keys() - set(known)):
        faults.append(f"unknown key {key}{_nearest(key, known)}")
    functions = _functions(table.get("functions", {}), folder, faults)
    limits = _table(Limits, table.get("limits", {}), "limits", faults)
    http = _table(Http, table.get("http", {}), "http", faults)
    if http is not None:
        faults.extend(f"http.{fault}" for fault in _retry_faults(http.retry))
    retention = _retention(table.get("retention", {}), faults)
    if faults or limits is None or http is None or retention is None:
        return Config(), faults
    return Config(functions, limits, http, retention, folder), faults


def _retention(table: object, faults: list[str]) -> Retention | None:
    if isinstance(table, dict):
        for key in _LATER_RETENTIONS:
            if key in table:
                faults.append(f"retention.{key} {values.LATER}")
        table = {key: value for key, value in table.items() if key not in _LATER_RETENTIONS}
    return _table(Retention, table, "retention", faults)


def _functions(tables: object, folder: Path, faults: list[str]) -> dict[str, Function]:
    if not isinstance(tables, dict) or not tables:
        faults.append('it lists no function: add [functions.NAME] with command = ["program", "argument"]')
        return {}
    functions: dict[str, Function] = {}
    for name, table in tables.items():
        path = f"functions.{name}"
        if NAME.fullmatch(name) is None:
            faults.append(
                f'{path}: a function is named by a lower-case letter, then at most 62 of a-z, 0-9, "_", "-"'
            )
        if not isinstance(table, dict):
            faults.append(f"{path} must be a table, not {values.shown(table)}: write [{path}]")
            continue
        own = {key: value for key, value in table.items() if key != "cron"}
        function = _table(Function, {**own, _NAME_SLOT: name, _FOLDER_SLOT: folder}, path, faults)
        cron = read_table(table.get("cron", {}))
        faults.extend(f"{path}.cron{fault}" for fault in cron.faults)
        if function is not None:
            function = attrs.evolve(function, cron=cron.schedules)
            faults.extend(f"{path}.{fault}" for fault in _contradictions(function, table))
            functions[name] = attrs.evolve(function, state=False) if function.mode is Mode.CGI else function
    return functions


def _contradictions(function: Function, table: Mapping[str, object]) -> list[str]:
    """What each key allows and all of them together do not."""
    faults = []
    mode = function.mode
    for only, keys in ((Mode.LINES, _LINES_ONLY), (Mode.EXEC, _EXEC_ONLY), (Mode.CGI, _CGI_ONLY)):
        if mode is not only:
            faults += [
                f'{key} belongs to mode = "{only.value}" and this is "{mode.value}"'
                for key in keys
                if key in table
            ]
    if mode is Mode.CGI:
        faults += [
            f'{key} does not go with mode = "cgi": it keeps no state and takes no messages'
            for key in _NOT_CGI
            if key in table
        ]
    if function.sandbox is Sandbox.NONE and "limits" in table:
        faults.append('limits belongs to sandbox = "basic" and this is "none"')
    faults.extend(_retry_faults(function.retry))
    if not function.state:
        for schedule in function.cron.values():
            if schedule.key is not None:
                faults.append(
                    f"cron.{schedule.name}.key belongs to a function with state = true: leave it out"
                )
    processes = function.processes
    if processes.min > processes.max:
        faults.append(f"processes: min = {processes.min} is more than max = {processes.max}")
    if mode is not Mode.LINES and processes.min > 0:
        faults.append(
            f'processes.min belongs to mode = "lines": "{mode.value}" starts a process for each call'
        )
    return faults


def _retry_faults(retry: Retry) -> list[str]:
    too_long = retry.pause_s > retry.longest_pause_s
    return ["retry: pause is longer than longest_pause"] if too_long else []


# --- one table, through cattrs --------------------------------------------------------------------------

TableT = TypeVar("TableT")


def _table(cls: type[TableT], table: object, path: str, faults: list[str]) -> TableT | None:
    """Structure one table; None when it has faults, which are added to `faults`."""
    if not isinstance(table, dict):
        faults.append(f"{path} must be a table, not {values.shown(table)}: write [{path}]")
        return None
    try:
        return _converter.structure(table, cls)
    except ClassValidationError as error:
        faults.extend(_sentences(error, path))
        return None


def _sentences(error: ClassValidationError, path: str) -> list[str]:
    """One sentence for each fault that cattrs found, the dotted key first."""
    keys = _KEYS[error.cl]
    sentences = []
    for fault in error.exceptions:
        if isinstance(fault, ForbiddenExtraKeysError):
            for key in sorted(fault.extra_fields):
                sentences.append(f"unknown key {path}.{key}{_nearest(key, keys.values())}")
            continue
        attribute = next(note.name for note in fault.__notes__ if hasattr(note, "name"))
        where = f"{path}.{keys[attribute]}"
        if isinstance(fault, ClassValidationError):
            sentences.extend(_sentences(fault, where))
        elif isinstance(fault, KeyError):
            sentences.append(f"{where} is missing")
        else:
            sentences.append(f"{where} {fault}")
    return sentences


def _nearest(key: str, known: Iterable[str]) -> str:
    names = sorted(name for name in known if not name.startswith("\0"))
    near = difflib.get_close_matches(key, names, n=1)
    return f"; did you mean {near[0]}?" if near else f"; known here: {', '.join(names)}"


#: Several parts of a request travel in one statement, and PostgreSQL takes at most 1 GiB.
_part = values.size(1, 64 << 20)
_queue = values.whole(1, 1_000_000)

#: Class -> attribute -> (key in the file, what its value may be; None: a table of its own).
_SHAPES: Final[dict[type, dict[str, tuple[str, Callable[[object], object] | None]]]] = {
    # A machine's process table is the real limit; more is a typing error.
    Processes: {"min": ("min", values.whole(0, 1_000)), "max": ("max", values.whole(1, 1_000))},
    Queues: {"entity": ("entity", _queue), "function": ("function", _queue), "node": ("node", _queue)},
    Limits: {
        "body_bytes": ("body", _part),
        "state_bytes": ("state", _part),
        "response_bytes": ("response", _part),
        "effects_bytes": ("effects", _part),
        "queue": ("queue", None),
        "connections": ("connections", values.whole(1, 1_000_000)),
        "cache_bytes": ("cache", values.size(0, 1 << 50)),
        "in_flight_bytes": ("in_flight", values.size(0, 1 << 50)),
        "drain_s": ("drain", values.duration(zero=True)),
    },
    Walls: {
        # The spawner, a small Python, lives within them too.
        "memory_bytes": ("memory", values.size(32 << 20, 1 << 50)),
        "files": ("files", values.whole(64, 1 << 20)),
        "processes": ("processes", values.whole(1, 1 << 20)),
    },
    Retry: {
        # More is a typing error: with the longest pauses a thousand last for days.
        "attempts": ("attempts", values.whole(1, 1_000)),
        "max_age_s": ("max_age", values.duration(zero=False)),
        "pause_s": ("pause", values.duration(zero=True)),
        "longest_pause_s": ("longest_pause", values.duration(zero=True)),
    },
    Http: {
        "read_state": ("read_state", values.boolean),
        "allow": ("allow", values.allow_list),
        "timeout_s": ("timeout", values.duration(zero=False)),
        "retry": ("retry", None),
    },
    Retention: {
        "keys_s": ("keys", values.duration(zero=False)),
        "outputs_s": ("outputs", values.duration(zero=False)),
        "dead_letters_s": ("dead_letters", values.duration(zero=False)),
    },
    Function: {
        "name": (_NAME_SLOT, lambda name: name),
        "folder": (_FOLDER_SLOT, lambda folder: folder),
        "command": ("command", values.command),
        "mode": ("mode", values.choice(Mode)),
        "timeout_s": ("timeout", values.duration(zero=False)),
        "processes": ("processes", None),
        "idle_s": ("idle", values.duration(zero=False)),
        "grace_s": ("grace", values.duration(zero=True)),
        "state": ("state", values.boolean),
        "hello": ("hello", values.choice(HelloRule)),
        "channel": ("channel", values.choice(Channel)),
        "correlate": ("correlate", values.choice(Correlate)),
        "strict": ("strict", values.boolean),
        "rerun": ("rerun", values.whole(0, 10)),
        "sandbox": ("sandbox", values.choice(Sandbox, Sandbox.STRICT)),
        "limits": ("limits", None),
        "retry": ("retry", None),
        "input": ("input", values.media_type),
        "output": ("output", values.media_type),
        "exit": ("exit", values.exit_statuses),
        "arguments": ("arguments", values.choice(Arguments)),
        "crash": ("crash", values.choice(Crash)),
        "env": ("env", values.env),
    },
}
_KEYS: Final = {
    cls: {attribute: key for attribute, (key, _) in shape.items()} for cls, shape in _SHAPES.items()
}


def _make_converter() -> Converter:
    converter = Converter(detailed_validation=True)
    for cls, shape in _SHAPES.items():
        overrides: dict[str, Any] = {
            attribute.name: override(omit=True)
            for attribute in attrs.fields(cls)  # what is read elsewhere
        }
        for attribute, (key, hook) in shape.items():
            overrides[attribute] = override(rename=key, struct_hook=None if hook is None else _hook(hook))
        structure: Any = make_dict_structure_fn(
            cls, converter, _cattrs_forbid_extra_keys=True, _cattrs_detailed_validation=True, **overrides
        )
        converter.register_structure_hook(cls, _tables_only(structure))
    return converter


def _hook(read: Callable[[object], object]) -> Callable[[object, type], object]:
    return lambda value, _: read(value)


def _tables_only(structure: Callable[[object, type], object]) -> Callable[[object, type], object]:
    def checked(value: object, cls: type) -> object:
        if not isinstance(value, dict):
            raise ValueError(f"must be a table, not {values.shown(value)}")
        return structure(value, cls)

    return checked


_converter: Final = _make_converter()
