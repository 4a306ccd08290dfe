"""What the Python shim keeps to, whatever the function does. Each function is written to a file beside
a copy of the shim, as a user would."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from hand_host import ABSENT, RUNTIMES, HandHost, message_in, playing, turn_in

Start = Callable[[str], AbstractAsyncContextManager[HandHost]]

HEAD = "from shim import Refused, handler, serve\n"
TAIL = "\nserve()\n"

#: Handlers that do one thing to the state each.
STATES = """
@handler
def keep(ctx, message):
    return ctx.state
@handler
def put(ctx, message):
    ctx.state = message
@handler
def append(ctx, message):
    ctx.state["list"].append(message)
    return len(ctx.state["list"])
@handler
def delete(ctx, message):
    del ctx.state
    return ctx.state
@handler
def exists(ctx, message):
    return ctx.exists
@handler
def fail(ctx, message):
    if isinstance(ctx.state, dict):
        ctx.state["list"] = "ruined"
    raise Refused("no", "no", status=409)
@handler(reads_only=True)
def peek(ctx, message):
    if message == "in place":
        ctx.state["list"].append(1)
    elif message == "assign":
        ctx.state = 1
    elif message == "delete":
        ctx.delete()
    return ctx.state
"""


@pytest.fixture
def function(tmp_path: Path) -> Start:
    @asynccontextmanager
    async def start(code: str) -> AsyncIterator[HandHost]:
        shutil.copy(RUNTIMES / "python" / "shim.py", tmp_path)
        (tmp_path / "function.py").write_text(HEAD + code + TAIL)
        async with playing([sys.executable, "function.py"], tmp_path) as runtime:
            yield runtime

    return start


async def test_the_first_line_is_a_hello_with_the_handlers(function: Start) -> None:
    async with function("""
@handler(default=True)
def add(ctx, message): ...
@handler(name="look-up", reads_only=True)
def look_up(ctx, message): ...
""") as runtime:
        hello = await runtime.hello()
        assert hello["protocol"] == 1
        assert hello["runtime"].startswith("python/3.")
        assert (hello["pipeline"], hello["batch"], hello["integers"]) == (64, 64, 64)
        assert hello["handlers"] == {
            "add": {"reads_only": False},
            "call": {"reads_only": False},
            "look-up": {"reads_only": True},
        }


async def test_the_end_of_stdin_means_leave_with_exit_0(function: Start) -> None:
    async with function("") as runtime:
        await runtime.hello()
        assert await runtime.leave() == 0


async def test_a_torn_last_line_is_not_run(function: Start) -> None:
    async with function("@handler\ndef f(ctx, message): print('ran')") as runtime:
        await runtime.hello()
        await runtime.write(json.dumps(message_in("a.1", "f")).encode())
        assert await runtime.leave() == 0
        assert "ran" not in runtime.log()


async def test_a_state_nobody_touched_is_kept(function: Start) -> None:
    async with function(STATES) as runtime:
        await runtime.hello()
        assert await runtime.ask("keep", state={"list": [1]}) == {"response": {"list": [1]}}
        assert await runtime.ask("keep", state=None) == {"response": None}
        assert await runtime.ask("keep") == {"response": None}


async def test_a_state_changed_in_place_is_put(function: Start) -> None:
    async with function(STATES) as runtime:
        await runtime.hello()
        assert await runtime.ask("append", 2, {"list": [1]}) == {"response": 2, "state": {"list": [1, 2]}}


async def test_an_assigned_state_is_put_even_if_it_is_null_or_the_same(function: Start) -> None:
    async with function(STATES) as runtime:
        await runtime.hello()
        assert await runtime.ask("put", None, {"list": []}) == {"response": None, "state": None}
        assert await runtime.ask("put", None) == {"response": None, "state": None}
        assert await runtime.ask("put", 5, 5) == {"response": None, "state": 5}


async def test_a_deleted_state_is_gone_and_not_null(function: Start) -> None:
    async with function(STATES) as runtime:
        await runtime.hello()
        assert await runtime.ask("delete", state=None) == {"response": None, "delete": True}
        assert await runtime.ask("delete", state=[1]) == {"response": None, "delete": True}


async def test_deleting_what_is_not_there_changes_nothing(function: Start) -> None:
    async with function(STATES) as runtime:
        await runtime.hello()
        assert await runtime.ask("delete") == {"response": None}


async def test_absent_and_null_are_told_apart(function: Start) -> None:
    async with function(STATES) as runtime:
        await runtime.hello()
        assert (await runtime.ask("exists", state=None))["response"] is True
        assert (await runtime.ask("exists"))["response"] is False


async def test_a_turn_hands_the_state_on_and_ends_with_the_last(function: Start) -> None:
    async with function(STATES) as runtime:
        await runtime.hello()
        members = [("append", 2), ("keep", None), ("append", 3)]
        await runtime.send(turn_in("t.1", members, {"list": [1]}))
        assert await runtime.frame() == {
            "id": "t.1",
            "answers": [
                {"id": "t.1-0", "response": 2},
                {"id": "t.1-1", "response": {"list": [1, 2]}, "changed": False},
                {"id": "t.1-2", "response": 3},
            ],
            "state": {"list": [1, 2, 3]},
        }


async def test_a_message_that_fails_in_the_middle_of_a_turn_leaves_the_state_as_it_was(
    function: Start,
) -> None:
    async with function(STATES) as runtime:
        await runtime.hello()
        await runtime.send(turn_in("t.1", [("append", 2), ("fail", None), ("append", 3)], {"list": [1]}))
        frame = await runtime.frame()
        assert frame["answers"][1] == {
            "id": "t.1-1",
            "error": {"code": "no", "message": "no", "status": 409},
            "changed": False,
        }
        assert frame["answers"][2]["response"] == 3
        assert frame["state"] == {"list": [1, 2, 3]}


async def test_a_turn_in_which_all_fail_keeps_the_state(function: Start) -> None:
    async with function(STATES) as runtime:
        await runtime.hello()
        await runtime.send(turn_in("t.1", [("fail", None), ("fail", None)], {"list": [1]}))
        frame = await runtime.frame()
        assert "state" not in frame
        assert "delete" not in frame


async def test_in_a_turn_the_last_of_put_and_delete_counts(function: Start) -> None:
    async with function(STATES) as runtime:
        await runtime.hello()
        await runtime.send(turn_in("t.1", [("put", 1), ("delete", None), ("exists", None)], {"list": []}))
        frame = await runtime.frame()
        assert frame["answers"][2]["response"] is False
        assert (frame["delete"], "state" in frame) == (True, False)
        await runtime.send(turn_in("t.2", [("delete", None), ("put", None), ("exists", None)], {"list": []}))
        frame = await runtime.frame()
        assert frame["answers"][2]["response"] is True
        assert ("delete" in frame, frame["state"]) == (False, None)


async def test_the_next_message_of_a_turn_sees_the_state_as_json_has_it(function: Start) -> None:
    async with function("""
