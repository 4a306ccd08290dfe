"""Programs nobody wrote for us, run as inversion.toml says and as the host would."""

from __future__ import annotations

import hashlib
import shlex
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest
import trio
from hand_host import RUNTIMES, WAIT_S, message_in, playing

with (RUNTIMES / "inversion.toml").open("rb") as opened:
    FUNCTIONS: dict[str, dict[str, Any]] = tomllib.load(opened)["functions"]


def command(function: str) -> list[str]:
    written = FUNCTIONS[function]["command"]
    return shlex.split(written) if isinstance(written, str) else written


async def execute(
    function: str, body: bytes, folder: Path | None = None
) -> subprocess.CompletedProcess[bytes]:
    """One call in mode = "exec"; in `folder` stand the old state for descriptor 3, the new one of 4."""
    run = command(function)
    if folder is not None:
        run = ["sh", "-c", 'exec "$@" 3<old 4>new', "sh", *run]
    with trio.fail_after(WAIT_S):
        return await trio.run_process(
            run,
            stdin=body,
            capture_stdout=True,
            capture_stderr=True,
            check=False,
            cwd=folder or RUNTIMES,
            env=FUNCTIONS[function].get("env"),
        )


@pytest.mark.toolchain("sha256sum")
async def test_sha256sum_answers_bytes_for_bytes() -> None:
    body = bytes(range(256)) * 1000
    done = await execute("sha256sum", body)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.split() == [hashlib.sha256(body).hexdigest().encode(), b"-"]


async def test_cat_echoes_any_bytes() -> None:
    body = bytes(range(256)) * 3000
    assert (await execute("echo-cat", body)).stdout == body


@pytest.mark.toolchain("awk")
@pytest.mark.parametrize(("body", "words"), [(b"", b"0\n"), (b"a b\n c  d \n\ne", b"5\n")])
async def test_awk_counts_words(body: bytes, words: bytes) -> None:
    assert (await execute("wordcount-awk", body)).stdout == words


async def test_sort_gets_its_environment_from_the_file() -> None:
    assert (await execute("sort", b"b\nB\na\nA\n")).stdout == b"A\nB\na\nb\n"


async def test_grep_that_finds_nothing_exits_with_what_the_file_makes_a_404() -> None:
    assert FUNCTIONS["grep-error"]["exit"] == {"1": 404}
    assert (await execute("grep-error", b"all is well\n")).returncode == 1
    assert (await execute("grep-error", b"one\nan Error\n")).stdout == b"an Error\n"


@pytest.mark.toolchain("awk")
async def test_awk_keeps_a_total_as_its_state(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    old.write_bytes(b"")  # there is no state yet
    for body, total in (
        (b"1\n2\n", b"3\n"),
        (b"0.25\n", b"3.25\n"),
        (b"", b"3.25\n"),
        (b"1e6\n", b"1000003.25\n"),
    ):
        done = await execute("total-awk", body, tmp_path)
        assert (done.returncode, done.stdout, new.read_bytes()) == (0, total, total)
        old.write_bytes(new.read_bytes().strip())


@pytest.mark.toolchain("sed")
async def test_sed_answers_each_line_with_one_line_and_no_id() -> None:
    async with playing(command("ping-sed")) as runtime:
        for number in range(3):
            await runtime.send(message_in(f"{number}.1", "call", "ping", key=None))
            assert await runtime.frame() == {"response": "pong"}
        assert await runtime.leave() == 0


async def test_every_command_of_the_file_names_a_file_that_is_there_or_a_program_on_the_path() -> None:
    for name in FUNCTIONS:
        program, *arguments = command(name)
        assert "/" not in program, f"{name}: a program of the distribution or a language"
        if name.startswith(("counter-", "cart-")) and name != "counter-jq-alone":
            assert (RUNTIMES / arguments[-1]).is_file(), name
