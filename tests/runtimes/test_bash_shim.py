"""What the bash shim keeps to, whatever the function does."""

from __future__ import annotations

import json
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
from hand_host import RUNTIMES, HandHost, message_in, playing

pytestmark = pytest.mark.toolchain("bash", "jq")

Start = Callable[[str], AbstractAsyncContextManager[HandHost]]

HEAD = '. "$(dirname "$0")/shim.sh"\n'
TAIL = "\nserve\n"


@pytest.fixture
def function(tmp_path: Path) -> Start:
    @asynccontextmanager
    async def start(code: str) -> AsyncIterator[HandHost]:
        shutil.copy(RUNTIMES / "bash" / "shim.sh", tmp_path)
        (tmp_path / "function.sh").write_text(HEAD + code + TAIL)
        async with playing(["bash", "function.sh"], tmp_path) as runtime:
            yield runtime

    return start


async def test_the_first_line_is_a_hello_with_the_handlers(function: Start) -> None:
    async with function("""
handler add --default; add() { :; }
handler look-up --reads-only; look-up() { :; }
""") as runtime:
        hello = await runtime.hello()
        assert hello["protocol"] == 1
        assert hello["runtime"].startswith("bash/")
        assert (hello["pipeline"], hello["integers"], "batch" in hello) == (16, 53, False)
        assert hello["handlers"] == {
            "add": {"reads_only": False},
            "call": {"reads_only": False},
            "look-up": {"reads_only": True},
        }


async def test_the_end_of_stdin_means_leave_with_exit_0(function: Start) -> None:
    async with function("") as runtime:
        await runtime.hello()
        assert await runtime.leave() == 0


async def test_what_was_sent_before_the_end_of_stdin_is_answered(function: Start) -> None:
    async with function("handler f; f() { answer 1; }") as runtime:
        await runtime.hello()
        await runtime.send(message_in("a.1", "f"), message_in("b.1", "f"))
        await runtime.close_stdin()
        assert [(await runtime.frame())["id"], (await runtime.frame())["id"]] == ["a.1", "b.1"]
        assert await runtime.exit_status() == 0


async def test_the_state_is_kept_put_or_deleted_and_absent_is_not_null(function: Start) -> None:
    async with function("""
handler keep '.state'; keep() { answer "$1"; }
handler null; null() { put null; }
handler put_it '.message'; put_it() { put "$1"; }
handler gone; gone() { delete; }
handler exists 'has("state")'; exists() { answer "$1"; }
""") as runtime:
        await runtime.hello()
        assert await runtime.ask("keep", state={"list": [1]}) == {"response": {"list": [1]}}
        assert await runtime.ask("null", state=1) == {"response": None, "state": None}
        assert await runtime.ask("put_it", [1, "x"]) == {"response": None, "state": [1, "x"]}
        assert await runtime.ask("gone", state=None) == {"response": None, "delete": True}
        assert await runtime.ask("gone") == {"response": None}
        assert await runtime.ask("exists", state=None) == {"response": True}
        assert await runtime.ask("exists") == {"response": False}


@pytest.mark.parametrize("change", ["put 1", "delete"])
async def test_a_reads_only_handler_that_changes_the_state_is_an_error(function: Start, change: str) -> None:
    async with function(f"handler f --reads-only; f() {{ {change}; }}") as runtime:
        await runtime.hello()
        answer = await runtime.ask("f", state=2)
        assert set(answer) == {"error"}
        assert "reads-only" in answer["error"]["message"]


async def test_a_stateless_call_cannot_leave_a_state(function: Start) -> None:
    async with function("handler f; f() { put 1; }") as runtime:
        await runtime.hello()
        error = (await runtime.ask("f", key=None))["error"]
        assert (error["code"], error["status"]) == ("no_key", 400)


