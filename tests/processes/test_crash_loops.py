"""What a pool does about processes that die: whom it refuses, whom it serves, what it tries."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path
from time import perf_counter

import pytest
import trio
from serving import python, serving, together, until

from inversion.config import HelloRule, Processes
from inversion.errors import Code, RuntimeBroken
from inversion.messages import MessageOut
from inversion.processes import crashes
from inversion.protocol.breaker import DEATHS, FIRST_PAUSE_S, PROBES

pytestmark = pytest.mark.slow

#: Dies at its start unless there is a file `mended`; then it answers, `held` when there is a file `go`.
LOOPS = """
    open("starts", "a").write("x")
    if not os.path.exists("mended"):
        sys.exit("not mended yet")
    def answer(frame):
        while frame["message"] == "held" and not os.path.exists("go"):
            time.sleep(0.005)
        return {"response": os.getpid()}
"""
HELLO = '    out({"hello": {"protocol": 1, "pipeline": 8}})\n'
SERVE = "    serve(answer)\n"
SILENT_OR_NOT = pytest.mark.parametrize(
    ("code", "hello"), [(LOOPS + SERVE, HelloRule.AUTO), (LOOPS + HELLO + SERVE, HelloRule.REQUIRED)]
)


def starts(folder: Path) -> int:
    return len((folder / "starts").read_text())


def codes(results) -> list[Code | None]:
    """None: it was answered."""
    assert all(isinstance(result, (MessageOut, RuntimeBroken)) for result in results), results
    return [result.code if isinstance(result, RuntimeBroken) else None for result in results]


async def open_breaker(served) -> None:
    while not served.pool().breaker_open:
        await together(served.call())


async def half_open(served) -> None:
    await until(lambda: served.pool()._crashes.may_start(perf_counter()))


@SILENT_OR_NOT
async def test_what_waits_when_the_breaker_opens_is_refused_and_nothing_hangs(tmp_path, code, hello):
    async with serving(python(tmp_path, code, hello=hello)) as served:
        results = []
        while not served.pool().breaker_open:
            results += await together(*(served.call() for _ in range(20)))
        assert set(codes(results)) <= {Code.FUNCTION_CRASHED, Code.BREAKER_OPEN}
        with pytest.raises(RuntimeBroken) as caught:
            await served.call()
        assert caught.value.code is Code.BREAKER_OPEN
        assert caught.value.retry_after_s
        assert caught.value.extra == {"exit_status": 1, "stderr": "not mended yet"}
        assert caught.value.detail.startswith("function fn: breaker open, next try in ")
        assert caught.value.detail.endswith("its process ended with exit status 1: not mended yet")
        assert starts(tmp_path) <= DEATHS + PROBES


@SILENT_OR_NOT
async def test_after_the_pause_one_process_tries_one_message(tmp_path, code, hello):
    async with serving(python(tmp_path, code, hello=hello, processes=Processes(max=4))) as served:
        await open_breaker(served)
        (tmp_path / "mended").touch()
        await half_open(served)
        before = starts(tmp_path)
        results = []

        async def call():
            results.extend(await together(served.call(b'"held"')))

        async with trio.open_nursery() as nursery:
            for _ in range(10):
                nursery.start_soon(call)
            await until(lambda: len(results) == 9)
            assert set(codes(results)) == {Code.BREAKER_OPEN}
            if hello is HelloRule.AUTO:
                assert served.pool().breaker_open  # it has said nothing yet
            (tmp_path / "go").touch()
        assert codes(results).count(None) == 1
        assert starts(tmp_path) == before + 1
        assert not served.pool().breaker_open
        assert codes(await together(*(served.call() for _ in range(20)))) == [None] * 20


async def test_between_two_starts_there_is_the_pause(tmp_path, monkeypatch):
    monkeypatch.setattr(crashes.random, "random", lambda: 1.0)
    code = """
        with open("starts", "a") as file:
            print(time.monotonic(), file=file)
        sys.exit(1)
    """
    async with serving(python(tmp_path, code)) as served:
        await open_breaker(served)
        starts_s = [float(line) for line in (tmp_path / "starts").read_text().split()]
        assert len(starts_s) == DEATHS
        for number, (earlier_s, later_s) in enumerate(pairwise(starts_s)):
            assert later_s - earlier_s >= FIRST_PAUSE_S * 2**number


async def test_a_probe_that_dies_begins_the_next_pause(tmp_path):
    async with serving(python(tmp_path, LOOPS + SERVE)) as served:
        await open_breaker(served)
        await half_open(served)
        before = starts(tmp_path)
        assert set(codes(await together(served.call()))) <= {Code.FUNCTION_CRASHED, Code.BREAKER_OPEN}
        assert starts(tmp_path) == before + 1
        assert served.pool().breaker_open
        assert codes(await together(served.call())) == [Code.BREAKER_OPEN]
        assert starts(tmp_path) == before + 1


async def test_with_a_minimum_of_processes_it_heals_without_a_call(tmp_path):
    function = python(tmp_path, LOOPS + HELLO + SERVE, processes=Processes(min=1, max=2))
    async with serving(function) as served:
        await until(lambda: served.pool().breaker_open)
        (name, well, sentence) = served.supervisor.reports()[0]
        assert (name, well) == ("fn", False)
        assert sentence.startswith("breaker open, "), sentence
        assert sentence.endswith("its process ended with exit status 1: not mended yet")
        (tmp_path / "mended").touch()
        await until(lambda: not served.pool().breaker_open)
        assert served.supervisor.reports()[0].ok
        await served.call()


async def test_a_process_of_before_goes_on_serving_while_no_other_can_be_started(tmp_path):
    (tmp_path / "mended").touch()
    code = LOOPS.replace("os.getpid()", "time.sleep(0.02) or os.getpid()") + HELLO + SERVE
    function = python(tmp_path, code, hello=HelloRule.REQUIRED, processes=Processes(max=2))
    async with serving(function) as served:
        first = (await served.call()).answers[0].response
        (tmp_path / "mended").unlink()
        results = []
        while not served.pool().breaker_open:
            results += await together(*(served.call() for _ in range(40)))
        results += await together(*(served.call() for _ in range(40)))
        assert codes(results) == [None] * len(results)
        assert {result.answers[0].response for result in results} == {first}


async def test_a_process_that_ends_after_each_answer_is_replaced_at_once(tmp_path):
    code = 'out({"id": json.loads(sys.stdin.readline())["id"], "response": os.getpid()})'
    async with serving(python(tmp_path, code)) as served:
        pids = set()
        for _ in range(2 * DEATHS):
            pids.add((await served.call()).answers[0].response)
            await until(lambda: not served.pool().processes)
        assert len(pids) == 2 * DEATHS
        assert served.pool()._breaker.streak == 0
        assert not served.pool().breaker_open


async def test_a_message_that_hangs_again_and_again_does_not_stop_the_others(tmp_path):
    code = 'serve(lambda f: {"response": time.sleep(60) if f["message"] == "hang" else os.getpid()})'
    function = python(tmp_path, code, timeout_s=0.6, grace_s=0.1, processes=Processes(max=2))
    async with serving(function) as served:
        over = False
        answered = []

        async def well():
            while not over:
                answered.extend(codes(await together(served.call())))

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(well)
            hung = []
            for _ in range(DEATHS + 1):
                hung += codes(await together(served.call(b'"hang"')))
                assert not served.pool().breaker_open
            over = True
        assert Code.FUNCTION_TIMEOUT in hung
        assert Code.BREAKER_OPEN not in [*hung, *answered]


async def test_what_is_killed_at_the_end_of_the_node_is_no_death(tmp_path):
    many = Processes(min=DEATHS, max=DEATHS)
    async with serving(python(tmp_path, SERVE.replace("answer", "lambda f: {}"), processes=many)) as served:
        pool = served.pool()
        assert len(pool.processes) == DEATHS
    assert not pool.processes
    assert pool._counters.deaths == 0
    assert not pool.breaker_open
