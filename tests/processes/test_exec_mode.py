"""Programs that know nothing of us: one process per call."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
import trio
from serving import gone, python, serving, together, until

from inversion.config import Function, Limits, Mode, Processes
from inversion.errors import Abandoned, Code, Overrun, ProcessDied, RuntimeBroken
from inversion.messages import Change, State
from plain import a_request, a_turn

OLD = State(b'{"n":1}', 7, b"t" * 16)


def shell(folder: Path, script: str, **settings: object) -> Function:
    return Function("fn", ("bash", "-c", script), folder, mode=Mode.EXEC, **settings)  # type: ignore[arg-type]


async def test_the_body_goes_to_stdin_and_stdout_is_the_response(tmp_path):
    async with serving(shell(tmp_path, "cat")) as served:
        out = await served.call(b"\x00not json\xff", key=None)
    assert out.answers[0].response == b"\x00not json\xff"
    assert (out.change, out.content_type) == (Change.KEEP, "application/octet-stream")


async def test_a_body_larger_than_a_pipe_goes_through(tmp_path):
    body = os.urandom(1 << 20)
    async with serving(shell(tmp_path, "cat")) as served:
        assert (await served.call(body, key=None)).answers[0].response == body


async def test_a_program_that_does_not_read_its_input_may_answer(tmp_path):
    async with serving(shell(tmp_path, "echo done")) as served:
        assert (await served.call(b"x" * (1 << 20), key=None)).answers[0].response == b"done\n"


async def test_json_output_is_checked_and_put_on_one_line(tmp_path):
    function = shell(tmp_path, "printf '{\"a\":\\n 1E5}\\n'", output="json")
    async with serving(function) as served:
        out = await served.call(key=None)
    assert (out.answers[0].response, out.content_type) == (b'{"a":  1E5}', "application/json")


@pytest.mark.parametrize("printed", ["nonsense", "", "{} {}", "1e999"])
async def test_json_output_that_is_none_is_a_protocol_error(tmp_path, printed):
    async with serving(shell(tmp_path, f"printf '{printed}'", output="json")) as served:
        with pytest.raises(RuntimeBroken, match="fn: stdout") as caught:
            await served.call(key=None)
    assert caught.value.code is Code.PROTOCOL_ERROR


async def test_a_media_type_is_the_responses(tmp_path):
    async with serving(shell(tmp_path, "cat", output="text/plain")) as served:
        assert (await served.call(key=None)).content_type == "text/plain"


async def test_the_context_stands_in_the_environment(tmp_path):
    code = """
        print(json.dumps({k[10:]: v for k, v in os.environ.items() if k.startswith("INVERSION_")}))
    """
    function = python(tmp_path, code, mode=Mode.EXEC)
    async with serving(function) as served:
        request = a_request("ключ", n=5)
        request.trace = "00-aa-bb-01"
        request.attempt = 2
        out = await served.run(a_turn(request), OLD)
    context = json.loads(out.answers[0].response or b"")
    assert context.pop("CHILD")  # the spawner's mark
    assert context == {
        "ID": "r5.2",
        "FUNCTION": "counter",
        "KEY": "ключ",
        "HANDLER": "add",
        "VERSION": "7",
        "ATTEMPT": "2",
        "NOW": request.now,
        "DEADLINE": request.deadline,
        "SEED": request.seed,
        "TRACE": "00-aa-bb-01",
        "CONTENT_TYPE": "application/json",
    }


async def test_a_stateless_call_has_no_key_and_no_version(tmp_path):
    async with serving(shell(tmp_path, 'echo "${INVERSION_KEY-unset} ${INVERSION_VERSION-unset}"')) as served:
        assert (await served.call(key=None)).answers[0].response == b"unset unset\n"


@pytest.mark.parametrize(
    ("script", "change", "state"),
    [
        ("true", Change.KEEP, None),
        ("cat <&3 >&4", Change.PUT, b'{"n":1}'),
        ("echo null >&4", Change.PUT, b"null"),
        ("echo >&4", Change.DELETE, None),
        ("printf '[1,\\n2]' >&4", Change.PUT, b"[1, 2]"),
    ],
)
async def test_what_is_written_to_fd_4_changes_the_state(tmp_path, script, change, state):
    async with serving(shell(tmp_path, script)) as served:
        out = await served.call(state=OLD)
    assert (out.change, out.state) == (change, state)
    assert out.answers[0].changed is (change is not Change.KEEP)


async def test_without_a_state_fd_3_is_empty(tmp_path):
    async with serving(shell(tmp_path, "wc -c <&3; [ -s /dev/fd/3 ] || echo none")) as served:
        assert (await served.call()).answers[0].response == b"0\nnone\n"


async def test_a_state_is_read_from_its_beginning_and_has_its_size(tmp_path):
    async with serving(shell(tmp_path, "[ -s /dev/fd/3 ] && cat /dev/fd/3 && cat <&3")) as served:
        assert (await served.call(state=OLD)).answers[0].response == b'{"n":1}' * 2


@pytest.mark.parametrize("written", ["nonsense", " ", "\\n\\n", "{} {}"])
async def test_a_new_state_that_is_no_json_is_a_protocol_error(tmp_path, written):
    async with serving(shell(tmp_path, f"printf '{written}' >&4")) as served:
        with pytest.raises(RuntimeBroken, match="fd 4") as caught:
            await served.call(state=OLD)
    assert caught.value.code is Code.PROTOCOL_ERROR


async def test_a_stateless_call_that_writes_a_state_is_a_protocol_error(tmp_path):
    async with serving(shell(tmp_path, "echo 1 >&4")) as served:
        with pytest.raises(RuntimeBroken, match="stateless") as caught:
            await served.call(key=None)
    assert caught.value.code is Code.PROTOCOL_ERROR


async def test_a_failing_program_is_a_crash_with_its_status_and_stderr(tmp_path):
    async with serving(shell(tmp_path, "echo 1 >&4; echo oh no >&2; exit 3")) as served:
        with pytest.raises(
            RuntimeBroken, match="function fn: its process ended with exit status 3"
        ) as caught:
            await served.call(state=OLD)
    assert caught.value.code is Code.FUNCTION_CRASHED
    assert caught.value.extra == {"exit_status": 3, "stderr": "oh no"}
    assert not isinstance(caught.value, ProcessDied)  # or it would be run again


async def test_a_program_killed_by_a_signal_is_a_crash_that_names_it(tmp_path):
    async with serving(shell(tmp_path, "kill -SEGV $$")) as served:
        with pytest.raises(RuntimeBroken, match="signal SIGSEGV") as caught:
            await served.call()
    assert caught.value.extra["signal"] == "SIGSEGV"


async def test_a_mapped_exit_status_is_the_functions_own_error(tmp_path):
    function = shell(tmp_path, "echo 1 >&4; echo wrong colour >&2; exit 1", exit={1: 422})
    async with serving(function) as served:
        out = await served.call(state=OLD)
    error = out.answers[0].error
    assert error is not None
    assert (error.status, error.message, error.code) == (422, "wrong colour", "function_error")
    assert (out.change, out.state) == (Change.KEEP, None)


async def test_a_mapped_exit_without_stderr_says_what_stdout_said(tmp_path):
    async with serving(shell(tmp_path, "echo no such thing; exit 4", exit={4: 404})) as served:
        error = (await served.call()).answers[0].error
    assert error is not None
    assert (error.status, error.message) == (404, "no such thing")
    assert error.details == b'{"exit_status":4}'


async def test_arguments_stand_behind_those_of_the_command(tmp_path):
    async with serving(shell(tmp_path, 'printf "%s|" "$0" "$@"')) as served:
        request = served.request()
        request.arguments = ("-x", "a b", "\udcff")
        assert (await served.run(a_turn(request))).answers[0].response == b"-x|a b|\xff|"


@pytest.mark.parametrize(
    ("script", "code"),
    [
        ("yes | head -c 2000000", Code.RESPONSE_TOO_LARGE),
        ("yes", Code.RESPONSE_TOO_LARGE),
        ("yes >&4", Code.STATE_TOO_LARGE),
        ("head -c 1001 /dev/zero; sleep 0", Code.RESPONSE_TOO_LARGE),
    ],
)
async def test_too_much_output_ends_the_call(tmp_path, script, code):
    async with serving(
        shell(tmp_path, script), limits=Limits(response_bytes=1_000, state_bytes=1_000)
    ) as served:
        with pytest.raises(Overrun, match="1000 bytes") as caught:
            await served.call(state=OLD)
        assert caught.value.code is code
        assert (await together(served.call(state=OLD)))[0].code is code  # the pool goes on


async def test_output_at_the_limit_is_fine(tmp_path):
    limits = Limits(response_bytes=1_000)
    async with serving(shell(tmp_path, "head -c 1000 /dev/zero"), limits=limits) as served:
        assert (await served.call()).answers[0].response == bytes(1_000)


async def test_no_more_than_max_run_at_a_time_and_the_rest_waits(tmp_path):
    script = f"mkdir {tmp_path}/lock && sleep 0.05 && rmdir {tmp_path}/lock"
    async with serving(shell(tmp_path, script, processes=Processes(max=1))) as served:
        outs = await together(*(served.call() for _ in range(4)))
    assert [out.change for out in outs] == [Change.KEEP] * 4


async def test_a_timeout_ends_the_group_and_answers(tmp_path):
    script = f"trap '' TERM; (trap '' TERM; echo $BASHPID > {tmp_path}/pid; sleep 60) & wait; sleep 60"
    async with serving(shell(tmp_path, script, timeout_s=0.3, grace_s=0.1)) as served:
        with pytest.raises(RuntimeBroken, match=r"timeout of 0\.3 seconds") as caught:
            await served.call()
        assert caught.value.code is Code.FUNCTION_TIMEOUT
        await until(lambda: not served.pool().processes)
    await gone(int((tmp_path / "pid").read_text()))


async def test_a_grandchild_that_keeps_stdout_open_holds_nothing_up(tmp_path):
    async with serving(shell(tmp_path, f"sleep 60 & echo $! > {tmp_path}/pid; echo here")) as served:
        assert (await served.call()).answers[0].response == b"here\n"
        await gone(int((tmp_path / "pid").read_text()))


async def test_a_turn_that_nobody_waits_for_is_withdrawn_from_the_queue(tmp_path):
    async with serving(shell(tmp_path, "sleep 60", processes=Processes(max=1))) as served:
        late = served.request()
        late.answered = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(together, served.call())
            await until(lambda: served.pool().in_flight == 1)
            with pytest.raises(Abandoned):
                await served.run(a_turn(late))
            nursery.cancel_scope.cancel()


async def test_a_command_that_does_not_exist_is_a_problem_and_the_rest_runs(tmp_path):
    missing = Function("missing", ("no-such-program",), tmp_path, mode=Mode.EXEC)
    async with serving(missing, shell(tmp_path, "cat")) as served:
        assert "no-such-program" in (served.pool("missing").problem or "")
        with pytest.raises(RuntimeBroken, match="install it") as caught:
            await served.call(name="missing")
        assert caught.value.code is Code.NO_RUNTIME
        assert (await served.call(b"x")).answers[0].response == b"x"


async def test_the_start_is_known_for_the_head_of_the_line(tmp_path):
    async with serving(shell(tmp_path, "sleep 60", processes=Processes(max=1))) as served:
        running, waiting = a_turn(served.request()), a_turn(served.request())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(together, served.run(running))
            await until(lambda: served.pool().in_flight == 1)
            nursery.start_soon(together, served.run(waiting))
            await until(lambda: served.pool().waiting == 1)
            assert served.pool().begun_s(running) is not None
            assert served.pool().begun_s(waiting) is None
            nursery.cancel_scope.cancel()


async def test_draining_waits_for_what_runs(tmp_path):
    async with serving(shell(tmp_path, f"touch {tmp_path}/up; sleep 0.2; echo done")) as served:

        async def drain():
            await until((tmp_path / "up").exists)
            await served.supervisor.drain()

        out, _ = await together(served.call(), drain())
        assert out.answers[0].response == b"done\n"
        with pytest.raises(RuntimeBroken, match="shutting down"):
            await served.call()