@handler
def put(ctx, message): ctx.state = {1: (2, 3)}
@handler
def look(ctx, message): return repr(ctx.state)
""") as runtime:
        await runtime.hello()
        await runtime.send(turn_in("t.1", [("put", None), ("look", None)]))
        assert (await runtime.frame())["answers"][1]["response"] == "{'1': [2, 3]}"


@pytest.mark.parametrize("how", ["in place", "assign", "delete"])
async def test_a_reads_only_handler_that_changes_the_state_is_an_error(function: Start, how: str) -> None:
    async with function(STATES) as runtime:
        await runtime.hello()
        await runtime.send(turn_in("t.1", [("peek", how), ("keep", None)], {"list": []}))
        frame = await runtime.frame()
        assert frame["answers"][0]["error"]["code"] == "function_error"
        assert frame["answers"][1]["response"] == {"list": []}
        assert "state" not in frame
        await runtime.logged("reads_only: it cannot change the state")


async def test_a_stateless_call_cannot_leave_a_state(function: Start) -> None:
    async with function(STATES) as runtime:
        await runtime.hello()
        error = (await runtime.ask("put", 1, key=None))["error"]
        assert (error["code"], error["status"]) == ("no_key", 400)


async def test_refused_is_an_answer_with_code_status_details_and_retry(function: Start) -> None:
    async with function("""
@handler
def f(ctx, message):
    ctx.state = 1
    raise Refused("out_of_stock", "no a1 left", status=409, details={"left": 0}, retry=True)
