"""What a function writes that is no answer: capped in the log, and cheap for the node however much it is."""

from __future__ import annotations

import io
import re
from time import perf_counter, process_time

import orjson
import pytest
from hostility import NEIGHBOURS, hostile, in_each_language, lines_logged, said, until

from inversion.observe import logs
from inversion.processes.log_lines import SECOND_BYTES


@pytest.fixture
def log():
    stream = io.StringIO()
    logs.configure(logs.Style.JSON, stream)
    yield stream
    logs.configure()


@in_each_language
@pytest.mark.fault("F12", "20 MB of stderr, control characters in each line")
async def test_a_flood_of_stderr_is_capped_counted_and_escaped(language, row, start_node, log):
    flood = {"bytes": 20_000_000}
    async with start_node(hostile(language, timeout='"30s"') + NEIGHBOURS) as node:
        for _ in range(row.times):
            log.truncate(log.seek(0))
            begun_s = perf_counter()
            answer = await node.call("hostile/k/floods_stderr", flood)
            took_s = perf_counter() - begun_s
            assert (answer.status, orjson.loads(answer.body)) == (200, flood), answer.body
            assert (await node.call("hostile/k/well", 1)).body == b"1"
            assert (await node.call("neighbour/get", 0)).status == 200
            await until(lambda: "bytes dropped" in log.getvalue().splitlines()[-1])
            text = log.getvalue()
            dropped_bytes = sum(map(int, re.findall(r"\[(\d+) bytes dropped", text)))
            assert re.search("[\x00-\x09\x0b-\x1f\x7f]", text) is None
            events = [orjson.loads(line) for line in text.splitlines()]
            texts = [
                e["text"] for e in events if e["event"] == "function_line" and e["function"] == "hostile"
            ]
            row.fired(f"{len(texts)} lines logged, {dropped_bytes} bytes dropped in {took_s:.1f} s")

            assert 0.98 < (dropped_bytes + sum(len(text) + 1 for text in texts)) / 20_000_000 < 1.02
            assert "\x1b[31mno, no, no, no\x07" in texts
            assert sum(map(len, texts)) <= SECOND_BYTES * (took_s + 3)
            assert len(texts) < 2_000 * (took_s + 3)
            row.recovered()


@in_each_language
@pytest.mark.fault("F12", "lines on stderr, on stdout, or one without an end, for a second and a half")
async def test_the_node_works_little_for_what_is_no_answer(language, row, start_node, log):
    conduct = ["floods_stderr", "floods_stdout", "floods_almost_frames", "endless_answer"]
    async with start_node(hostile(language, timeout='"20s"') + NEIGHBOURS) as node:
        for handler in conduct * row.times:
            before = await lines_logged(node, "stray") + await lines_logged(node, "stderr")
            begun_s, used_s = perf_counter(), process_time()
            answer = await node.call(f"hostile/k/{handler}", {"for_s": 1.5})
            assert (await node.call("hostile/k/well", 1)).body == b"1"  # behind all of it
            took_s, used_s = perf_counter() - begun_s, process_time() - used_s
            logged = await lines_logged(node, "stray") + await lines_logged(node, "stderr") - before
            if handler == "endless_answer":
                assert said(answer) == (502, "response_too_large", "not_applied")
            else:
                assert answer.status == 200
                assert logged > 500
            row.fired(
                f"{handler}: {logged} lines logged, {used_s / took_s:.0%} of a processor used by the node"
            )
            assert took_s > 1.4
            assert used_s < 0.25 * took_s, (handler, used_s, took_s)
            assert (await node.call("neighbour/get", 0)).status == 200
            row.recovered()
