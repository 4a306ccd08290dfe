"""Processes that are killed, that die of a message, and that die whatever they are sent."""

from __future__ import annotations

import os
import signal
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from textwrap import dedent
from time import perf_counter

import orjson
import pytest
import trio
from front_door import Client, get, post
from hostility import alive, in_each_language, problem, said, until

from fix_node import PYTHON, RUNTIMES
from inversion.processes import worker
from inversion.protocol.breaker import DEATHS, LONGEST_PAUSE_S, PROBES

FUNCTIONS = Path(__file__).parent.parent / "functions"
COMMANDS = {
    "python": [PYTHON, str(FUNCTIONS / "mortal.py")],
    "node": ["node", str(FUNCTIONS / "mortal.js")],
}
#: While the breaker is open, and an answer's median.
REFUSED_WITHIN_S = 0.01
WELL_CALLERS = 20


def mortal(language: str, *, starts: Path | None = None, **settings: str) -> str:
    """Its section of inversion.toml; one process unless `processes` says otherwise."""
    given = {"processes": "{ max = 1 }", "timeout": '"20s"', **settings}
    flags = [] if starts is None else ["--starts", str(starts)]
    command = orjson.dumps([*COMMANDS[language], *flags]).decode()
    lines = ["[functions.mortal]", f"command = {command}"]
    return "\n".join([*lines, *(f"{key} = {value}" for key, value in given.items())]) + "\n"


async def metric(node, name: str, function: str) -> float:
    answer = await node.send(get(b"/metrics"), admin=True)
    for line in answer.body.decode().splitlines():
        if line.startswith(f'{name}{{function="{function}"}} '):
            return float(line.rpartition(" ")[2])
    raise AssertionError(f"/metrics has no {name} of {function}")


async def report(node, function: str) -> dict[str, object]:
    """What the admin door says of a function; the node was started with TOKEN."""
    answer = await node.send(get(b"/v1/functions", b"Authorization: Bearer " + TOKEN.encode()), admin=True)
    (found,) = (each for each in orjson.loads(answer.body)["functions"] if each["name"] == function)
    return found


TOKEN = "a-token"


async def count(node, path="mortal/k") -> int:
    answer = await node.state(path)
    return 0 if answer.status == 404 else int(answer.body)


# -- killed ----------------------------------------------------------------------------------------------


@in_each_language
@pytest.mark.fault("F1", "kill -9 of an idle process")
async def test_nobody_notices_that_an_idle_process_was_killed(language, row, start_node):
    async with start_node(mortal(language)) as node:
        for number in range(row.times):
            for wait in (True, False):
                pid = int((await node.call("mortal/k/pid")).body)
                os.kill(pid, signal.SIGKILL)
                if wait:  # else the call races with the news of the death
                    await until(lambda pid=pid: not alive(pid))
                row.fired(f"process {pid} was sent KILL")
                answer = await node.call("mortal/k/add")
                assert (answer.status, answer.body) == (200, b"%d" % (2 * number + 2 - wait))
                row.recovered()
                assert not alive(pid)
                assert int((await node.call("mortal/k/pid")).body) != pid


@in_each_language
@pytest.mark.fault("F2", "kill -9 of a process that has read the request")
async def test_a_request_whose_process_is_killed_runs_once_more_and_counts_once(
    language, row, start_node, tmp_path
):
    async with start_node(mortal(language)) as node, trio.open_nursery() as nursery:
        for number in range(row.times):
            told = tmp_path / f"told-{number}"
            answers = []

            async def call(told=told, answers=answers):
                answers.append(await node.call("mortal/k/holds", str(told)))

            nursery.start_soon(call)
            await until(told.exists)
            os.kill(pid := int(told.read_text()), signal.SIGKILL)
            row.fired(f"process {pid} had read the request and was sent KILL")
            await until(lambda answers=answers: bool(answers))
            row.recovered()
            assert not alive(pid)
            assert (answers[0].status, answers[0].body) == (200, b"%d" % (number + 1))
            assert answers[0].fields["inversion-outcome"] == "applied"
            assert await count(node) == number + 1


