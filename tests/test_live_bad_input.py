"""What callers, functions and configs do wrong: a clear error that names the cause; the rest answers."""

import orjson
import pytest
import trio
from front_door import post

from fix_node import PYTHON, RUNTIMES

SABOTAGE = f"""
[functions.sabotage]
command = ["{PYTHON}", "-u", "{RUNTIMES.parent}/tests/functions/sabotage.py"]
timeout = "2s"
grace = "200ms"
processes = {{ max = 1 }}

[functions.counter]
command = ["{PYTHON}", "{RUNTIMES}/python/counter.py"]
"""


def problem(answer):
    assert answer.fields["content-type"] == "application/problem+json"
    body = orjson.loads(answer.body)
    assert body["status"] == answer.status
    assert body["outcome"] == answer.fields["inversion-outcome"]
    return body


async def is_well(node):
    answer = await node.call("counter/well/add", 1)
    return answer.status == 200


BAD_CALLS = [
    ("countre/k/add", b"1", 404, "no_function", "did you mean counter"),
    ("counter/k/ad", b"1", 404, "no_handler", "it has: add"),
    ("counter/-/add", b"1", 400, "bad_key", "key"),
    ("counter/%00/add", b"1", 400, "bad_key", "key"),
    ("counter/" + "k" * 201 + "/add", b"1", 400, "bad_key", "200"),
    ("counter/%ff/add", b"1", 400, "bad_key", "UTF-8"),
    ("counter/k/add", b"{", 400, "bad_json", "not valid JSON"),
    ("counter/k/add", b"NaN", 400, "bad_json", "not valid JSON"),
    ("counter/k/add", b'"\\ud800"', 400, "bad_json", "not valid JSON"),
    ("counter/k/add", b'"a\nb"', 400, "bad_json", "not valid JSON"),
    ("counter/k/add", b"1" + b"0" * 30, 400, "bad_number", "64 bits"),
    ("counter/k/add", b"1e400", 400, "bad_number", "finite"),
    ("counter/k/add", b"[" * 65 + b"]" * 65, 400, "too_deep", "64"),
    ("counter/k/add", b'"' + b"x" * (1 << 20) + b'"', 413, "body_too_large", "1048576"),
    ("counter/k/add", b'"one"', 422, "bad_amount", "whole number"),
]


async def test_a_bad_call_is_refused_by_name_and_changes_nothing(start_node):
    async with start_node(SABOTAGE) as node:
        for path, body, status, code, says in BAD_CALLS:
            case = (path[:40], body[:40])
            answer = await node.call(path, body)
            found = problem(answer)
            assert (answer.status, found["code"], found["outcome"]) == (status, code, "not_applied"), case
            assert says in found["detail"], case
            assert (await node.state("counter/k")).status == 404, case
            assert await is_well(node), case


async def test_raw_newlines_between_tokens_do_not_forge_a_second_frame(start_node):
    async with start_node(SABOTAGE) as node:
        answer = await node.call("sabotage/k/well", b'[\n{"id":"forged","response":1}\r\n]')
        assert answer.status == 200
        assert orjson.loads(answer.body) == [{"id": "forged", "response": 1}]


async def test_unusual_json_comes_back_byte_for_byte_through_the_state(start_node):
    async with start_node(SABOTAGE) as node:
        for text in (b'{"a":1E5,"b":"\\u0000","a":-0}', b"1.000000000000000000000001", b"[ 1 ]"):
            rest = b'"response":%b,"state":%b' % (text, text)
            answer = await node.call("sabotage/k/raw", orjson.dumps(rest.decode()))
            assert answer.status == 200, answer.body
            assert answer.body == text
            assert (await node.state("sabotage/k")).body == text


BAD_ANSWERS = [
    ("exit", 1, 502, "function_crashed", "3"),
    ("half", 1, 502, "function_crashed", "0"),
    ("wrong_id", 1, 502, "protocol_error", "0000.1"),
    ("no_json", 1, 502, "protocol_error", ""),
    ("effect", 1, 502, "protocol_error", "effects"),
    ("raw", '"state":1,"effects":[{"sned":{}}]', 502, "protocol_error", "effects[0]"),
    ("raw", '"state":1,"effects":[{"send":{"dleay":"24h"}}]', 502, "protocol_error", "`delay`"),
    ("huge", 1, 502, "state_too_large", "1048576"),
    ("raw", '"response":1e400', 502, "protocol_error", ""),
    ("raw", '"response":100000000000000000000', 502, "protocol_error", ""),
    ("raw", '"error":{"code":"x"},"state":1', 502, "protocol_error", ""),
    ("error", {"code": "sold_out", "message": "no a1", "status": 409}, 409, "sold_out", "no a1"),
    ("error", {"code": "odd", "message": "m", "status": 200}, 500, "odd", "m"),
    ("error", {}, 500, "function_error", ""),
]


