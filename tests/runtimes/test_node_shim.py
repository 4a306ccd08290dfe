"""What the Node shim keeps to, whatever the function does."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from hand_host import RUNTIMES, HandHost, message_in, playing, turn_in

pytestmark = pytest.mark.toolchain("node")

Start = Callable[[str], AbstractAsyncContextManager[HandHost]]

HEAD = 'const { handler, serve, Refused } = require("./shim");\n'
TAIL = "\nserve();\n"

STATES = """
handler("keep", (ctx) => ctx.state);
handler("put", (ctx, message) => { ctx.state = message; });
handler("append", (ctx, message) => { ctx.state.list.push(message); return ctx.state.list.length; });
handler("later", async (ctx, message) => {
  await new Promise((resolve) => setImmediate(resolve));
  ctx.state.list.push(message);
  return ctx.state.list.length;
});
handler("delete", (ctx) => { ctx.delete(); return ctx.state === undefined; });
handler("exists", (ctx) => ctx.exists);
handler("fail", (ctx) => {
  ctx.state.list = "ruined";
  throw new Refused("no", "no", { status: 409 });
});
handler("peek", { readsOnly: true }, (ctx, message) => {
  if (message === "in place") ctx.state.list.push(1);
  if (message === "assign") ctx.state = 1;
  if (message === "delete") ctx.delete();
  return ctx.state;
});
"""


@pytest.fixture
def function(tmp_path: Path) -> Start:
    @asynccontextmanager
    async def start(code: str) -> AsyncIterator[HandHost]:
        shutil.copy(RUNTIMES / "node" / "shim.js", tmp_path)
        (tmp_path / "function.js").write_text(HEAD + code + TAIL)
        async with playing(["node", "function.js"], tmp_path) as runtime:
            yield runtime

    return start


async def test_the_first_line_is_a_hello_with_the_handlers(function: Start) -> None:
    async with function("""