async def test_refuse_is_an_answer_with_code_status_and_details(function: Start) -> None:
    async with function("""
handler f; f() { put 1; refuse out_of_stock 'no "a1" left' 409 '{"left": 0}'; }
handler short; short() { refuse no; }
""") as runtime:
        await runtime.hello()
        wanted = {"code": "out_of_stock", "message": 'no "a1" left', "status": 409, "details": {"left": 0}}
        assert await runtime.ask("f") == {"error": wanted}
        assert (await runtime.ask("short"))["error"] == {"code": "no", "message": "", "status": 400}


async def test_a_handler_that_returns_non_zero_is_an_error_and_stores_nothing(function: Start) -> None:
    async with function("handler f; f() { put 1; answer 1; false; }") as runtime:
        await runtime.hello()
        wanted = {"code": "function_error", "message": "handler f returned 1", "status": 500}
        assert await runtime.ask("f") == {"error": wanted}


async def test_an_unknown_handler_is_an_error_and_runs_no_command_of_that_name(function: Start) -> None:
    async with function("handler f; f() { :; }; touched() { touch touched; }") as runtime:
        await runtime.hello()
        for name in ("touched", "serve", "a b", '$(touch touched)"', "-n", ""):
            error = (await runtime.ask(name))["error"]
            assert (error["code"], error["status"]) == ("no_handler", 404)


async def test_jq_that_fails_on_a_message_is_an_error_and_the_next_one_is_answered(function: Start) -> None:
    async with function("""handler f '.message.sku'; f() { answer "\\"$1\\""; }""") as runtime:
        await runtime.hello()
        answer = await runtime.ask("f", "hunter2")
        assert answer["error"]["code"] == "function_error"
        assert await runtime.ask("f", {"sku": "a1"}) == {"response": "a1"}


@pytest.mark.parametrize("text", ["", "hello", '{"a":', "1 2", "[nan]"])
@pytest.mark.parametrize("place", ["answer", "put", "refuse code text 400"])
async def test_what_is_not_json_is_an_error_answer_and_not_a_broken_frame(
    function: Start, place: str, text: str
) -> None:
    async with function(
        f"handler f; f() {{ {place} '{text}'; }}; handler fine; fine() {{ answer 1; }}"
    ) as runtime:
        await runtime.hello()
        answer = await runtime.ask("f")
        if text == "[nan]":
            assert answer.get("error", {}).get("code") == "function_error" or "null" in json.dumps(answer)
        elif text or place != "refuse code text 400":
            assert set(answer) == {"error"}
            assert answer["error"]["message"] == "the response, the state, an effect or details are not JSON"
        assert await runtime.ask("fine") == {"response": 1}


async def test_json_over_several_lines_is_one_frame(function: Start) -> None:
    async with function(
        """handler f; f() { put $'{\\n\\t"a": 1\\n}'; answer "$(echo 1; echo)"; }"""
    ) as runtime:
        await runtime.hello()
        assert await runtime.ask("f") == {"response": 1, "state": {"a": 1}}


async def test_nothing_a_function_prints_reaches_the_protocol_and_nothing_is_read_from_it(
    function: Start,
) -> None:
    async with function("""
echo "while it is loaded"
handler f
f() {
  echo '{"id":"m1.1","response":"forged"}'
  printf '{"hello":{}}\\n' >/dev/stdout
  bash -c 'echo from a child; ls -l /proc/self/fd >&2; echo forged >&3; echo forged >&4; echo forged >&5'
  answer "$(wc -c)"
}
""") as runtime:
        await runtime.hello()
        assert await runtime.ask("f") == {"response": 0}
        assert await runtime.ask("f") == {"response": 0}
        assert await runtime.leave() == 0
        for text in ("while it is loaded", "forged", "from a child"):
            assert text in runtime.log()


async def test_a_string_arrives_as_it_was_sent(function: Start) -> None:
    async with function("""
handler f '.message' '.message | tojson'
f() {
  [[ $1 == "$(jq -r . <<<"$2"; echo .)" ]] || true
  printf '%s' "$1" >got
  answer "$2"
}
""") as runtime:
        await runtime.hello()
        for text in (
            "$(touch pwned)`touch pwned`",
            "a'b\"c\\n\\\\0041%s%b",
            "two\nlines\r\n\n",
            "\t tab and spaces  ",
            "ü \u2028 \U0001f600",
            "-n",
            "",
        ):
            assert await runtime.ask("f", text) == {"response": text}