@handler
def short(ctx, message): raise Refused("no")
""") as runtime:
        await runtime.hello()
        wanted = {
            "code": "out_of_stock",
            "message": "no a1 left",
            "status": 409,
            "details": {"left": 0},
            "retry": True,
        }
        assert await runtime.ask("f") == {"error": wanted}
        assert await runtime.ask("short") == {"error": {"code": "no", "message": "", "status": 400}}


async def test_any_other_exception_is_an_error_and_its_text_goes_to_the_log_only(function: Start) -> None:
    async with function("@handler\ndef f(ctx, message): raise KeyError('password=hunter2')") as runtime:
        await runtime.hello()
        assert await runtime.ask("f") == {
            "error": {"code": "function_error", "message": "KeyError in handler f"}
        }
        assert await runtime.leave() == 0
        assert "hunter2" in runtime.log()
        assert 'function.py", line 3, in f' in runtime.log()


async def test_an_unknown_handler_is_an_error_that_names_the_known(function: Start) -> None:
    async with function(STATES) as runtime:
        await runtime.hello()
        error = (await runtime.ask("puts"))["error"]
        assert (error["code"], error["status"]) == ("no_handler", 404)
        assert "keep, put, append" in error["message"]


NOT_JSON = {
    "set()": "type set is not JSON serializable",
    "float('nan')": "Out of range float",
    "[float('inf')]": "Out of range float",
    "'\\ud800'": "surrogates not allowed",
    "{(1, 2): 3}": "keys must be str",
    "b'bytes'": "type bytes is not JSON serializable",
    "loop": "recursion",
}


@pytest.mark.parametrize("value", NOT_JSON)
@pytest.mark.parametrize("place", ["response", "state", "details"])
async def test_what_json_has_not_is_an_error_answer_that_says_why(
    function: Start, value: str, place: str
) -> None:
    async with function(f"""
loop = []
loop.append(loop)
@handler
def response(ctx, message): return {value}
@handler
def state(ctx, message): ctx.state = {value}
@handler
def details(ctx, message): raise Refused("code", details={value})
@handler
def fine(ctx, message): return 1
""") as runtime:
        await runtime.hello()
        answer = await runtime.ask(place)
        assert set(answer) == {"error"}
        assert answer["error"]["code"] == "function_error"
        assert NOT_JSON[value] in answer["error"]["message"]
        assert await runtime.ask("fine") == {"response": 1}


async def test_nothing_a_function_prints_reaches_the_protocol(function: Start) -> None:
    async with function("""
import os, subprocess, sys
print("while it is loaded")
@handler
def f(ctx, message):
    print('{"id":"m1.1","response":"forged"}')
    sys.stdout.write("half a line")
    os.write(1, b'{"hello":{}}\\n')
    subprocess.run(["echo", "from a child"], check=True)
    print("\\ud800")
    return sys.stdin.read()
""") as runtime:
        await runtime.hello()
        assert await runtime.ask("f") == {"response": ""}
        assert await runtime.leave() == 0
        log = runtime.log()
        assert "while it is loaded" in log
        assert "forged" in log
        assert "from a child" in log


async def test_a_child_that_outlives_a_message_does_not_hold_the_protocol(function: Start) -> None:
    async with function("""
