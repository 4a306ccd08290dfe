"""What a hostile function writes: garbage, endless lines, pieces of answers, what must not be stored."""

from __future__ import annotations

import os
import random

import pytest
from hostility import (
    NEIGHBOURS,
    alive,
    hostile,
    in_each_language,
    lines,
    lines_logged,
    problem,
    resident_bytes,
    said,
    until,
)

from inversion.config import Limits

KEPT = b'{"kept":true}'


async def is_unharmed(node, name="hostile"):
    """The state is what `put` made of it, and the next calls of this function and of another are answered."""
    assert (await node.state(f"{name}/k")).body == KEPT
    answer = await node.call(f"{name}/k/well", 1)
    assert (answer.status, answer.body) == (200, b"1"), answer
    assert (await node.call("neighbour/get", 0)).status == 200


async def put_state(node, name="hostile"):
    answer = await node.call(f"{name}/k/put", {"kept": True})
    assert answer.status == 200, answer.body


#: What is no frame: log lines, whatever the bytes are.
GARBAGE = [
    b"",
    b"garbage",
    b"\x00\x01\x02\xff\xfe",
    b"\xc3\x28 \xed\xa0\x80 \xf5",
    b"{",
    b"}",
    b"[" * 100_000,
    b'{"a":' * 100_000,
    b"null",
    b"1e999",
    b'"id"',
    b'["@ID@"]',
    b'{"id":1}',
    b'{"id":null,"x":1}',
    b'{"ID":"@ID@"}',
    b'{"message":"@ID@","hellow":{}}',
    b"{'id':'@ID@'}",
    b"\xef\xbb\xbf{}",
    b"\x1b[2J\x1b]0;title\x07",
    b"HTTP/1.1 200 OK\r",
]


@in_each_language
@pytest.mark.fault("F4", "lines that are no frames, before an answer")
async def test_garbage_is_logged_and_the_answer_behind_it_counts(language, row, start_node):
    async with start_node(hostile(language, "--silent") + NEIGHBOURS) as node:
        await put_state(node)
        before = (await node.call("hostile/k/pid")).body
        for _ in range(row.times):
            logged = await lines_logged(node, "stray")
            answer = await node.call("hostile/k/lines", lines(*GARBAGE, b'{"id":"@ID@","response":4}'))
            logged = await lines_logged(node, "stray") - logged
            assert logged >= len(GARBAGE)
            row.fired(f"{logged} lines of garbage were logged")
            assert (answer.status, answer.body) == (200, b"4"), answer.body
            assert (await node.call("hostile/k/pid")).body == before
            await is_unharmed(node)
            row.recovered()


#: Answers to the right message that must not count: the call fails, the process may stay.
BAD_ANSWERS = [
    (b'"response":', "protocol_error"),
    (b'"response":1,}', "protocol_error"),
    (b'"response":NaN}', "protocol_error"),
    (b'"response":"\xff\xfe"}', "protocol_error"),
    (b'"response":"\xed\xa0\x80"}', "protocol_error"),
    (b'"response":"\x01"}', "protocol_error"),
    (b'"response":1,"delete":"yes"}', "protocol_error"),
    (b'"error":"no"}', "protocol_error"),
    (b'"error":{"status":"409"}}', "protocol_error"),
    (b'"error":{},"state":1}', "protocol_error"),
    (b'"state":1,"delete":true}', "protocol_error"),
    (b'"answers":[{"id":"@ID@","response":1}],"state":1}', "protocol_error"),
    (b'"answers":{}}', "protocol_error"),
    (b'"state":1,"effects":[{"send":{"handler":"X","message":1}}]}', "protocol_error"),
    (b'"state":1,"effects":{"send":1}}', "protocol_error"),
    (b'"state":1,"effects":[{"send":{"key":"-"}}]}', "protocol_error"),
    (b'"state":1,"effects":[{"http":{"url":"http://a","headers":{"a":"b\\r\\nc: d"}}}]}', "protocol_error"),
    (b'"state":1,"effects":[' + b'{"send":{}},' * 1_000 + b'{"send":{}}]}', "effects_too_large"),
    (b'"state":1,"response":"' + b"x" * (1 << 20) + b'"}', "response_too_large"),
    (b'"state":1,"effects":["' + b"x" * (1 << 20) + b'"]}', "effects_too_large"),
]

