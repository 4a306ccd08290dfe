"""What the shims start: nothing of another language. Each counter answers a message under strace, which sees
every program that is executed on the way.
"""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from hand_host import RUNTIMES, WAIT_S, message_in

from fix_builds import BUILD_S, BUILDS, built

#: Programs that run what people write in a language, by that language.
INTERPRETERS = {
    "python": "python|pypy",
    "node": "node|nodejs|deno|bun",
    "perl": "perl",
    "ruby": "ruby",
    "php": "php",
    "lua": "lua|luajit|texlua",
    "jq": "jq",
    "awk": "awk|mawk|gawk|busybox",
    "java": "java",
    "elixir": "beam.smp|erl|elixir|escript",
}
ALLOWED = {"bash": {"jq"}}

with (RUNTIMES / "inversion.toml").open("rb") as opened:
    COMMANDS = {
        name.removeprefix("counter-"): function["command"]
        for name, function in tomllib.load(opened)["functions"].items()
        if name.startswith("counter-") and name != "counter-jq-alone"  # which has no shim
    }


def languages() -> list[object]:
    scripts = [pytest.param(name, marks=pytest.mark.toolchain(run[0])) for name, run in COMMANDS.items()]
    timeout = pytest.mark.timeout(BUILD_S)
    builds = [
        pytest.param(name, marks=[pytest.mark.toolchain(shlex.split(build.line)[0]), timeout])
        for name, build in BUILDS.items()
    ]
    return [*scripts, *builds]


@pytest.mark.toolchain("strace")
@pytest.mark.parametrize("language", languages())
def test_a_shim_starts_no_other_language(language: str, tmp_path: Path) -> None:
    command = list(built(language, "counter")) if language in BUILDS else list(COMMANDS[language])
    if command[0] == "python3":
        command[0] = sys.executable  # a version manager's python3 is a script
    traced = tmp_path / "executed"
    done = subprocess.run(
        ["strace", "-f", "-qq", "-e", "trace=execve", "-o", str(traced), *command],
        input=json.dumps(message_in("a.1", "add", 2)).encode() + b"\n",
        cwd=RUNTIMES,
        capture_output=True,
        timeout=3 * WAIT_S,
        check=True,
    )
    assert json.loads(done.stdout.splitlines()[-1])["response"] == 2
    executed = re.findall(r'execve\("([^"]*)".*= 0$', traced.read_text(), re.MULTILINE)
    assert executed
    started = {other for path in executed for other in INTERPRETERS if _runs(other, Path(path).name)}
    assert started <= ALLOWED.get(language, {language}), executed


def _runs(language: str, program: str) -> bool:
    return re.fullmatch(rf"(?:{INTERPRETERS[language]})[\d.]*", program) is not None
