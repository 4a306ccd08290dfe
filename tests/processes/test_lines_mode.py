"""The pool of one function: how messages are spread, what is kept running, how it ends."""

from __future__ import annotations

import os
import signal
from textwrap import dedent

import pytest
import trio
from serving import python, serving, together, until

from inversion.config import Function, HelloRule, Processes
from inversion.errors import Abandoned, Code, RuntimeBroken
from inversion.messages import State
from plain import a_turn

COUNTER = """
serve(lambda f: {"response": f["message"], "state": {"n": (f.get("state") or {"n": 0})["n"] + f["message"]}})
"""
HELLO = 'out({"hello": {"protocol": 1, "runtime": "test/1", "pipeline": 8, "batch": 8}})\n'
PID = 'serve(lambda f: {"response": os.getpid()})'


def only(folder, line: str, **settings) -> Function:
    """A program that runs one line of bash for each frame it reads."""
    script = f'while IFS= read -r frame; do id=${{frame#*:\\"}}; id=${{id%%\\"*}}; {line}; done'
    return Function("fn", ("bash", "-c", script), folder, **settings)


@pytest.mark.slow
async def test_slow_calls_are_spread_over_more_processes_up_to_max(tmp_path):
    code = 'serve(lambda f: (time.sleep(0.15), {"response": os.getpid()})[1])'
    async with serving(python(tmp_path, code, processes=Processes(max=3))) as served:
        await served.call()
        outs = await together(*(served.call() for _ in range(12)))
        assert len({out.answers[0].response for out in outs}) in (2, 3)
        assert len(served.pool().processes) <= 3


@pytest.mark.slow
async def test_idle_processes_retire_to_min(tmp_path):
    code = 'serve(lambda f: (time.sleep(0.1), {"response": os.getpid()})[1])'
    function = python(tmp_path, code, processes=Processes(min=1, max=3), idle_s=0.3)
    async with serving(function) as served:
        await together(*(served.call() for _ in range(6)))
        await until(lambda: len(served.pool().processes) == 1)
        await served.call()


async def test_min_processes_are_kept_after_a_death(tmp_path):
    async with serving(python(tmp_path, PID, processes=Processes(min=2, max=2))) as served:
        await until(lambda: len([p for p in served.pool().processes if p.pid]) == 2)
        victim = served.pool().processes[0].pid
        os.kill(victim, signal.SIGKILL)
        await until(lambda: len([p for p in served.pool().processes if p.pid != victim]) == 2)


async def test_an_exclusive_message_has_a_process_to_itself(tmp_path):
    code = HELLO + dedent("""
        import select
        stdin = open(0, "rb", buffering=0)  # nothing is read ahead
        while line := stdin.readline():
            frame = json.loads(line)
            alone = not select.select([0], [], [], 0.1 if frame["message"] else 0)[0]
            out({"id": frame["id"], "response": alone})
    """)
    async with serving(python(tmp_path, code, processes=Processes(max=1))) as served:
        await served.call(b"0")
        request = served.request(b"1")
        request.alone = True
        outs = await together(
            *(served.call(b"0") for _ in range(4)),
            served.run(a_turn(request)),
            *(served.call(b"0") for _ in range(4)),
        )
        assert outs[4].answers[0].response == b"true"
        assert all(not isinstance(out, Exception) for out in outs)


async def test_a_turn_of_several_goes_in_one_frame(tmp_path):
    code = HELLO + dedent("""
        for line in sys.stdin:
            f = json.loads(line)
            n = f.get("state") or 0
            if "messages" in f:
                answers = []
                for m in f["messages"]:
                    n += m["message"]
                    answers.append({"id": m["id"], "response": n})
                out({"id": f["id"], "answers": answers, "state": n})
            else:
                out({"id": f["id"], "response": n + f["message"], "state": n + f["message"]})
    """)
    async with serving(python(tmp_path, code)) as served:
        await served.supervisor.first_words(10)
        turn = a_turn(*(served.request(b"%d" % n) for n in (1, 2, 3)))
        out = await served.run(turn, State(b"10", 1, b"t" * 16))
        assert ([answer.response for answer in out.answers], out.state) == ([b"11", b"13", b"16"], b"16")


async def test_a_turn_that_the_new_code_cannot_take_is_cut_again(tmp_path):
    async with serving(python(tmp_path, "serve(lambda f: {})", hello=HelloRule.NONE)) as served:
        with pytest.raises(Abandoned):
            await served.run(a_turn(served.request(), served.request()))


async def test_a_turn_that_nobody_waits_for_is_withdrawn(tmp_path):
    async with serving(python(tmp_path, "time.sleep(60)", processes=Processes(max=1))) as served:
        late = served.request()
        late.answered = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(together, served.call())
            await until(lambda: served.pool().in_flight == 1)
            with pytest.raises(Abandoned):
                await served.run(a_turn(late))
            nursery.cancel_scope.cancel()


async def test_the_start_is_known_for_the_oldest_in_a_process_only(tmp_path):
    code = HELLO + 'out({"id": json.loads(sys.stdin.readline())["id"]})\ntime.sleep(60)'
    async with serving(python(tmp_path, code, processes=Processes(max=1))) as served:
        await served.call()
        turns = [a_turn(served.request()) for _ in range(3)]
        async with trio.open_nursery() as nursery:
            for number, turn in enumerate(turns):
                nursery.start_soon(together, served.run(turn))
                await until(lambda: served.pool().in_flight + served.pool().waiting == number + 1)  # noqa: B023
            assert [served.pool().begun_s(turn) is not None for turn in turns] == [True, False, False]
            nursery.cancel_scope.cancel()


async def test_draining_finishes_what_is_in_flight_and_sends_processes_home(tmp_path):
    code = """
        for line in sys.stdin:
            time.sleep(0.2)
            out({"id": json.loads(line)["id"], "response": 1})
        open("left", "w").close()
    """
    async with serving(python(tmp_path, code, processes=Processes(max=1))) as served:

        async def drain():
            await until(lambda: served.pool().in_flight == 1)
            await served.supervisor.drain()

        first, second, _ = await together(served.call(), served.call(), drain())
        assert (first.answers[0].response, second.answers[0].response) == (b"1", b"1")
        assert (tmp_path / "left").exists()
        assert not served.pool().processes
        with pytest.raises(RuntimeBroken, match="shutting down") as caught:
            await served.call()
        assert caught.value.code is Code.DRAINING


@pytest.mark.slow
async def test_a_process_that_ignores_eof_is_ended_by_a_drain(tmp_path):
    function = Function("fn", ("sleep", "60"), tmp_path, grace_s=0.1)
    async with serving(function) as served:
        await served.supervisor.drain()
        assert not served.pool().processes