@in_each_language
@pytest.mark.fault("F2", "kill -9 of a process around the time it answers, 30 times")
async def test_a_kill_that_races_with_the_answer_never_counts_twice(language, row, start_node, tmp_path):
    kills = 30
    async with start_node(mortal(language)) as node, trio.open_nursery() as nursery:
        for number in range(kills * row.times):
            told = tmp_path / f"told-{number}"
            answers = []

            async def call(told=told, answers=answers):
                answers.append(await node.call("mortal/k/tells", str(told)))

            nursery.start_soon(call)
            await until(told.exists)
            with trio.move_on_after(number % 10 * 0.0003):  # the answer may be written, read, committed
                await trio.sleep_forever()
            os.kill(pid := int(told.read_text()), signal.SIGKILL)
            row.fired(f"process {pid} had read the request and was sent KILL")
            await until(lambda answers=answers: bool(answers))
            row.recovered()
            assert (answers[0].status, answers[0].body) == (200, b"%d" % (number + 1))
            # The next request is not to meet this kill too, if it came after the answer.
            assert (await node.call("mortal/k/pid")).status == 200
        assert await count(node) == kills * row.times


@in_each_language
@pytest.mark.fault("F2", "kill -9 of a process that has read the request, with rerun = 0")
async def test_without_a_second_run_a_killed_request_is_a_502_and_counts_not_at_all(
    language, row, start_node, tmp_path
):
    async with start_node(mortal(language, rerun="0")) as node, trio.open_nursery() as nursery:
        for number in range(row.times):
            told = tmp_path / f"told-{number}"
            answers = []

            async def call(told=told, answers=answers):
                answers.append(await node.call("mortal/k/holds", str(told)))

            nursery.start_soon(call)
            await until(told.exists)
            os.kill(pid := int(told.read_text()), signal.SIGKILL)
            row.fired(f"process {pid} had read the request and was sent KILL")
            await until(lambda answers=answers: bool(answers))
            assert said(answers[0]) == (502, "function_crashed", "not_applied")
            assert problem(answers[0])["signal"] == "SIGKILL"
            assert await count(node) == number
            assert (await node.call("mortal/k/add")).status == 200
            row.recovered()


# -- dead in the midst of an answer ----------------------------------------------------------------------


@in_each_language
@pytest.mark.fault("F3", "death after each number of bytes of an answer, from none to all of them")
async def test_an_answer_that_was_cut_anywhere_is_no_answer(language, row, start_node, tmp_path):
    starts = tmp_path / "starts"
    async with start_node(mortal(language, starts=starts)) as node:
        expected = 0
        for _ in range(row.times):
            for cut in range(200):  # the answer has fewer bytes
                before = len(starts.read_text().splitlines())
                answer = await node.call("mortal/k/cut", {"bytes": cut, "always": False})
                expected += 1
                assert (answer.status, answer.body) == (200, b"%d" % expected), (cut, answer.body)
                if len(starts.read_text().splitlines()) == before:
                    break  # all of it was out before the death: it counted, and nothing ran again
                row.fired(f"dead after {cut} bytes: another process answered")
                row.recovered()
            assert 40 < cut < 199
        assert await count(node) == expected


@in_each_language
@pytest.mark.fault("F3", "death after a part of an answer, in both attempts")
async def test_a_second_cut_answer_is_a_502_with_exit_status_and_last_words(language, row, start_node):
    async with start_node(mortal(language)) as node:
        expected = 0
        for _ in range(row.times):
            for cut in (0, 1, 20):
                answer = await node.call("mortal/k/cut", {"bytes": cut, "always": True})
                row.fired(f"the process wrote {cut} bytes and ended: {answer.body.decode()}")
                assert said(answer) == (502, "function_crashed", "not_applied")
                assert (problem(answer)["exit_status"], problem(answer)["stderr"]) == (7, f"cut at {cut}")
                expected += 1
                answer = await node.call("mortal/k/add")  # nothing of the cut ones counted
                assert (answer.status, answer.body) == (200, b"%d" % expected)
                row.recovered()


# -- dead whatever it is sent ----------------------------------------------------------------------------

WORKS = {
    "python": """
        import json, os, sys
        for line in sys.stdin:
            print(json.dumps({"id": json.loads(line)["id"], "response": os.getpid()}), flush=True)
        """,
    "bash": r"""
        while IFS= read -r line; do
          id=${line#*'"id":"'}
          echo "{\"id\":\"${id%%'"'*}\",\"response\":$$}"
        done
        """,
}
BROKEN = {
    "python": "open('starts', 'a').write('x')\nimport nothing_of_that_name",
    "bash": "printf x >>starts\necho 'no config' >&2\nexit 1",
}
LAST_WORDS = {"python": "No module named 'nothing_of_that_name'", "bash": "no config"}