#: States that must not be stored (F19).
ILLEGAL_STATES = [
    (b'"' + b"x" * (1 << 20) + b'"', "state_too_large"),
    (b"[" * 65 + b"]" * 65, "protocol_error"),
    (b'{"a":' * 65 + b"1" + b"}" * 65, "protocol_error"),
    (b"[" * 500_000 + b"]" * 500_000, "protocol_error"),
    (b"18446744073709551616", "protocol_error"),
    (b'{"n":[-9223372036854775809]}', "protocol_error"),
    (b"1" * 10_000, "protocol_error"),
    (b"NaN", "protocol_error"),
    (b"[Infinity]", "protocol_error"),
    (b"-Infinity", "protocol_error"),
    (b"1e400", "protocol_error"),
    (b'"\\ud800"', "protocol_error"),
    (b'{"\\udfff":1}', "protocol_error"),
    (b'"\xff"', "protocol_error"),
    (b'"\xc0\xaf"', "protocol_error"),
    (b"01", "protocol_error"),
    (b"{1:2}", "protocol_error"),
    (b"tru", "protocol_error"),
    (b"'a'", "protocol_error"),
]


async def refuses(node, row, rest, code):
    """The answer `rest` is refused with `code`; nothing is stored, its process lives on."""
    answer = await node.call("hostile/k/lines", lines(b'{"id":"@ID@",' + rest))
    assert said(answer) == (502, code, "not_applied"), (rest[:80], answer.body)
    row.fired(f"{code}: {problem(answer)['detail'][:80]}")
    assert (await node.state("hostile/k")).body == KEPT, rest[:80]
    answer = await node.call("hostile/k/well", 1)
    assert answer.status == 200, (rest[:80], answer.body)
    row.recovered()


@in_each_language
@pytest.mark.fault("F4", "answers that are malformed, of a wrong type, or contradict themselves")
async def test_a_malformed_answer_fails_its_call_alone(language, row, start_node):
    async with start_node(hostile(language) + NEIGHBOURS) as node:
        await put_state(node)
        before = (await node.call("hostile/k/pid")).body
        for _ in range(row.times):
            for rest, code in BAD_ANSWERS:
                await refuses(node, row, rest, code)
        assert (await node.call("hostile/k/pid")).body == before
        await is_unharmed(node)


@in_each_language
@pytest.mark.fault("F19", "states that are too big, too deep, no JSON, beyond 64 bits, not finite, no UTF-8")
async def test_an_illegal_state_is_refused_before_it_is_stored(language, row, start_node):
    async with start_node(hostile(language) + NEIGHBOURS) as node:
        await put_state(node)
        version = (await node.state("hostile/k")).fields["etag"]
        before = (await node.call("hostile/k/pid")).body
        for _ in range(row.times):
            for state, code in ILLEGAL_STATES:
                await refuses(node, row, b'"response":1,"state":' + state + b"}", code)
        assert (await node.state("hostile/k")).fields["etag"] == version
        assert (await node.call("hostile/k/pid")).body == before
        await is_unharmed(node)


