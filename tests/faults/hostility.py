"""What the tests of hostile functions share: their configuration in two languages, and what they look at."""

from __future__ import annotations

import base64
import os
import re
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest
import trio
from front_door import Answer, get

from fix_node import PYTHON, RUNTIMES, LiveNode

FUNCTIONS = Path(__file__).parent.parent / "functions"
COMMANDS = {
    "python": [PYTHON, str(FUNCTIONS / "hostile.py")],
    "node": ["node", str(FUNCTIONS / "hostile.js")],
}
#: Each test of a hostile function runs once for each of them.
in_each_language = pytest.mark.parametrize(
    "language", ["python", pytest.param("node", marks=pytest.mark.toolchain("node"))]
)

#: A function that does no harm, stateless and not.
NEIGHBOURS = f"""
[functions.neighbour]
command = ["{PYTHON}", "{RUNTIMES}/python/counter.py"]
state = false

[functions.counter]
command = ["{PYTHON}", "{RUNTIMES}/python/counter.py"]
"""


def hostile(language: str, *flags: str, name: str = "hostile", **settings: str) -> str:
    """Its section of inversion.toml; one process unless `processes` says otherwise, settings as written.

    It says hello unless there are other flags: without one a node waits a second for it at its start.
    """
    given = {"timeout": '"2s"', "grace": '"200ms"', "processes": "{ max = 1 }", **settings}
    command = orjson.dumps([*COMMANDS[language], *(flags or ["--hello"])]).decode()
    lines = [f"[functions.{name}]", f"command = {command}"]
    return "\n".join([*lines, *(f"{key} = {value}" for key, value in given.items())]) + "\n"


def lines(*texts: bytes) -> list[str]:
    """The message that makes handler `lines` write these."""
    return [base64.b64encode(zlib.compress(text)).decode() for text in texts]


def problem(answer: Answer) -> dict[str, Any]:
    """A problem body, whose outcome is the header's too."""
    assert answer.fields["content-type"] == "application/problem+json", answer
    body: dict[str, Any] = orjson.loads(answer.body)
    assert body["outcome"] == answer.fields["inversion-outcome"]
    return body


def said(answer: Answer) -> tuple[int, str, str]:
    """(status, code, outcome) of a problem."""
    body = problem(answer)
    return answer.status, body["code"], body["outcome"]


async def lines_logged(node: LiveNode, stream: str, name: str = "hostile") -> int:
    """How many lines of it the node has logged."""
    text = (await node.send(get(b"/metrics"), admin=True)).body.decode()
    (count,) = re.findall(
        rf'^inversion_function_{stream}_lines_total{{function="{name}"}} (\S+)$', text, re.M
    )
    return int(float(count))


def alive(pid: int) -> bool:
    """Is it there, and no zombie?"""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def running(folder: Path, word: str) -> list[int]:
    """The pids of the functions of this folder that have `word` in their command."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            here = entry.name.isdigit() and (entry / "cwd").readlink() == folder
            if here and word.encode() in (entry / "cmdline").read_bytes().split(b"\0"):
                found.append(int(entry.name))
        except OSError:
            continue  # it has just ended
    return found


async def until(happened: Callable[[], bool], within_s: float = 20.0) -> None:
    """Look until it is so."""
    with trio.fail_after(within_s):
        while not happened():  # noqa: ASYNC110  # another process makes it so
            await trio.sleep(0.005)


def cpu_s(pid: int) -> float:
    """The processor time it has used; 0: it is gone."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    except (FileNotFoundError, ProcessLookupError):
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_bytes(pid: int, what: str = "VmRSS") -> int:
    """The memory of a process that is in RAM; `VmHWM`: the most it ever was."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(what + ":"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no {what} in the status of {pid}")