handler("add", { default: true }, () => 1);
handler("look-up", { readsOnly: true }, () => 1);
""") as runtime:
        hello = await runtime.hello()
        assert hello["protocol"] == 1
        assert hello["runtime"].startswith("node/")
        assert (hello["pipeline"], hello["batch"], hello["integers"]) == (64, 64, 53)
        assert hello["handlers"] == {
            "add": {"reads_only": False},
            "call": {"reads_only": False},
            "look-up": {"reads_only": True},
        }


async def test_the_end_of_stdin_means_leave_with_exit_0_whatever_the_function_has_running(
    function: Start,
) -> None:
    async with function("setInterval(() => {}, 1000);") as runtime:
        await runtime.hello()
        assert await runtime.leave() == 0


async def test_a_message_that_is_under_way_when_stdin_ends_is_answered(function: Start) -> None:
    async with function(STATES) as runtime:
        await runtime.hello()
        await runtime.send(message_in("a.1", "later", 2, {"list": [1]}))
        await runtime.close_stdin()
        assert (await runtime.frame())["response"] == 2
        assert await runtime.exit_status() == 0


async def test_a_torn_last_line_is_not_run(function: Start) -> None:
    async with function('handler("f", () => console.log("ran"));') as runtime:
        await runtime.hello()
        await runtime.write(json.dumps(message_in("a.1", "f")).encode())
        assert await runtime.leave() == 0
        assert "ran" not in runtime.log()


async def test_the_state_is_kept_put_or_deleted_and_absent_is_not_null(function: Start) -> None:
    async with function(STATES) as runtime:
        await runtime.hello()
        assert await runtime.ask("keep", state={"list": [1]}) == {"response": {"list": [1]}}
        assert await runtime.ask("keep", state=None) == {"response": None}
        assert await runtime.ask("keep") == {}
        assert await runtime.ask("append", 2, {"list": [1]}) == {"response": 2, "state": {"list": [1, 2]}}
        assert await runtime.ask("put", None, {"list": []}) == {"state": None}
        assert await runtime.ask("put", 5, 5) == {"state": 5}
        assert await runtime.ask("delete", state=None) == {"response": True, "delete": True}
        assert await runtime.ask("delete") == {"response": True}
        assert await runtime.ask("exists", state=None) == {"response": True}
        assert await runtime.ask("exists") == {"response": False}


async def test_a_turn_hands_the_state_on_through_async_handlers_and_failures(function: Start) -> None:
    async with function(STATES) as runtime:
        await runtime.hello()
        members = [("append", 2), ("later", 3), ("fail", None), ("keep", None), ("later", 4)]
        await runtime.send(turn_in("t.1", members, {"list": [1]}))
        assert await runtime.frame() == {
            "id": "t.1",
            "answers": [
                {"id": "t.1-0", "response": 2},
                {"id": "t.1-1", "response": 3},
                {"id": "t.1-2", "error": {"code": "no", "message": "no", "status": 409}, "changed": False},
                {"id": "t.1-3", "response": {"list": [1, 2, 3]}, "changed": False},
                {"id": "t.1-4", "response": 4},
            ],
            "state": {"list": [1, 2, 3, 4]},
        }


async def test_in_a_turn_the_last_of_put_and_delete_counts(function: Start) -> None:
    async with function(STATES) as runtime:
        await runtime.hello()
        await runtime.send(turn_in("t.1", [("put", 1), ("delete", None), ("exists", None)], {"list": []}))
        frame = await runtime.frame()
        assert (frame["answers"][2]["response"], frame["delete"], "state" in frame) == (False, True, False)
        await runtime.send(turn_in("t.2", [("delete", None), ("put", None), ("exists", None)], {"list": []}))
        frame = await runtime.frame()
        assert (frame["answers"][2]["response"], frame["state"], "delete" in frame) == (True, None, False)


@pytest.mark.parametrize("how", ["in place", "assign", "delete"])
async def test_a_reads_only_handler_that_changes_the_state_is_an_error(function: Start, how: str) -> None:
    async with function(STATES) as runtime:
        await runtime.hello()
        await runtime.send(turn_in("t.1", [("peek", how), ("keep", None)], {"list": []}))
        frame = await runtime.frame()
        assert frame["answers"][0]["error"]["code"] == "function_error"
        assert frame["answers"][1]["response"] == {"list": []}
        assert "state" not in frame
        await runtime.logged("readsOnly: it cannot change the state")


async def test_a_stateless_call_cannot_leave_a_state(function: Start) -> None:
    async with function(STATES) as runtime:
        await runtime.hello()
        error = (await runtime.ask("put", 1, key=None))["error"]
        assert (error["code"], error["status"]) == ("no_key", 400)


async def test_messages_of_different_keys_overlap_in_async_handlers(function: Start) -> None:
    async with function("""
let release;
handler("wait", () => new Promise((resolve) => { release = resolve; }));
handler("release", () => { release("released"); return 1; });
""") as runtime:
        await runtime.hello()
        await runtime.send(message_in("a.1", "wait", key="a"), message_in("b.1", "release", key="b"))
        assert await runtime.frame() == {"id": "b.1", "response": 1}
        assert await runtime.frame() == {"id": "a.1", "response": "released"}


async def test_refused_is_an_answer_with_code_status_details_and_retry(function: Start) -> None:
    async with function("""
const more = { status: 409, details: { left: 0 }, retry: true };
handler("f", () => { throw new Refused("out_of_stock", "no a1 left", more); });
handler("short", async () => { throw new Refused("no"); });
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


THROWN = {
    "a throw": '() => { throw new RangeError("hunter2"); }',
    "a rejection": 'async () => { throw new RangeError("hunter2"); }',
    "a callback": '() => new Promise(() => setTimeout(() => { throw new RangeError("hunter2"); }))',
    "a rejection nobody waits for": (
        '() => new Promise(() => { (async () => { await null; throw new RangeError("hunter2"); })(); })'
    ),
}


@pytest.mark.parametrize("how", THROWN)
async def test_whatever_is_thrown_is_an_error_answer_and_its_text_goes_to_the_log_only(
    function: Start, how: str
) -> None:
    async with function(f'handler("f", {THROWN[how]}); handler("fine", () => 1);') as runtime:
        await runtime.hello()
        assert await runtime.ask("f") == {
            "error": {"code": "function_error", "message": "RangeError in handler f"}
        }
        await runtime.logged("hunter2")
        assert await runtime.ask("fine") == {"response": 1}


