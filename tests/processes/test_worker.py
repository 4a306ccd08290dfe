"""One process and its conversation: what protocol.md promises, rule by rule."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from textwrap import dedent

import pytest
import trio
from serving import gone, python, serving, together, until

from inversion.config import Channel, Correlate, Function, HelloRule, Limits, Processes
from inversion.errors import Code, FunctionError, Overrun, ProcessDied, RuntimeBroken
from inversion.messages import SILENT, Change, MessageOut, State
from inversion.processes import worker

COUNTER = """
serve(lambda f: {"response": f["message"], "state": {"n": (f.get("state") or {"n": 0})["n"] + f["message"]}})
"""
HELLO = 'out({"hello": {"protocol": 1, "runtime": "test/1", "pipeline": 8, "batch": 8}})\n'
PID = 'serve(lambda f: {"response": os.getpid()})'


def only(folder, line: str, **settings) -> Function:
    """A program that runs one line of bash for each frame it reads."""
    script = f'while IFS= read -r frame; do id=${{frame#*:\\"}}; id=${{id%%\\"*}}; {line}; done'
    return Function("fn", ("bash", "-c", script), folder, **settings)


# -- the straight way ------------------------------------------------------------------------------------


async def test_a_message_goes_in_with_its_state_and_comes_out_with_the_next(tmp_path):
    async with serving(python(tmp_path, COUNTER)) as served:
        out = await served.call(b"2", state=State(b'{"n":40}', 1, b"t" * 16))
        assert (out.change, out.state, out.answers[0].response) == (Change.PUT, b'{"n": 42}', b"2")


async def test_bash_is_a_runtime_too(tmp_path):
    async with serving(only(tmp_path, 'echo "{\\"id\\":\\"$id\\",\\"response\\":42}"')) as served:
        for _ in range(3):
            assert (await served.call()).answers[0].response == b"42"
        assert served.pool().hello == SILENT


async def test_one_process_answers_many_calls_at_a_time(tmp_path):
    async with serving(python(tmp_path, HELLO + PID, processes=Processes(max=1))) as served:
        outs = await together(*(served.call() for _ in range(50)))
        assert len({out.answers[0].response for out in outs}) == 1


@pytest.mark.slow
async def test_answers_in_another_order_find_their_callers(tmp_path):
    code = HELLO + dedent("""
        import select
        stdin = open(0, "rb", buffering=0)  # nothing is read ahead
        while line := stdin.readline():
            held = [json.loads(line)]
            while select.select([0], [], [], 0.1)[0] and (line := stdin.readline()):
                held.append(json.loads(line))
            for f in reversed(held):
                out({"id": f["id"], "response": f["message"]})
        """)
    async with serving(python(tmp_path, code, processes=Processes(max=1))) as served:
        outs = await together(*(served.call(b"%d" % n) for n in range(10)))
        assert [out.answers[0].response for out in outs] == [b"%d" % n for n in range(10)]


async def test_large_frames_go_through_both_ways(tmp_path):
    body = b'"' + b"x" * 1_000_000 + b'"'
    code = HELLO + 'serve(lambda f: {"response": f["message"], "state": f["state"]})'
    async with serving(python(tmp_path, code)) as served:
        outs = await together(*(served.call(body, state=State(body, 1, b"t" * 16)) for _ in range(8)))
        assert all(out.answers[0].response == body and out.state == body for out in outs)


async def test_an_error_is_an_answer_and_the_process_lives_on(tmp_path):
    code = 'serve(lambda f: {"error": {"status": 409}} if f["message"] else {"response": os.getpid()})'
    async with serving(python(tmp_path, code, processes=Processes(max=1))) as served:
        first = await served.call(b"0")
        answer = (await served.call(b"1")).answers[0]
        assert (answer.error, answer.response) == (
            FunctionError("function_error", "", 409, None, False),
            None,
        )
        assert (await served.call(b"0")).answers[0].response == first.answers[0].response


# -- hello -----------------------------------------------------------------------------------------------


async def test_the_hello_is_read_at_start_without_a_call(tmp_path):
    async with serving(python(tmp_path, HELLO + PID)) as served:
        await served.supervisor.first_words(10)
        pool = served.pool()
        assert pool.hello is not None
        assert (pool.hello.runtime, pool.batch) == ("test/1", 8)
        assert served.supervisor.reports()[0].sentence == "test/1, any handler, pipeline 8, batch 8"


async def test_before_its_first_word_a_process_gets_one_message(tmp_path):
    code = """
        first = sys.stdin.readline()
        import select
        more = select.select([0], [], [], 0.2)[0]
        out({"id": json.loads(first)["id"], "response": bool(more)})
        serve(lambda f: {})
    """
    async with serving(python(tmp_path, code, processes=Processes(max=1))) as served:
        outs = await together(*(served.call() for _ in range(4)))
        assert b"true" not in [out.answers[0].response for out in outs]


async def test_a_required_hello_comes_before_any_message(tmp_path):
    code = """
        import select
        silent = not select.select([0], [], [], 0.1)[0]
        out({"hello": {"protocol": 1}})
        serve(lambda f: {"response": silent})
    """
    async with serving(python(tmp_path, code, hello=HelloRule.REQUIRED)) as served:
        assert (await served.call()).answers[0].response == b"true"


async def test_a_process_that_ends_before_its_required_hello_fails_the_waiting_calls(tmp_path):
    code = 'print("cannot", file=sys.stderr); sys.exit(3)'
    async with serving(python(tmp_path, code, hello=HelloRule.REQUIRED)) as served:
        with pytest.raises(RuntimeBroken, match="exit status 3") as caught:
            await served.call()
        assert caught.value.extra == {"exit_status": 3, "stderr": "cannot"}


@pytest.mark.slow
async def test_no_required_hello_in_time_ends_the_process(tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "HELLO_S", 0.3)
    async with serving(python(tmp_path, "serve(lambda f: {})", hello=HelloRule.REQUIRED)) as served:
        async with trio.open_nursery() as nursery:
            caught = []

            async def call():
                caught.extend(await together(served.call()))

            nursery.start_soon(call)
        assert "did not say hello within 0.3 seconds" in caught[0].detail


async def test_silence_in_time_is_taken_for_a_silent_runtime(tmp_path):
    async with serving(python(tmp_path, "serve(lambda f: {})")) as served:
        assert served.pool().hello is None
        served.supervisor.sweep(served.pool().processes[0].started_s + 10.1)
        assert served.pool().hello is SILENT
        await served.supervisor.first_words(10)


async def test_a_hello_that_cannot_be_kept_ends_the_process(tmp_path):
    code = 'out({"hello": {"protocol": 7}})\nserve(lambda f: {})'
    async with serving(python(tmp_path, code)) as served:
        with pytest.raises(ProcessDied, match="protocol 7") as caught:
            await served.call()
        assert caught.value.code is Code.PROTOCOL_ERROR


# -- what is no frame ------------------------------------------------------------------------------------


async def test_prints_before_and_between_frames_are_log_lines(tmp_path):
    code = """
        print("starting")
        for line in sys.stdin:
            print("got", "one")
            out({"id": json.loads(line)["id"], "response": 1})
            print("done")
    """
    async with serving(python(tmp_path, code)) as served:
        for _ in range(2):
            assert (await served.call()).answers[0].response == b"1"
        await served.logged("done")
        texts = [text for function, stream, text in served.logs if (function, stream) == ("fn", "stdout")]
        assert texts[:1] == ["starting"]
        assert {"got one", "done"} <= set(texts)
        assert sum('channel = "fd3"' in text for text in texts) == 1  # the hint, once a process


async def test_strict_ends_a_process_that_prints(tmp_path):
    async with serving(python(tmp_path, 'print("hi")\nserve(lambda f: {})', strict=True)) as served:
        with pytest.raises(ProcessDied, match="strict") as caught:
            await served.call()
        assert caught.value.code is Code.PROTOCOL_ERROR


async def test_on_fd3_stdout_is_only_a_log(tmp_path):
    code = """
        frames = os.fdopen(3, "w")
        for line in sys.stdin:
            print('{"id":"nobody","response":1}')
            frames.write(json.dumps({"id": json.loads(line)["id"], "response": 3}) + "\\n")
            frames.flush()
    """
    async with serving(python(tmp_path, code, channel=Channel.FD3)) as served:
        assert (await served.call()).answers[0].response == b"3"
        await served.logged("nobody")


async def test_in_order_a_program_without_ids_answers(tmp_path):
    function = only(
        tmp_path, 'echo "{\\"response\\":$((n+=1))}"', correlate=Correlate.ORDER, processes=Processes(max=1)
    )
    async with serving(function) as served:
        outs = await together(*(served.call() for _ in range(5)))
        assert sorted(out.answers[0].response for out in outs) == [b"1", b"2", b"3", b"4", b"5"]


async def test_in_order_a_printed_line_ends_the_process(tmp_path):
    async with serving(only(tmp_path, "echo hello", correlate=Correlate.ORDER)) as served:
        with pytest.raises(ProcessDied, match="no answer"):
            await served.call()


# -- broken runtimes -------------------------------------------------------------------------------------


async def test_a_wrong_id_ends_the_process_and_the_next_call_gets_another(tmp_path):
    code = """
        for line in sys.stdin:
            frame = json.loads(line)
            out({"id": "wrong" if frame["message"] else frame["id"], "response": os.getpid()})
    """
    async with serving(python(tmp_path, code, processes=Processes(max=1))) as served:
        before = await served.call(b"0")
        with pytest.raises(ProcessDied, match="'wrong'") as caught:
            await served.call(b"1")
        assert caught.value.code is Code.PROTOCOL_ERROR
        after = await served.call(b"0")
        assert after.answers[0].response != before.answers[0].response


@pytest.mark.slow
async def test_two_answers_for_one_id_end_the_process(tmp_path):
    code = """
        for line in sys.stdin:
            frame = {"id": json.loads(line)["id"], "response": os.getpid()}
            out(frame); out(frame)
    """
    async with serving(python(tmp_path, code, processes=Processes(max=1))) as served:
        first = await served.call()
        await until(lambda: not served.pool().processes)
        assert (await served.call()).answers[0].response != first.answers[0].response


async def test_a_process_that_exits_at_once_is_a_death_with_status_and_stderr(tmp_path):
    code = 'print("no module named x", file=sys.stderr); sys.exit(7)'
    async with serving(python(tmp_path, code)) as served:
        with pytest.raises(ProcessDied, match="exit status 7") as caught:
            await served.call()
        assert caught.value.code is Code.FUNCTION_CRASHED
        assert caught.value.extra == {"exit_status": 7, "stderr": "no module named x"}
        assert served.supervisor.reports()[0].ok is False


async def test_a_process_that_dies_of_a_signal_names_it(tmp_path):
    async with serving(python(tmp_path, "serve(lambda f: os.kill(os.getpid(), 9))")) as served:
        with pytest.raises(ProcessDied, match="signal SIGKILL") as caught:
            await served.call()
        assert caught.value.extra["signal"] == "SIGKILL"


#: The first process answers what it is told to, then hangs; the ones after it answer everything.
HANGS_ONCE = HELLO + dedent("""
    first = not os.path.exists("begun")
    open("begun", "w").close()
    for line in sys.stdin:
        f = json.loads(line)
        if not first or f["message"] == 0:
            out({"id": f["id"], "response": "here"})
    """)


async def test_all_that_was_in_flight_dies_with_the_process(tmp_path):
    async with serving(python(tmp_path, HANGS_ONCE, processes=Processes(max=1))) as served:
        await served.call(b"0")
        pool = served.pool()
        in_flight = 0

        async def kill():
            nonlocal in_flight
            await until(lambda: pool.in_flight + pool.waiting == 3 and pool.processes[0].pid)
            in_flight = pool.in_flight
            os.kill(pool.processes[0].pid, signal.SIGKILL)

        results = (await together(*(served.call(b"1") for _ in range(3)), kill()))[:3]
        assert sum(isinstance(result, ProcessDied) for result in results) == in_flight > 0
        assert sum(isinstance(result, MessageOut) for result in results) == 3 - in_flight


async def test_an_answer_written_before_the_exit_counts(tmp_path):
    code = 'out({"id": json.loads(sys.stdin.readline())["id"], "response": 1}); sys.exit(9)'
    async with serving(python(tmp_path, code)) as served:
        assert (await served.call()).answers[0].response == b"1"


async def test_a_torn_last_line_is_no_answer(tmp_path):
    code = """
        sys.stdout.write(json.dumps({"id": json.loads(sys.stdin.readline())["id"]}))
        sys.stdout.flush()
    """
    async with serving(python(tmp_path, code)) as served:
        with pytest.raises(ProcessDied, match="exit status 0"):
            await served.call()
        await served.logged("thrown away")


async def test_invalid_utf8_in_an_answer_fails_that_call_only(tmp_path):
    code = """
        for line in sys.stdin:
            frame = json.loads(line)
            bad = b'"\\xff"' if frame["message"] else b"%d" % os.getpid()
            os.write(1, b'{"id":"%b","response":%b}\\n' % (frame["id"].encode(), bad))
    """
    async with serving(python(tmp_path, code, processes=Processes(max=1))) as served:
        before = await served.call(b"0")
        with pytest.raises(RuntimeBroken, match="function fn: its response") as caught:
            await served.call(b"1")
        assert caught.value.code is Code.PROTOCOL_ERROR
        assert not isinstance(caught.value, ProcessDied)
        assert (await served.call(b"0")).answers[0].response == before.answers[0].response


async def test_an_over_long_answer_fails_that_call_only(tmp_path):
    code = 'serve(lambda f: {"response": "x" * 300_000 if f["message"] else os.getpid()})'
    limits = Limits(body_bytes=100, state_bytes=100, response_bytes=100, effects_bytes=100)
    async with serving(python(tmp_path, code, processes=Processes(max=1)), limits=limits) as served:
        before = await served.call(b"0")
        with pytest.raises(Overrun):
            await served.call(b"1")
        assert (await served.call(b"0")).answers[0].response == before.answers[0].response


@pytest.mark.slow
async def test_a_process_that_closes_stdout_has_a_second_to_exit(tmp_path):
    code = 'os.close(1); sys.stdin.readline(); open("reading", "w").close(); time.sleep(60)'
    async with serving(python(tmp_path, code)) as served:
        with pytest.raises(ProcessDied, match="closed its end of a pipe"):
            await served.call()
        await until(lambda: not served.pool().processes)


@pytest.mark.slow
async def test_a_process_that_never_reads_blocks_nobody(tmp_path):
    body = b'"' + b"x" * 1_000_000 + b'"'
    deaf = python(tmp_path, HELLO + "time.sleep(60)", name="deaf", timeout_s=0.5, grace_s=0.1)
    async with serving(deaf, python(tmp_path, COUNTER)) as served:
        async with trio.open_nursery() as nursery:
            stuck = []

            async def call():
                stuck.extend(await together(*(served.call(body, name="deaf") for _ in range(2))))

            nursery.start_soon(call)
            await until(lambda: served.pool("deaf").in_flight > 0)
            for _ in range(20):
                assert (await served.call(b"1")).state == b'{"n": 1}'
            assert not stuck
        assert any(result.code is Code.FUNCTION_TIMEOUT for result in stuck)


async def test_a_process_that_floods_stderr_and_stdout_still_answers(tmp_path):
    code = """
        for line in sys.stdin:
            sys.stderr.write("e" * 300_000 + "\\n")
            for _ in range(3_000): print("noise " * 5)
            out({"id": json.loads(line)["id"], "response": 1})
    """
    async with serving(python(tmp_path, code)) as served:
        for _ in range(3):
            assert (await served.call()).answers[0].response == b"1"
        assert sum(len(text) for _, _, text in served.logs) < 1_000_000
        assert max(len(text) for _, _, text in served.logs) < 10_000


async def test_a_process_that_prints_for_ever_costs_only_its_own_calls(tmp_path):
    flood = Function("flood", ("yes",), tmp_path, timeout_s=0.5, grace_s=0.1)
    async with serving(flood, python(tmp_path, COUNTER)) as served:
        async with trio.open_nursery() as nursery:
            flooded = []

            async def call():
                flooded.extend(await together(served.call(name="flood")))

            nursery.start_soon(call)
            await served.logged("y")
            for _ in range(20):
                assert (await served.call(b"1")).state == b'{"n": 1}'
        assert flooded[0].code is Code.FUNCTION_TIMEOUT
        assert len(served.logs) < 500_000


# -- timeouts and ends -----------------------------------------------------------------------------------


@pytest.mark.slow
async def test_the_oldest_of_a_process_that_hangs_times_out_and_the_others_run_again(tmp_path):
    function = python(tmp_path, HANGS_ONCE, processes=Processes(max=1), timeout_s=1.0, grace_s=0.1)
    async with serving(function) as served:
        await served.call(b"0")
        results = await together(*(served.call(b"1") for _ in range(3)))
        late = [result for result in results if getattr(result, "code", None) is Code.FUNCTION_TIMEOUT]
        assert len(late) == 1
        assert not isinstance(late[0], ProcessDied)
        assert "timeout of 1 seconds" in late[0].detail
        assert all(isinstance(result, ProcessDied | MessageOut) for result in results if result not in late)


@pytest.mark.slow
async def test_a_process_that_ignores_term_is_killed_with_its_group(tmp_path):
    code = """
        import signal, subprocess
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        grandchild = subprocess.Popen(["bash", "-c", "trap '' TERM; sleep 60; true"])
        sys.stdin.readline()
        open("pids", "w").write(f"{os.getpid()} {grandchild.pid}")
        time.sleep(60)
    """
    async with serving(python(tmp_path, code, timeout_s=0.5, grace_s=0.1)) as served:
        with pytest.raises(RuntimeBroken, match="timeout"):
            await served.call()
        await until(lambda: not served.pool().processes)
        for pid in (tmp_path / "pids").read_text().split():
            await gone(int(pid))


async def test_grandchildren_go_with_a_leader_that_exits(tmp_path):
    code = """
        import subprocess
        child = subprocess.Popen(["sleep", "60"])
        out({"id": json.loads(sys.stdin.readline())["id"], "response": child.pid})
    """
    async with serving(python(tmp_path, code)) as served:
        out = await served.call()
        await gone(int(out.answers[0].response or b"0"))


async def test_no_child_is_left_when_the_supervisor_is_cancelled(tmp_path):
    code = """
        import signal, subprocess
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        child = subprocess.Popen(["sleep", "60"])
        serve(lambda f: {"response": [os.getpid(), child.pid]})
    """
    async with serving(python(tmp_path, code)) as served:
        out = await served.call()
    leader, grandchild = json.loads(out.answers[0].response or b"[]")
    assert not (Path("/proc") / str(leader)).exists()  # reaped, not a zombie
    await gone(grandchild)
