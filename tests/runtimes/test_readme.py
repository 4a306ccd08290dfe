"""What runtimes/README.md shows works: its functions are run, its frames are parsed."""

from __future__ import annotations

import json
import re
import shutil
import sys
import tomllib
from pathlib import Path

import pytest
import trio
from hand_host import RUNTIMES, WAIT_S, playing

from frame_schemas import faults, kind_of
from inversion.errors import Code

BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", (RUNTIMES / "README.md").read_text(), re.DOTALL | re.MULTILINE)
NOW = "2026-11-24T02:11:00.000Z"  # what the shortened messages of the page have not
PYTHON = [sys.executable, "function"]


def blocks(language: str) -> list[str]:
    return [text for name, text in BLOCKS if name == language]


FIRST_FUNCTIONS = [
    pytest.param(PYTHON, blocks("python")[0], True, id="python with the shim"),
    pytest.param(PYTHON, blocks("python")[1], False, id="python without"),
    pytest.param(
        ["bash", "function"],
        blocks("bash")[0],
        True,
        id="bash with the shim",
        marks=pytest.mark.toolchain("bash", "jq"),
    ),
    pytest.param(
        ["sh", "function"], blocks("sh")[0], False, id="sh without", marks=pytest.mark.toolchain("jq")
    ),
]


@pytest.mark.parametrize(("command", "text", "hello"), FIRST_FUNCTIONS)
async def test_a_first_function_of_the_readme_counts(
    tmp_path: Path, command: list[str], text: str, hello: bool
) -> None:
    assert len([line for line in text.splitlines() if line]) <= 10
    for shim in ("python/shim.py", "bash/shim.sh"):
        shutil.copy(RUNTIMES / shim, tmp_path)
    (tmp_path / "function").write_text(text)
    async with playing(command, tmp_path) as runtime:
        if hello:
            assert "add" in (await runtime.hello())["handlers"]
        assert await runtime.ask("add") == {"response": 1, "state": {"count": 1}}
        assert await runtime.ask("add", 2, {"count": 40}) == {"response": 42, "state": {"count": 42}}
        assert await runtime.leave() == 0


def test_the_frames_of_the_readme_are_json_one_a_line() -> None:
    for text in blocks("json"):
        for line in text.splitlines():
            assert isinstance(json.loads(line), dict)


async def test_the_exec_function_of_the_readme_counts(tmp_path: Path) -> None:
    (table,) = tomllib.loads(blocks("toml")[0])["functions"].values()
    (tmp_path / "old").write_bytes(b"")
    for count in (b"1\n", b"2\n"):
        with trio.fail_after(WAIT_S):
            done = await trio.run_process(
                ["sh", "-c", 'exec "$@" 3<old 4>new', "sh", *table["command"]],
                cwd=tmp_path,
                capture_stdout=True,
            )
        assert (done.stdout, (tmp_path / "new").read_bytes()) == (count, count)
        (tmp_path / "new").rename(tmp_path / "old")


def test_the_codes_of_the_readme_are_the_closed_list() -> None:
    text = (RUNTIMES / "README.md").read_text()
    section = text.partition("## Errors\n")[2].partition("\n## ")[0]
    rows = [line for line in section.splitlines() if line.startswith("| ") and "`" in line]
    listed = re.findall(r"`(\w+)`", " ".join(rows))
    assert sorted(listed) == sorted(code.wire for code in Code)


def test_the_frames_of_the_readme_are_frames_by_the_schemas() -> None:
    for line in filter(None, "\n".join(blocks("json")).splitlines()):
        frame = json.loads(line)
        if "ctx" in frame:
            kind = "turn-in" if "messages" in frame else "message-in"
            frame.get("messages", [{}])[-1].update(attempt=1, now=NOW, deadline=NOW, seed="9f", meta={})
        else:
            kind = kind_of(frame)
        assert faults(kind, frame) == [], line