async def test_a_callback_that_throws_fails_its_own_message_and_no_other(function: Start) -> None:
    async with function("""
let release;
handler("wait", () => new Promise((resolve) => { release = resolve; }));
handler("f", () => new Promise(() => setTimeout(() => { throw new RangeError(); })));
handler("release", () => release(2));
""") as runtime:
        await runtime.hello()
        await runtime.send(message_in("a.1", "wait"), message_in("b.1", "f"))
        assert (await runtime.frame())["id"] == "b.1"
        await runtime.send(message_in("c.1", "release"))
        assert {(await runtime.frame())["id"], (await runtime.frame())["id"]} == {"a.1", "c.1"}


async def test_a_throw_that_belongs_to_no_message_ends_the_process(function: Start) -> None:
    async with function("""
handler("f", () => { setTimeout(() => { throw new RangeError("stray"); }); return 1; });
""") as runtime:
        await runtime.hello()
        assert await runtime.ask("f") == {"response": 1}
        assert await runtime.line() == b""
        assert await runtime.exit_status() == 1
        assert "stray" in runtime.log()


async def test_an_unknown_handler_is_an_error_that_names_the_known(function: Start) -> None:
    async with function(STATES) as runtime:
        await runtime.hello()
        error = (await runtime.ask("constructor"))["error"]
        assert (error["code"], error["status"]) == ("no_handler", 404)
        assert "keep, put, append" in error["message"]


NOT_JSON = {
    "NaN": "NaN is not a number in JSON",
    "[-Infinity]": "-Infinity is not a number in JSON",
    '"\\ud800"': "half a surrogate pair",
    '"\\\\\\udc00"': "half a surrogate pair",
    "1n": "BigInt",
    "(() => 1)": "a function",
    "loop": "circular",
}


PLACES = [(place, value) for value in NOT_JSON for place in ("response", "state", "details")]
PLACES.remove(("details", "(() => 1)"))  # JSON.stringify leaves a member out that is a function


@pytest.mark.parametrize(("place", "value"), PLACES)
async def test_what_json_has_not_is_an_error_answer_that_says_why(
    function: Start, place: str, value: str
) -> None:
    async with function(f"""
const loop = []; loop.push(loop);
handler("response", () => {value});
handler("state", (ctx) => {{ ctx.state = {value}; }});
handler("details", () => {{ throw new Refused("code", "", {{ details: {value} }}); }});
handler("fine", () => 1);
""") as runtime:
        await runtime.hello()
        answer = await runtime.ask(place)
        assert set(answer) == {"error"}
        assert answer["error"]["code"] == "function_error"
        assert NOT_JSON[value] in answer["error"]["message"]
        assert await runtime.ask("fine") == {"response": 1}


async def test_nothing_a_function_prints_reaches_the_protocol(function: Start) -> None:
    async with function("""
const fs = require("fs");
const { execFileSync, spawnSync } = require("child_process");
console.log("while it is loaded");
handler("f", () => {
  console.log('{"id":"m1.1","response":"forged"}');
  process.stdout.write("half a line");
  fs.writeSync(1, '{"hello":{}}\\n');
  spawnSync("echo", ["from a child"], { stdio: "inherit" });
  return [fs.readFileSync(0, "utf8"), fs.readFileSync("/dev/stdin", "utf8")];
});
""") as runtime:
        await runtime.hello()
        assert await runtime.ask("f") == {"response": ["", ""]}
        assert await runtime.leave() == 0
        log = runtime.log()
        for text in ("while it is loaded", "forged", "half a line", "from a child"):
            assert text in log


async def test_text_comes_back_byte_for_byte(function: Start) -> None:
    async with function('handler("f", (ctx, message) => (ctx.state = message));') as runtime:
        await runtime.hello()
        text = '"\u2028 \u0085 \U0001f600 ü \\u0000 \\n \\\\ud800"'
        head = json.dumps(message_in("a.1", "f"))[:-1].removesuffix('"message": null')
        await runtime.write(f'{head}"message":{text}}}\n'.encode())
        assert await runtime.line() == f'{{"id":"a.1","response":{text},"state":{text}}}'.encode()