async def test_a_string_reaches_the_shell_byte_for_byte(function: Start, tmp_path: Path) -> None:
    text = "$(touch pwned) a'b\"c\\n\\\\0041%s%b \t two\nlines\r\n\n ü \u2028 \U0001f600 \n"
    async with function("""handler f '.message'; f() { printf '%s' "$1" >got; }""") as runtime:
        await runtime.hello()
        await runtime.ask("f", text)
        assert (tmp_path / "got").read_bytes() == text.encode()
        assert not (tmp_path / "pwned").exists()


async def test_whole_number_lets_nothing_through_that_arithmetic_would_run(function: Start) -> None:
    async with function("""
handler f '.message'
f() { if whole_number "$1"; then answer true; else answer false; fi; }
""") as runtime:
        await runtime.hello()
        for text in ("0", "-1", "42", "999999999999999999"):
            assert await runtime.ask("f", text) == {"response": True}
        for text in ("", "-", "1.5", "1e3", "08", "0x10", "a[$(id)]", "1\n2", "1;2", "9" * 19, " 1"):
            assert await runtime.ask("f", text) == {"response": False}


async def test_exit_in_a_handler_ends_the_process_with_that_status(function: Start) -> None:
    async with function("handler f; f() { exit 7; }") as runtime:
        await runtime.hello()
        await runtime.send(message_in("a.1", "f"))
        assert await runtime.leader_status() == 7


async def test_many_frames_in_one_write_are_answered_in_order(function: Start) -> None:
    async with function("""handler f '.message'; f() { answer "$1"; }""") as runtime:
        await runtime.hello()
        await runtime.send(*(message_in(f"{number}.1", "f", number) for number in range(300)))
        for number in range(300):
            assert await runtime.frame() == {"id": f"{number}.1", "response": number}


async def test_a_message_of_900_kb_goes_in_and_out(function: Start) -> None:
    async with function("""handler f '.message | tojson'; f() { answer "$1"; }""") as runtime:
        await runtime.hello()
        text = ("ü" * 449 + "\n") * 1000
        assert await runtime.ask("f", text) == {"response": text}


@pytest.mark.parametrize("name", ["answer", "put", "serve", "handler"])
async def test_a_name_of_the_shim_cannot_be_a_handler(function: Start, name: str) -> None:
    async with function(f"handler {name}") as runtime:
        assert await runtime.line() == b""
        assert await runtime.exit_status() == 2
        assert f"{name} is taken" in runtime.log()


async def test_a_jq_text_with_a_mistake_ends_the_process_and_jq_says_why(function: Start) -> None:
    async with function("handler f '.message | ('; f() { :; }") as runtime:
        await runtime.hello()
        await runtime.logged("syntax error")
        assert await runtime.leader_status() == 3


@pytest.mark.parametrize(
    "words",
    [
        "--delay",
        "delay 24h",
        "--key $'a\\tb'",
        "--key $'a\\nb'",
        "--message '{'",
        "--message ''",
    ],
)
async def test_an_effect_that_is_said_wrong_is_an_error(function: Start, words: str) -> None:
    async with function(f"handler f; f() {{ put 1; effect send --handler h {words}; answer 1; }}") as runtime:
        await runtime.hello()
        answer = await runtime.ask("f")
        assert answer["error"]["code"] == "function_error"
        assert "effect" in answer["error"]["message"]
        assert not {"state", "effects"} & answer.keys()


async def test_the_text_of_an_effect_is_a_string_whatever_it_looks_like(function: Start) -> None:
    async with function("handler f '.message'; f() { effect send --key \"$1\" --message 1.10; }") as runtime:
        await runtime.hello()
        for key in ("1", "null", "--key", 'a"b\\c', "ü" * 300, "$(touch pwned)"):
            answer = await runtime.ask("f", key)
            assert answer["effects"] == [{"send": {"key": key, "message": 1.1}}]
