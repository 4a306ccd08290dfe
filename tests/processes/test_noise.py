"""What a child writes that is no answer has its share of the loop's time, and no more."""

from __future__ import annotations

import os
from contextlib import closing
from time import perf_counter

import pytest
from serving import python, serving, until

from inversion.config import Channel
from inversion.errors import ProcessDied
from inversion.processes.log_lines import LogLines
from inversion.processes.noise import ANSWER_S, BURST_S, SHARE, LogPipe, Noise
from inversion.watch import Watch


@pytest.fixture
def watch():
    with closing(Watch()) as watch:
        yield watch


@pytest.fixture
def pipe():
    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    yield read_end, write_end
    os.close(read_end)
    os.close(write_end)


def calls_of(watch, calls):
    """How often the pipe was served in three rounds."""
    calls.clear()
    for _ in range(3):
        watch._serve_round()
    return len(calls)


def test_a_pipe_whose_share_is_used_up_is_left_alone_until_there_is_some_again(watch, pipe):
    calls = []
    noise = Noise(watch, pipe[0])

    def call():
        calls.append(1)

    watch.add(pipe[0], call)
    os.write(pipe[1], b"x")
    now_s = perf_counter()
    noise.sweep(now_s, call)
    noise.spend(BURST_S / 2)
    assert calls_of(watch, calls) == 3
    noise.spend(BURST_S / 2)
    assert calls_of(watch, calls) == 0
    noise.sweep(now_s, call)
    assert calls_of(watch, calls) == 0
    noise.sweep(now_s + 0.001, call)
    assert calls_of(watch, calls) == 3
    noise.spend(1.0)  # most of such an overdraft is forgiven
    noise.sweep(now_s + 0.01 / SHARE, call)
    assert calls_of(watch, calls) == 3


def test_what_is_saved_up_is_bounded(watch, pipe):
    calls = []
    noise = Noise(watch, pipe[0])

    def call():
        calls.append(1)

    watch.add(pipe[0], call)
    os.write(pipe[1], b"x")
    noise.sweep(1e9, call)
    noise.spend(BURST_S)
    assert calls_of(watch, calls) == 0


def test_answers_pay_for_the_lines_between_them(watch, pipe):
    calls = []
    noise = Noise(watch, pipe[0])
    watch.add(pipe[0], lambda: calls.append(1))
    os.write(pipe[1], b"x")
    for _ in range(10 * int(BURST_S / ANSWER_S)):
        noise.spend(ANSWER_S)
        noise.left_s += ANSWER_S
    assert calls_of(watch, calls) == 3


def test_a_stopped_pipe_is_not_registered_again(watch, pipe):
    calls = []
    noise = Noise(watch, pipe[0])

    def call():
        calls.append(1)

    watch.add(pipe[0], call)
    os.write(pipe[1], b"x")
    noise.spend(BURST_S)
    noise.stop()
    noise.sweep(1e9, call)
    assert calls_of(watch, calls) == 0


def test_a_log_pipe_reads_on_to_its_end(watch, pipe):
    told = []
    LogPipe(watch, pipe[0], LogLines("fn", "stderr", lambda *line: told.append(line)))
    os.write(pipe[1], b"one\ntw")
    watch._serve_round()
    os.write(pipe[1], b"o\n")
    watch._serve_round()
    assert told == [("fn", "stderr", "one"), ("fn", "stderr", "two")]


@pytest.mark.slow
async def test_what_was_dropped_is_told_when_the_flood_is_over(tmp_path):
    code = """
        def answer(frame):
            sys.stderr.write("noise\\n" * 10_000)
            return {"response": 1}
        serve(answer)
    """
    async with serving(python(tmp_path, code)) as served:
        assert (await served.call()).answers[0].response == b"1"
        await served.logged("bytes dropped")


async def test_a_flood_on_stdout_beside_fd3_is_read_on(tmp_path):
    code = """
        frames = os.fdopen(3, "w")
        for line in sys.stdin:
            sys.stdout.write("noise\\n" * 200_000)
            sys.stdout.flush()
            frames.write(json.dumps({"id": json.loads(line)["id"], "response": 3}) + "\\n")
            frames.flush()
    """
    async with serving(python(tmp_path, code, channel=Channel.FD3)) as served:
        for _ in range(3):
            assert (await served.call()).answers[0].response == b"3"
        assert len(served.logs) < 20_000


@pytest.mark.slow
async def test_answers_between_many_lines_are_found(tmp_path):
    code = """
        for line in sys.stdin:
            for _ in range(5_000): print('{"almost":"a frame"}')
            out({"id": json.loads(line)["id"], "response": os.getpid()})
            for _ in range(5_000): print("y")
    """
    async with serving(python(tmp_path, code)) as served:
        pids = {(await served.call()).answers[0].response for _ in range(5)}
        assert len(pids) == 1
        (view,) = served.pool().processes
        await until(lambda: served.pool().processes[0].strays >= 40_000)
        assert view.answered == 5


async def test_of_a_flood_that_a_dead_process_left_behind_only_the_beginning_is_read(tmp_path):
    flood = 40_000  # lines, as slow to read as any
    code = f"""
        sys.stdin.readline()
        os.write(1, b'{{"id":"x","response":\\n' * {flood})
        os._exit(0)
    """
    async with serving(python(tmp_path, code, rerun=0)) as served:
        with pytest.raises(ProcessDied):
            await served.call()
        await served.logged("bytes dropped")
        dropped = [int(text[1:].split()[0]) for _, _, text in served.logs if "bytes dropped" in text]
        assert sum(dropped) < flood * 22 * 0.75