def write_function(folder: Path, language: str, text: str) -> str:
    """Its section of inversion.toml."""
    new = folder / "fn.new"
    new.write_text(dedent(text))
    new.rename(folder / "fn")  # a process that starts just now reads the one or the other
    program = {"python": PYTHON, "bash": "bash"}[language]
    return f"[functions.fn]\ncommand = {orjson.dumps([program, 'fn']).decode()}\nstate = false\n"


async def until_refused(node, path: str, within_s: float = 20.0) -> list[tuple[int, str]]:
    """Call until the breaker is open: what the calls before got."""
    before = []
    with trio.fail_after(within_s):
        while True:
            answer = await node.call(path)
            if said(answer)[1] == "breaker_open":
                return before
            before.append(said(answer)[:2])


async def refusals_s(node, path: str, times: int) -> list[float]:
    """How long calls took on one connection that were refused by the breaker."""
    host, _, port = node.started.url.removeprefix("http://").rpartition(":")
    stream = await trio.open_tcp_stream(host, int(port))
    took_s = []
    async with stream:
        client = Client(stream)
        while len(took_s) < times:
            began_s = perf_counter()
            await client.send(post(f"/v1/call/{path}".encode(), b"1"))
            answer = await client.answer()
            if said(answer)[1] == "breaker_open":
                took_s.append(perf_counter() - began_s)
                assert 1 <= int(answer.fields["retry-after"]) <= LONGEST_PAUSE_S
    return took_s


@pytest.mark.parametrize("language", ["python", "bash"])
@pytest.mark.fault("F14", "a function that ends with an error at its start, called all the time, then mended")
async def test_a_crash_loop_is_cut_off_and_heals_when_the_function_is_mended(
    language, row, start_node, tmp_path
):
    toml = write_function(tmp_path, language, WORKS[language])
    async with start_node(toml, admin_token=TOKEN) as node:
        for _ in range(row.times):
            pid = int((await node.call("fn/well")).body)
            write_function(tmp_path, language, BROKEN[language])
            (tmp_path / "starts").write_text("")
            os.kill(pid, signal.SIGKILL)
            await until(lambda pid=pid: not alive(pid))
            before = await until_refused(node, "fn/well")
            assert set(before) <= {(502, "function_crashed")}
            row.fired(f"{len((tmp_path / 'starts').read_text())} processes died, calls are refused")
            took_s = await refusals_s(node, "fn/well", 20)
            assert median(took_s) <= REFUSED_WITHIN_S, took_s
            answer = await node.call("fn/well")
            assert problem(answer)["exit_status"] == 1
            assert LAST_WORDS[language] in answer.body.decode()
            assert await metric(node, "inversion_function_breaker_open", "fn") == 1
            assert await metric(node, "inversion_function_deaths_total", "fn") >= DEATHS
            told = str((await report(node, "fn"))["problem"])
            assert told.startswith("breaker open, "), told
            assert LAST_WORDS[language] in told
            starts = len((tmp_path / "starts").read_text())
            assert DEATHS <= starts <= DEATHS + PROBES
            write_function(tmp_path, language, WORKS[language])
            with trio.fail_after(LONGEST_PAUSE_S + 15):
                while (await node.call("fn/well")).status != 200:  # noqa: ASYNC110
                    await trio.sleep(0.02)
            row.recovered()
            assert await metric(node, "inversion_function_breaker_open", "fn") == 0
            assert (await report(node, "fn"))["problem"] is None
            for _ in range(10):
                assert (await node.call("fn/well")).status == 200


@pytest.mark.fault("F13", "a program that ends with status 0 at once")
async def test_a_program_that_ends_at_once_is_a_502_then_refused(row, start_node):
    async with start_node('[functions.fn]\ncommand = "true"', admin_token=TOKEN) as node:
        for _ in range(row.times):
            started = await metric(node, "inversion_function_starts_total", "fn")
            before = await until_refused(node, "fn/k/well")
            assert set(before) <= {(502, "function_crashed")}
            answer = await node.call("fn/k/well")
            assert problem(answer)["exit_status"] == 0
            row.fired(f"it ended: {problem(answer)['detail']}")
            assert median(await refusals_s(node, "fn/k/well", 20)) <= REFUSED_WITHIN_S
            starts = await metric(node, "inversion_function_starts_total", "fn")
            assert starts >= DEATHS
            assert starts - started <= DEATHS + PROBES
            assert "exit status 0" in str((await report(node, "fn"))["problem"])