async def test_many_frames_in_one_write_and_one_frame_in_many_pieces(function: Start) -> None:
    async with function(STATES) as runtime:
        await runtime.hello()
        await runtime.send(*(message_in(f"{number}.1", "keep", state=number) for number in range(500)))
        for number in range(500):
            assert await runtime.frame() == {"id": f"{number}.1", "response": number}
        line = json.dumps(message_in("a.1", "keep", state="ü"), ensure_ascii=False).encode() + b"\n"
        for byte in line:
            await runtime.write(bytes([byte]))
        assert await runtime.frame() == {"id": "a.1", "response": "ü"}


async def test_a_message_of_900_kb_goes_in_and_out(function: Start) -> None:
    async with function('handler("f", (ctx, message) => (ctx.state = message));') as runtime:
        await runtime.hello()
        text = "ü\n" * 300_000
        assert await runtime.ask("f", text) == {"response": text, "state": text}


async def test_an_answer_does_not_wait_for_the_next_message(function: Start) -> None:
    async with function('handler("fast", () => 1); handler("hang", () => { for (;;); });') as runtime:
        await runtime.hello()
        await runtime.send(message_in("a.1", "fast"), message_in("b.1", "hang"))
        assert await runtime.frame() == {"id": "a.1", "response": 1}


async def test_the_context_says_who_is_called_and_when(function: Start) -> None:
    async with function("""
handler("f", (ctx) => [ctx.function, ctx.key, ctx.handler, ctx.version, ctx.attempt, ctx.now, ctx.deadline,
  ctx.seed, ctx.meta]);
""") as runtime:
        await runtime.hello()
        wanted = ["f", "k", "f", 7, 1, "2026-11-24T02:11:00.000Z", "2026-11-24T02:11:30.000Z", "9f3a", {}]
        assert (await runtime.ask("f"))["response"] == wanted
        await runtime.send(turn_in("t.1", [("f", None)]))
        assert (await runtime.frame())["answers"][0]["response"] == wanted


async def test_a_function_may_be_an_es_module(tmp_path: Path) -> None:
    shutil.copy(RUNTIMES / "node" / "shim.js", tmp_path)
    (tmp_path / "function.mjs").write_text("""
import { handler, serve } from "./shim.js";
handler("f", async (ctx, message) => { console.log("log"); return message; });
serve();
""")
    async with playing(["node", "function.mjs"], tmp_path) as runtime:
        await runtime.hello()
        assert await runtime.ask("f", 2) == {"response": 2}
        assert await runtime.leave() == 0


async def test_without_pipes_the_protocol_stays_on_stdout_and_console_log_is_turned_away(
    tmp_path: Path,
) -> None:
    shutil.copy(RUNTIMES / "node" / "shim.js", tmp_path)
    (tmp_path / "function.js").write_text(
        HEAD + 'handler("f", (ctx, m) => { console.log("log"); return m; });' + TAIL
    )
    (tmp_path / "in").write_text(json.dumps(message_in("a.1", "f", 3)) + "\n")
    async with playing(["sh", "-c", "node function.js <in >out 2>err"], tmp_path) as runtime:
        assert await runtime.exit_status() == 0
    hello, answer = (tmp_path / "out").read_text().splitlines()
    assert "hello" in json.loads(hello)
    assert json.loads(answer) == {"id": "a.1", "response": 3}
    assert "log" in (tmp_path / "err").read_text()


async def test_what_is_sent_is_what_it_was_when_it_was_sent(function: Start) -> None:
    async with function("""
handler("f", (ctx, message) => {
  ctx.send({ message });
  message.push(2);
});
handler("g", (ctx) => ctx.send({ message: NaN }));
handler("h", (ctx) => ctx.send({ dleay: "24h" }));
""") as runtime:
        await runtime.hello()
        assert (await runtime.ask("f", [1]))["effects"] == [{"send": {"message": [1]}}]
        assert "what it would send is not JSON" in (await runtime.ask("g"))["error"]["message"]
        assert (await runtime.ask("h"))["effects"] == [{"send": {"dleay": "24h"}}]  # the host says no
