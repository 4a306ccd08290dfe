"""The other functions, while one misbehaves: their callers hardly notice."""

from __future__ import annotations

import os
import signal
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from hostility import NEIGHBOURS, cpu_s, hostile, in_each_language, said, until
from neighbour import ahead_in_niceness, ahead_in_real_time, pace

#: Written at once, before anybody reads: a pipe of its own takes no more.
PIPE_BYTES = 1 << 20


@pytest.fixture
def same_priority():
    """What the measurement does to this thread's priority and place is undone."""
    nice = os.getpriority(os.PRIO_PROCESS, 0)
    processors = os.sched_getaffinity(0)
    yield
    os.sched_setaffinity(0, processors)
    os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    os.setpriority(os.PRIO_PROCESS, 0, nice)


def written_bytes(pid: int) -> int:
    lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    return int(dict(line.split(": ") for line in lines)["wchar"])


def is_asleep(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] == "S"


BEGUN = {
    "never": lambda pid: is_asleep(pid) and len(os.listdir(f"/proc/{pid}/fd")) >= 3,
    "spins": lambda pid: cpu_s(pid) > 0.2,
}


async def pid_of_one_that_answers(node):
    """A message may still meet the one that was killed: nothing runs again here."""
    with trio.fail_after(20):
        while (answer := await node.call("hostile/k/pid", 0)).status != 200:
            assert said(answer)[1] == "function_crashed", answer.body
    return int(answer.body)


async def the_pace_is_kept(node, row, handler, *, within, ahead):
    """Misbehave in each round, with a process that answered before and is killed at the end."""
    begun = BEGUN.get(handler, lambda pid: written_bytes(pid) > PIPE_BYTES)

    @asynccontextmanager
    async def misconduct():
        pid = await pid_of_one_that_answers(node)
        answers = []

        async def call():
            answers.append(await node.call(f"hostile/k/{handler}", {}))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(call)
            await until(lambda: begun(pid))
            row.fired(f"{handler} goes on")
            yield
            os.kill(pid, signal.SIGKILL)
        code = "response_too_large" if handler == "endless_answer" else "function_crashed"
        assert said(answers[0]) == (502, code, "not_applied"), answers

    found = await pace(node, misconduct, within=within, ahead=ahead)
    row.fired(str(found))
    await pid_of_one_that_answers(node)
    row.recovered()


@in_each_language
@pytest.mark.fault("F8", "a process that never answers, beside a well function")
async def test_a_process_that_never_answers_is_hardly_noticed_by_neighbours(
    language, row, served, same_priority
):
    with served(hostile(language, timeout='"60s"', rerun="0") + NEIGHBOURS) as node:
        for _ in range(row.times):
            await the_pace_is_kept(node, row, "never", within=1.5, ahead=ahead_in_real_time)


@in_each_language
@pytest.mark.parametrize("handler", ["floods_stderr", "floods_stdout", "floods_almost_frames"])
@pytest.mark.fault("F12", "lines on stderr or stdout without an end, beside a well function")
async def test_a_flood_is_hardly_noticed_by_neighbours(language, handler, row, served, same_priority):
    with served(hostile(language, timeout='"60s"', rerun="0") + NEIGHBOURS) as node:
        for _ in range(row.times):
            await the_pace_is_kept(node, row, handler, within=1.5, ahead=ahead_in_real_time)


@in_each_language
@pytest.mark.fault("F5", "an answer without an end, beside a well function")
async def test_an_endless_answer_is_hardly_noticed_by_neighbours(language, row, served, same_priority):
    with served(hostile(language, timeout='"60s"', rerun="0") + NEIGHBOURS) as node:
        for _ in range(row.times):
            await the_pace_is_kept(node, row, "endless_answer", within=1.5, ahead=ahead_in_real_time)


@in_each_language
@pytest.mark.fault("F15", "a process in an endless loop, beside a well function")
async def test_a_process_that_spins_is_hardly_noticed_by_neighbours(language, row, served, same_priority):
    with served(hostile(language, timeout='"60s"', rerun="0") + NEIGHBOURS) as node:
        for _ in range(row.times):
            await the_pace_is_kept(node, row, "spins", within=3, ahead=ahead_in_niceness)