async def test_a_function_that_answers_badly_is_named_and_changes_nothing(start_node):
    async with start_node(SABOTAGE) as node:
        before = await node.call("sabotage/k/put", {"kept": True})
        assert before.status == 200, before.body
        for handler, message, status, code, says in BAD_ANSWERS:
            answer = await node.call(f"sabotage/k/{handler}", message)
            found = problem(answer)
            assert (answer.status, found["code"], found["outcome"]) == (status, code, "not_applied"), found
            assert says in found["detail"], found
            assert orjson.loads((await node.state("sabotage/k")).body) == {"kept": True}, handler
            assert await is_well(node), handler
            assert (await node.call("sabotage/k/well", 1)).status == 200, handler


async def test_a_crash_answers_with_exit_status_and_what_stood_on_stderr(start_node):
    async with start_node(SABOTAGE) as node:
        found = problem(await node.call("sabotage/k/exit", 1))
        assert found["exit_status"] == 3
        assert "the reason is on stderr" in found["stderr"]


async def test_a_single_death_is_not_seen_by_the_caller(start_node):
    async with start_node(SABOTAGE) as node:
        answer = await node.call("sabotage/k/die_once", 7)
        assert (answer.status, answer.body) == (200, b"7")


async def test_a_function_that_never_answers_is_ended_and_named_and_the_next_call_works(start_node):
    async with start_node(SABOTAGE) as node:
        with trio.fail_after(15):
            found = problem(await node.call("sabotage/k/never", 1))
            assert (found["code"], found["outcome"]) == ("function_timeout", "not_applied")
            assert (await node.call("sabotage/k/well", 1)).status == 200


async def test_a_callers_own_deadline_is_a_504_and_what_comes_late_is_not_stored(start_node):
    async with start_node(SABOTAGE) as node:
        answer = await node.call("sabotage/k/never", 1, b"Inversion-Timeout: 200ms")
        found = problem(answer)
        assert (answer.status, found["code"], found["outcome"]) == (504, "deadline", "not_applied")
        assert (await node.state("sabotage/k")).status == 404


@pytest.mark.parametrize("start", ["--print-first", "--hello", ""])
async def test_prints_before_and_between_frames_are_log_lines(start, start_node):
    toml = SABOTAGE.replace('sabotage.py"]', f'sabotage.py", "{start}"]')
    async with start_node(toml) as node:
        for _ in range(3):
            answer = await node.call("sabotage/k/print_before", 5)
            assert (answer.status, answer.body) == (200, b"5")


async def test_a_command_that_does_not_exist_is_reported_at_start_and_the_rest_runs(start_node):
    toml = SABOTAGE + '\n[functions.gone]\ncommand = ["no-such-program-here"]\n'
    async with start_node(toml) as node:
        reports = {name: (ok, sentence) for name, ok, sentence in node.started.functions}
        assert reports["counter"][0]
        ok, sentence = reports["gone"]
        assert not ok
        assert "no-such-program-here" in sentence
        answer = await node.call("gone/k/x", 1)
        found = problem(answer)
        assert (answer.status, found["code"]) == (503, "no_runtime")
        assert "no-such-program-here" in found["detail"]
        assert await is_well(node)


async def test_a_function_that_exits_at_once_is_named_and_the_rest_runs(start_node):
    toml = SABOTAGE + '\n[functions.quits]\ncommand = ["sh", "-c", "echo bye >&2; exit 4"]\n'
    async with start_node(toml) as node:
        answer = await node.call("quits/k/x", 1)
        found = problem(answer)
        assert (answer.status, found["code"], found["exit_status"]) == (502, "function_crashed", 4)
        assert "bye" in found["stderr"]
        assert await is_well(node)


LATER = [b"Prefer: wait=5"]


async def test_what_is_not_built_yet_is_refused_and_never_ignored(start_node):
    async with start_node(SABOTAGE) as node:
        for line in LATER:
            answer = await node.call("counter/k/add", b"1", line)
            assert (answer.status, problem(answer)["code"]) == (400, "bad_request"), line
            assert (await node.state("counter/k")).status == 404, line
        for path in (b"/v1/http/counter", b"/v1/events", b"/v1/nowhere"):
            assert (await node.send(post(path, b"1"))).status == 400, path


@pytest.mark.toolchain("node")
async def test_integers_that_javascript_would_change_are_refused_before_they_reach_it(start_node):
    toml = SABOTAGE + f'\n[functions.node]\ncommand = ["node", "{RUNTIMES}/node/counter.js"]\n'
    async with start_node(toml) as node:
        answer = await node.call("node/k/add", 2**53)
        assert (answer.status, problem(answer)["code"]) == (400, "bad_number")


async def test_callers_do_not_queue_behind_a_hung_process_while_another_can_answer(start_node):
    toml = SABOTAGE.replace("max = 1", "max = 3").replace('timeout = "2s"', 'timeout = "6s"')
    toml = toml.replace('sabotage.py"]', 'sabotage.py", "--hello"]')
    async with start_node(toml) as node, trio.open_nursery() as nursery:
        assert (await node.call("sabotage/warm/well", 1)).status == 200
        nursery.start_soon(node.call, "sabotage/hung/never", 1, b"Inversion-Timeout: 4s")
        statuses = []
        for n in range(20):
            answer = await node.call(f"sabotage/k{n}/well", n, b"Inversion-Timeout: 2s")
            statuses.append(answer.status)
        # One may have gone to the same process before anything was amiss; it is the last.
        assert statuses.count(200) >= 19, statuses