@pytest.mark.fault("F4", "answers with bytes changed, added, left out, at random")
async def test_whatever_bytes_an_answer_has_the_node_goes_on(row, start_node):
    chance = random.Random(os.environ.get("INVERSION_FAULT_SEED", "4"))
    right = b'{"id":"@ID@","response":{"a":[1,"two",3.0]},"state":{"n":1}}'
    seen = set()
    async with start_node(hostile("python") + NEIGHBOURS) as node:
        await put_state(node)
        for _ in range(40 * row.times):
            changed = bytearray(right)
            for _ in range(chance.randint(1, 4)):
                at = chance.randrange(len(changed))
                changed[at : at + chance.randint(0, 3)] = chance.randbytes(chance.randint(0, 3))
            # A right answer comes behind it, or it might be waited for until the timeout.
            answer = await node.call("hostile/f/lines", lines(bytes(changed), right))
            row.fired(f"{bytes(changed)!r}")
            assert answer.status == 200 or said(answer)[1:] == ("protocol_error", "not_applied"), answer.body
            seen.add(answer.status)
            assert (await node.call("hostile/f/well", 1)).status == 200, changed
            row.recovered()
        assert seen == {200, 502}
        await is_unharmed(node)


@in_each_language
@pytest.mark.fault("F5", "100 MB without a newline and without an id")
async def test_an_endless_line_ends_its_process_and_takes_no_memory(language, row, served):
    toml = hostile(language, timeout='"20s"', grace='"1s"', rerun="0") + NEIGHBOURS
    with served(toml) as node:
        await put_state(node)
        for _ in range(row.times):
            hostile_pid = int((await node.call("hostile/k/pid", 1)).body)
            assert (await node.call("neighbour/get", 0)).status == 200
            before_bytes = resident_bytes(node.process.pid)
            answer = await node.call("hostile/k/endless", {"bytes": 100_000_000})
            assert said(answer) == (502, "protocol_error", "not_applied"), answer.body
            assert f"more than {Limits().frame_bytes} bytes" in problem(answer)["detail"]
            row.fired("the limit of a line was met")
            await until(lambda pid=hostile_pid: not alive(pid))
            await is_unharmed(node)
            row.recovered()
            grown_bytes = resident_bytes(node.process.pid, "VmHWM") - before_bytes
            assert grown_bytes <= 4 * Limits().frame_bytes, grown_bytes


@in_each_language
@pytest.mark.fault("F5", "an answer of 100 MB on one line")
async def test_an_endless_answer_fails_its_call_alone_and_takes_no_memory(language, row, served):
    with served(hostile(language, timeout='"20s"') + NEIGHBOURS) as node:
        await put_state(node)
        before = (await node.call("hostile/k/pid", 1)).body
        for _ in range(row.times):
            before_bytes = resident_bytes(node.process.pid)
            answer = await node.call("hostile/k/endless_answer", {"bytes": 100_000_000})
            assert said(answer) == (502, "response_too_large", "not_applied"), answer.body
            row.fired(problem(answer)["detail"])
            assert (await node.call("hostile/k/pid", 1)).body == before  # behind the other 96 MB
            await is_unharmed(node)
            row.recovered()
            grown_bytes = resident_bytes(node.process.pid, "VmHWM") - before_bytes
            assert grown_bytes <= 4 * Limits().frame_bytes, grown_bytes


@in_each_language
@pytest.mark.fault("F4", "an answer in two writes, cut at every byte, and byte by byte")
async def test_an_answer_in_pieces_is_an_answer(language, row, start_node):
    async with start_node(hostile(language) + NEIGHBOURS) as node:
        await put_state(node)
        for _ in range(row.times):
            first = await node.call("hostile/k/halves", 0)
            answer_bytes = len(b'{"id":"%b.1","response":00}\n' % first.fields["inversion-id"].encode())
            for cut in range(1, answer_bytes + 1):
                answer = await node.call("hostile/k/halves", cut)
                assert (answer.status, answer.body) == (200, b"%d" % cut), answer.body
            row.fired(f"cut at each of {answer_bytes} bytes")
            answer = await node.call("hostile/k/dribble", "drop by drop")
            assert (answer.status, answer.body) == (200, b'"drop by drop"'), answer.body
            await is_unharmed(node)
            row.recovered()