import subprocess
@handler
def f(ctx, message): subprocess.Popen(["sleep", "1000"], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
""") as runtime:
        await runtime.hello()
        await runtime.ask("f")
        assert await runtime.leave() == 0  # sees the end of its output


async def test_text_comes_back_byte_for_byte(function: Start) -> None:
    async with function("@handler\ndef f(ctx, message):\n  ctx.state = message\n  return message") as runtime:
        await runtime.hello()
        text = '"\u2028 \u0085 \U0001f600 ü \\u0000 \\n"'
        head = json.dumps(message_in("a.1", "f"))[:-1].removesuffix('"message": null')
        await runtime.write(f'{head}"message":{text}}}\n'.encode())
        assert await runtime.line() == f'{{"id":"a.1","response":{text},"state":{text}}}'.encode()


@pytest.mark.parametrize("number", [2**53 + 1, -(2**63), 2**64 - 1, 10**30, 0.1, 1e-7, 5e-324])
async def test_numbers_are_exact(function: Start, number: float) -> None:
    async with function("@handler\ndef f(ctx, message): return [message, ctx.state]") as runtime:
        await runtime.hello()
        answer = await runtime.ask("f", number, number)
        assert answer["response"] == [number, number]
        assert type(answer["response"][0]) is type(number)


async def test_many_frames_in_one_write_are_answered_in_order(function: Start) -> None:
    async with function(STATES) as runtime:
        await runtime.hello()
        await runtime.send(*(message_in(f"{number}.1", "keep", state=number) for number in range(500)))
        for number in range(500):
            assert await runtime.frame() == {"id": f"{number}.1", "response": number}


async def test_a_frame_may_come_in_pieces(function: Start) -> None:
    async with function(STATES) as runtime:
        await runtime.hello()
        line = json.dumps(message_in("a.1", "keep", state="ü"), ensure_ascii=False).encode() + b"\n"
        for byte in line:
            await runtime.write(bytes([byte]))
        assert await runtime.frame() == {"id": "a.1", "response": "ü"}


async def test_a_message_of_900_kb_goes_in_and_out(function: Start) -> None:
    async with function("@handler\ndef f(ctx, message):\n  ctx.state = message\n  return message") as runtime:
        await runtime.hello()
        text = "ü\n" * 300_000
        assert await runtime.ask("f", text) == {"response": text, "state": text}


async def test_an_answer_does_not_wait_for_the_next_message(function: Start) -> None:
    async with function("""
import threading
@handler
def fast(ctx, message): return 1
@handler
def hang(ctx, message): threading.Event().wait()
""") as runtime:
        await runtime.hello()
        await runtime.send(message_in("a.1", "fast"), message_in("b.1", "hang"))
        assert await runtime.frame() == {"id": "a.1", "response": 1}


async def test_what_was_answered_before_a_process_exits_is_out(function: Start) -> None:
    async with function("""
import os
@handler
def fast(ctx, message): return 1
@handler
def leave(ctx, message): os._exit(7)
""") as runtime:
        await runtime.hello()
        await runtime.send(message_in("a.1", "fast"), message_in("b.1", "leave"))
        assert await runtime.frame() == {"id": "a.1", "response": 1}
        assert await runtime.line() == b""
        assert await runtime.exit_status() == 7


async def test_the_context_says_who_is_called_and_when(function: Start) -> None:
    async with function("""
@handler
def f(ctx, message):
    return [ctx.function, ctx.key, ctx.handler, ctx.version, ctx.attempt, ctx.seed, ctx.trace, ctx.meta,
            ctx.reply_to, ctx.now.isoformat(), (ctx.deadline - ctx.now).total_seconds()]
""") as runtime:
        await runtime.hello()
        wanted = ["f", "k", "f", 7, 1, "9f3a", None, {}, None, "2026-11-24T02:11:00+00:00", 30.0]
        assert (await runtime.ask("f"))["response"] == wanted
        await runtime.send(turn_in("t.1", [("f", None)]))
        assert (await runtime.frame())["answers"][0]["response"] == wanted


async def test_chance_is_the_same_for_all_attempts_of_a_request(function: Start) -> None:
    async with function(
        "@handler\ndef f(ctx, m): return [ctx.random.random(), ctx.random.random()]"
    ) as runtime:
        await runtime.hello()
        first, second = await runtime.ask("f"), await runtime.ask("f")
        assert first == second
        assert first["response"][0] != first["response"][1]


async def test_a_frame_typed_by_hand_may_leave_almost_everything_out(function: Start) -> None:
    async with function("@handler\ndef call(ctx, message): return [message, ctx.exists, ctx.key]") as runtime:
        await runtime.hello()
        await runtime.write(b'{"id":"1"}\n')
        assert await runtime.frame() == {"id": "1", "response": [None, False, None]}


def test_a_test_may_import_a_function_and_call_its_handlers(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(RUNTIMES / "python")
    import counter  # type: ignore[import-not-found]

    class Context:
        state = ABSENT

    context = Context()
    context.state = None
    assert counter.add(context, 2) == 2
    assert context.state == {"count": 2}
    print("still ours")
    assert capfd.readouterr().out == "still ours\n"


async def test_a_delay_may_be_a_timedelta_and_a_time_a_datetime(function: Start) -> None:
    async with function("""
from datetime import datetime, timedelta, timezone
@handler
def f(ctx, message):
    ctx.send(delay=timedelta(hours=24))
    ctx.send(at=datetime(2026, 11, 24, 2, 11, tzinfo=timezone(timedelta(hours=1))))
""") as runtime:
        await runtime.hello()
        assert [effect["send"] for effect in (await runtime.ask("f"))["effects"]] == [
            {"message": None, "delay": "86400000ms"},
            {"message": None, "at": "2026-11-24T02:11:00+01:00"},
        ]


async def test_what_is_sent_is_what_it_was_when_it_was_sent(function: Start) -> None:
    async with function("""
@handler
def f(ctx, message):
    ctx.send(message=message)
    message.append(2)
@handler
def g(ctx, message): ctx.send(message={1, 2})
""") as runtime:
        await runtime.hello()
        assert (await runtime.ask("f", [1]))["effects"] == [{"send": {"message": [1]}}]
        assert "what it would send is not JSON" in (await runtime.ask("g"))["error"]["message"]