@pytest.mark.fault("F13", "a program that never says the hello that it must say")
async def test_a_hello_that_never_comes_is_a_502_then_refused(row, start_node, tmp_path, monkeypatch):
    monkeypatch.setattr(worker, "HELLO_S", 0.5)
    toml = """
        [functions.fn]
        command = ["sleep", "600"]
        state = false
        hello = "required"
        grace = "200ms"
        """
    async with start_node(toml, admin_token=TOKEN) as node:
        for _ in range(row.times):
            started = await metric(node, "inversion_function_starts_total", "fn")
            before = await until_refused(node, "fn/well")
            row.fired("no hello came within half a second")
            assert set(before) <= {(502, "protocol_error"), (502, "function_crashed")}
            starts = await metric(node, "inversion_function_starts_total", "fn")
            assert starts - started < DEATHS  # callers are not kept waiting for five of them
            answer = await node.call("fn/well")
            assert "did not say hello" in problem(answer)["detail"]
            assert await metric(node, "inversion_function_breaker_open", "fn") == 1


# -- poison ----------------------------------------------------------------------------------------------


async def beside_poison(node, row, path: str, keys: Sequence[str], poisoned: str) -> list[list[int]]:
    """A well caller for each key, in a loop, and one who sends poison: what each of the callers got."""
    served: list[list[int]] = [[] for _ in keys]
    failed = []
    over = False

    async def well(number):
        while not over:
            answer = await node.call(f"{path}/{keys[number]}/add")
            if answer.status == 200:
                served[number].append(int(answer.body))
            else:
                failed.append(answer)

    async with trio.open_nursery() as nursery:
        for number in range(len(keys)):
            nursery.start_soon(well, number)
        for _ in range(10 * row.times):
            so_far = sum(map(len, served))
            answer = await node.call(f"{path}/{poisoned}/poison")
            row.fired(f"{problem(answer)['detail']}")
            assert said(answer) == (502, "function_crashed", "not_applied")
            assert (problem(answer)["exit_status"], problem(answer)["stderr"]) == (3, "it was poison")
            assert await metric(node, "inversion_function_breaker_open", path) == 0
            await until(lambda so_far=so_far: sum(map(len, served)) >= so_far + len(keys))
            row.recovered()
        over = True
    assert not failed
    return served


@in_each_language
@pytest.mark.fault("F21", f"a caller repeats a message that kills, beside {WELL_CALLERS} others")
async def test_whoever_sends_poison_is_alone_with_it(language, row, start_node, tmp_path):
    starts = tmp_path / "starts"
    toml = mortal(language, starts=starts, processes="{ max = 2 }")
    async with start_node(toml) as node:
        keys = [f"k{number}" for number in range(WELL_CALLERS)]
        served = await beside_poison(node, row, "mortal", keys, "poisoned")
        assert len(starts.read_text().splitlines()) >= 10 * row.times
        for key, counts in zip(keys, served, strict=True):
            assert counts == list(range(1, len(counts) + 1))
            assert await count(node, f"mortal/{key}") == len(counts)
        assert await count(node, "mortal/poisoned") == 0


@in_each_language
@pytest.mark.fault("F21", f"a message that kills, in one frame with those of {WELL_CALLERS} others")
async def test_poison_in_a_turn_of_many_fails_alone(language, row, start_node):
    program = str(FUNCTIONS / f"poisonable.{language.replace('python', 'py').replace('node', 'js')}")
    command = orjson.dumps([COMMANDS[language][0], program]).decode()
    toml = f"""
        [functions.hot]
        command = {command}
        env = {{ PYTHONPATH = "{RUNTIMES}/python" }}
        """
    async with start_node(toml) as node:
        served = await beside_poison(node, row, "hot", ["k"] * WELL_CALLERS, "k")
        attempts = [attempt for each in served for attempt in each]
        assert await count(node, "hot/k") == len(attempts)
        assert set(attempts) == {1, 2}, "some were in a frame with the poison and ran once more"
