"""`inversion dev ./file`: how one file is run."""

from __future__ import annotations

from pathlib import Path

import pytest

from inversion.config import Mode
from inversion.config_file import ConfigError
from inversion.config_guess import guess, name_for


def make(folder: Path, name: str, content: bytes = b"", *, executable: bool = False) -> Path:
    path = folder / name
    path.write_bytes(content)
    if executable:
        path.chmod(0o755)
    return path


def command(path: Path) -> tuple[str, ...]:
    (function,) = guess(path).config.functions.values()
    assert function.folder == path.parent
    return function.command


def test_an_executable_with_a_shebang_runs_by_itself(tmp_path: Path) -> None:
    path = make(tmp_path, "counter.py", b"#!/usr/bin/env python3\n", executable=True)
    assert command(path) == ("./counter.py",)


def test_a_compiled_program_runs_by_itself(tmp_path: Path) -> None:
    assert command(make(tmp_path, "tool", b"\x7fELF\x02\x01", executable=True)) == ("./tool",)


@pytest.mark.parametrize(
    ("name", "interpreter"),
    [
        ("a.py", "python3"),
        ("a.js", "node"),
        ("a.mjs", "node"),
        ("a.sh", "bash"),
        ("a.rb", "ruby"),
        ("a.pl", "perl"),
        ("a.php", "php"),
        ("a.lua", "lua"),
    ],
)
def test_a_suffix_names_the_interpreter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, interpreter: str
) -> None:
    make(tmp_path, interpreter, b"#!/bin/sh\n", executable=True)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert command(make(tmp_path, name)) == (interpreter, name)


def test_without_python3_on_the_path_our_own_python_runs_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    program, name = command(make(tmp_path, "a.py"))
    assert Path(program).is_absolute()
    assert name == "a.py"


@pytest.mark.parametrize(
    ("name", "content", "remedy"),
    [
        ("notes.txt", b"hello", "Give it a first line such as"),
        ("tool", b"#!/bin/sh\n", "chmod \\+x"),
        ("prog", b"\x7fELF", "chmod \\+x"),
        ("a.ts", b"", "--experimental-strip-types"),
        ("a.go", b"", "build it"),
    ],
)
def test_what_cannot_be_guessed_is_an_error_with_a_remedy(
    tmp_path: Path, name: str, content: bytes, remedy: str
) -> None:
    with pytest.raises(ConfigError, match=remedy):
        guess(make(tmp_path, name, content))


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no such file"):
        guess(tmp_path / "nothing.py")


@pytest.mark.parametrize(
    ("content", "mode"),
    [
        (b"from shim import handler, serve\n", Mode.LINES),
        (b'print(\'{"id": 1, "response": 2}\')\n', Mode.LINES),
        (b"wc -w\n", Mode.EXEC),
    ],
)
def test_the_mode_is_guessed_from_the_text(tmp_path: Path, content: bytes, mode: Mode) -> None:
    found = guess(make(tmp_path, "a.sh", content))
    assert found.config.functions["a"].mode is mode
    assert f'mode = "{mode.value}"' in found.reason


def test_a_file_called_cgi_is_a_cgi_program(tmp_path: Path) -> None:
    file = make(tmp_path, "hello.cgi", b"#!/bin/sh\n# inversion: a response\n")
    file.chmod(0o755)
    found = guess(file)
    function = found.config.functions["hello"]
    assert (function.mode, function.state, function.command) == (Mode.CGI, False, ("./hello.cgi",))
    assert 'mode = "cgi"' in found.reason


def test_a_mode_that_is_given_is_not_guessed(tmp_path: Path) -> None:
    config = guess(make(tmp_path, "a.sh", b"wc -w\n"), Mode.LINES).config
    assert config.functions["a"].mode is Mode.LINES


@pytest.mark.parametrize(
    ("file", "name"),
    [
        ("counter.py", "counter"),
        ("My Cart.tar.gz", "my-cart"),
        ("3d.sh", "f-3d"),
        ("_x.py", "f-_x"),
        ("...", "f"),
        ("x" * 80, "x" * 63),
    ],
)
def test_the_function_is_named_after_the_file(file: str, name: str) -> None:
    assert name_for(Path(file)) == name
