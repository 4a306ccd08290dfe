"""CGI programs over HTTP: bodies longer than any buffer, slow sides, and sides that end too early."""

from __future__ import annotations

import json
import os
import socket
import struct
from pathlib import Path

import attrs
import pytest
import trio
from cgi_door import BODY_BYTES, CgiDoor, cgi_door, python, shell, until
from front_door import Client, get, post

from inversion.config import Processes

pytestmark = pytest.mark.slow

CAT = "printf 'Content-Type: application/octet-stream\\n\\n'; exec cat"
#: Answers with what CONTENT_LENGTH it was told, and how much came.
COUNT = """
    length="${CONTENT_LENGTH-none}"
    came=$(wc -c)
    printf 'Content-Type: text/plain\\n\\n%s %s' "$length" "$came"
"""
#: More than all buffers between a client and a program hold.
LARGE = 48 << 20


def chunked(target: bytes, *chunks: bytes, end: bytes = b"0\r\n\r\n") -> bytes:
    head = b"POST %b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n" % target
    return head + b"".join(b"%x\r\n%b\r\n" % (len(each), each) for each in chunks) + end


async def send_slowly(client: Client, raw: bytes) -> None:
    await client.stream.send_all(raw)


async def read_to_end(client: Client) -> bytes:
    """All that comes; a reset is an end as well."""
    pieces = []
    try:
        pieces.extend([piece async for piece in client.stream])
    except trio.BrokenResourceError:
        pieces.append(b"<reset>")
    return b"".join(pieces)


def processes_of(folder: Path) -> set[int]:
    """Whose current folder it is, less the spawner: programs and what they started."""
    found = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                here = os.readlink(entry / "cwd") == str(folder)
                if here and b"INVERSION_CHILD=" in (entry / "environ").read_bytes():
                    found.add(int(entry.name))
            except OSError:
                continue  # it has just ended, or is another's
    return found - {os.getpid()}


async def until_ended(folder: Path) -> None:
    await until(lambda: not processes_of(folder))


async def test_bodies_flow_both_ways_at_once(tmp_path: Path):
    body = os.urandom(1 << 20) * 8
    async with cgi_door(shell(tmp_path, CAT)) as door, trio.open_nursery() as nursery:
        client = await door.connect()
        nursery.start_soon(send_slowly, client, post(b"/v1/http/fn", body))
        answer = await client.answer()
        assert answer.body == body
        assert answer.fields["connection"] == "close"


async def test_each_piece_of_an_answer_goes_out_when_it_is_written(tmp_path: Path):
    script = "printf 'Content-Type: a/b\\n\\n'; while read -r line; do echo \"<$line>\"; done"
    async with cgi_door(shell(tmp_path, script)) as door:
        client = await door.connect()
        await client.send(b"POST /v1/http/fn HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\n\r\na\n")
        said = b""
        while b"<a>" not in said:
            said += await client.stream.receive_some()
        await client.send(b"b\n")
        while b"<b>" not in said:
            said += await client.stream.receive_some()
        await client.send(b"c\n")
        said += await read_to_end(client)
    assert said.endswith(b"<c>\n\r\n0\r\n\r\n")


async def test_a_client_waits_for_a_program_that_does_not_read(tmp_path: Path):
    async with cgi_door(shell(tmp_path, "sleep 60", timeout_s=60)) as door:
        client = await door.connect()
        await client.send(b"POST /v1/http/fn HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % LARGE)
        sent = 0
        with trio.move_on_after(1.5):
            while sent < LARGE:
                sent += await client.stream.socket.send(b"x" * 65_536)
        assert sent < LARGE
        await leave_by_reset(client)  # a goodbye would wait behind what it has sent
        await until_ended(tmp_path)


async def test_a_program_waits_for_a_client_that_does_not_read(tmp_path: Path):
    script = """
        import sys
        print("Content-Type: a/b\\n", flush=True)
        for number in range(48):
            sys.stdout.write("x" * (1 << 20)); sys.stdout.flush()
            open("written", "w").write(str(number))
    """
    async with cgi_door(python(tmp_path, script, timeout_s=60)) as door:
        client = await door.connect()
        await client.send(get(b"/v1/http/fn"))
        seen, same = "", 0
        while same < 20:
            written = (tmp_path / "written").read_text() if (tmp_path / "written").exists() else ""
            same = same + 1 if written and written == seen else 0
            seen = written
            await trio.sleep(0.02)
        assert int(seen) < 40
        said = bytearray()
        while not said.endswith(b"\r\n0\r\n\r\n"):
            said += await client.stream.receive_some(1 << 20)
        assert LARGE < len(said) < LARGE + (1 << 20)


# Lengths.


async def test_a_chunked_body_that_comes_at_once_has_a_length(tmp_path: Path):
    async with cgi_door(shell(tmp_path, COUNT)) as door:
        client = await door.connect()
        for body in ([], [b"a" * 10, b"b" * 20]):
            await client.send(chunked(b"/v1/http/fn", *body))
        assert (await client.answer()).body == b"0 0"
        assert (await client.answer()).body == b"30 30"  # on the same connection


async def test_a_chunked_body_that_comes_in_two_pieces_has_a_length(tmp_path: Path):
    async with cgi_door(shell(tmp_path, COUNT)) as door:
        client = await door.connect()
        raw = chunked(b"/v1/http/fn", b"a" * 100)
        await client.send(raw[:-20])
        await trio.sleep(0.1)
        await client.send(raw[-20:] + get(b"/v1/http/fn"))
        assert (await client.answer()).body == b"100 100"
        assert (await client.answer()).body == b"none 0"


async def test_a_chunked_body_over_the_limit_or_a_slow_one_is_read_to_its_end_without_a_length(
    tmp_path: Path,
):
    async with cgi_door(shell(tmp_path, COUNT)) as door:
        large = await door.connect()
        await large.send(chunked(b"/v1/http/fn", *[b"x" * BODY_BYTES] * 300))
        slow = await door.connect()
        await slow.send(chunked(b"/v1/http/fn", b"begun", end=b""))
        assert (await large.answer()).body == b"none %d" % (300 * BODY_BYTES)
        await door.running()
        await slow.send(b"3\r\nend\r\n0\r\n\r\n")
        assert (await slow.answer()).body == b"none 8"


async def test_a_body_that_ends_in_nonsense_ends_the_program(tmp_path: Path):
    async with cgi_door(shell(tmp_path, COUNT)) as door:
        client = await door.connect()
        await client.send(chunked(b"/v1/http/fn", b"x" * 5_000, end=b""))
        await door.running()
        await client.send(b"nonsense\r\n")
        answer = await client.answer()
        assert (answer.status, json.loads(answer.body)["code"]) == (400, "bad_request")
        await until_ended(tmp_path)


async def test_a_compressed_body_is_the_programs_affair(tmp_path: Path):
    script = "printf 'Content-Type: a/b\\n\\n%s' \"$HTTP_CONTENT_ENCODING\""
    async with cgi_door(shell(tmp_path, script)) as door:
        assert (await door.ask(post(b"/v1/http/fn", b"x", b"Content-Encoding: gzip"))).body == b"gzip"


async def test_the_limit_of_bodies_stays_for_what_is_no_program(tmp_path: Path):
    async with cgi_door(shell(tmp_path, COUNT)) as door:
        client = await door.connect()
        body = b"x" * (BODY_BYTES + 1)
        await client.send(post(b"/v1/http/fn", body) + post(b"/v1/call/fn", body))
        assert (await client.answer()).body == b"1001 1001"
        assert (await client.answer()).status == 413


async def test_a_body_is_asked_for_when_there_is_a_process_for_it(tmp_path: Path):
    gate = tmp_path / "gate"
    script = f"while [ ! -e {gate} ]; do sleep 0.01; done; {CAT}"
    async with cgi_door(shell(tmp_path, script, processes=Processes(0, 1))) as door:
        first = await door.connect()
        await first.send(get(b"/v1/http/fn"))
        await door.running()
        second = await door.connect()
        await second.send(
            b"PUT /v1/http/fn HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\nExpect: 100-continue\r\n\r\n"
        )
        await door.crowded()
        with trio.move_on_after(0.1):
            pytest.fail(f"it was asked for: {await second.stream.receive_some()!r}")
        gate.touch()
        assert (await first.answer()).status == 200
        assert (await second.answer()).status == 100
        await second.send(b"body")
        assert (await second.answer()).body == b"body"


async def test_a_program_may_answer_without_reading_a_body(tmp_path: Path):
    script = "exec <&-; printf 'Status: 413 No\\nContent-Type: a/b\\n\\ntoo much'"
    async with cgi_door(shell(tmp_path, script)) as door, trio.open_nursery() as nursery:
        client = await door.connect()
        nursery.start_soon(client.send, post(b"/v1/http/fn", b"x" * (2 << 20)))
        answer = await client.answer()
        assert (answer.status, answer.body) == (413, b"too much")
        nursery.cancel_scope.cancel()


# Ends.


@pytest.mark.parametrize("end", ["kill -9 $$", "exit 1"])
async def test_a_crash_after_a_part_of_the_answer_is_seen_by_the_client(tmp_path: Path, end: str):
    gate = tmp_path / "gate"
    script = f"printf 'Content-Type: a/b\\n\\npart'; while [ ! -e {gate} ]; do sleep 0.01; done; {end}"
    async with cgi_door(shell(tmp_path, script)) as door:
        new, old = await door.connect(), await door.connect()
        await new.send(get(b"/v1/http/fn"))
        await old.send(b"GET /v1/http/fn HTTP/1.0\r\n\r\n")
        said = dict.fromkeys((new, old), b"")
        for client in said:
            while b"part" not in said[client]:
                said[client] += await client.stream.receive_some()
        gate.touch()
        for client in said:
            said[client] += await read_to_end(client)
        await door.quiet()
    assert said[new].endswith(b"part\r\n")  # and no last chunk
    assert said[old].endswith(b"part<reset>")
    assert any("the answer was cut" in line for line in door.logs)
    assert door.counters.functions["fn"].deaths == 2


async def test_less_than_its_content_length_is_a_cut_answer(tmp_path: Path):
    async with cgi_door(shell(tmp_path, "printf 'Content-Length: 10\\n\\nshort'")) as door:
        client = await door.connect()
        await client.send(get(b"/v1/http/fn"))
        assert (await read_to_end(client)).endswith(b"short")
        await door.quiet()
    assert any("Content-Length" in line for line in door.logs)


async def test_who_has_all_of_an_answer_does_not_wait_for_the_program(tmp_path: Path):
    script = "printf 'Content-Length: 2\\n\\nok'; sleep 30"
    async with cgi_door(shell(tmp_path, script, timeout_s=2)) as door:
        client = await door.connect()
        await client.send(get(b"/v1/http/fn") * 2)
        assert [(await client.answer()).body for _ in range(2)] == [b"ok", b"ok"]
        await until_ended(tmp_path)  # but the program has its timeout too


async def leave_quietly(client: Client) -> None:
    client.stream.socket.close()


async def leave_by_reset(client: Client) -> None:
    client.stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.stream.socket.close()


async def shut_down(client: Client) -> None:
    await client.send_eof()


@pytest.mark.parametrize("leave", [leave_quietly, leave_by_reset, shut_down])
@pytest.mark.parametrize(
    ("script", "raw", "first"),
    [
        ("sleep 100 & sleep 100; wait", get(b"/v1/http/fn"), b""),
        ("printf 'A: b\\n\\nx'; sleep 100 & sleep 100; wait", get(b"/v1/http/fn"), b"x"),
        ("printf 'A: b\\n\\nx'; cat /dev/zero", get(b"/v1/http/fn"), b"x"),
        (
            "printf 'A: b\\n\\nx'; cat",
            b"PUT /v1/http/fn HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc",
            b"abc",
        ),
    ],
)
async def test_a_client_that_leaves_takes_the_process_group_along(tmp_path, script, raw, first, leave):
    async with cgi_door(shell(tmp_path, script, timeout_s=60)) as door:
        client = await door.connect()
        await client.send(raw)
        said = b""
        while not door.pool().in_flight or first not in said:
            if first:
                said += await client.stream.receive_some()
            else:
                await trio.sleep(0.01)
        await until(lambda: bool(processes_of(tmp_path)))
        await leave(client)
        await until_ended(tmp_path)
        await door.quiet()
        assert door.counters.functions["fn"].deaths == 0
        assert await works(door)


async def works(door: CgiDoor) -> bool:
    """Nothing of the node is left in a bad way."""
    answer = await door.ask(get(b"/v1/http/none"))
    return answer.status == 404


async def test_who_leaves_while_it_waits_for_a_process_gets_none(tmp_path: Path):
    gate = tmp_path / "gate"
    script = f"while [ ! -e {gate} ]; do sleep 0.01; done; printf 'A: b\\n\\n'"
    async with cgi_door(shell(tmp_path, script, processes=Processes(0, 1))) as door:
        first = await door.connect()
        await first.send(get(b"/v1/http/fn"))
        await door.running()
        second = await door.connect()
        await second.send(get(b"/v1/http/fn"))
        await door.crowded()
        second.stream.socket.close()
        gate.touch()
        assert (await first.answer()).status == 200
        await door.quiet()
        await until(lambda: not door.pool().waiting)
        assert door.counters.functions["fn"].starts == 1


# Time.


async def test_a_silent_program_is_ended_and_the_client_told(tmp_path: Path):
    async with cgi_door(shell(tmp_path, "echo why >&2; sleep 100", timeout_s=2, grace_s=0.1)) as door:
        answer = await door.ask(get(b"/v1/http/fn"))
        said = json.loads(answer.body)
        assert (answer.status, said["code"], said["stderr"]) == (502, "function_timeout", "why")
        await until_ended(tmp_path)
        await door.quiet()
        assert door.counters.functions["fn"].timeouts == 1


async def test_a_program_that_falls_silent_after_a_part_is_cut_off(tmp_path: Path):
    script = "printf 'A: b\\n\\npart'; trap '' TERM; sleep 100; sleep 100"
    async with cgi_door(shell(tmp_path, script, timeout_s=2, grace_s=0.1)) as door:
        client = await door.connect()
        await client.send(get(b"/v1/http/fn"))
        assert (await read_to_end(client)).endswith(b"part\r\n")
        await until_ended(tmp_path)


async def test_a_program_that_goes_on_talking_has_no_limit(tmp_path: Path):
    script = "printf 'A: b\\n\\n'; for i in 1 2 3 4 5 6 7 8; do sleep 0.4; printf $i; done"
    async with cgi_door(shell(tmp_path, script, timeout_s=2)) as door:
        assert (await door.ask(get(b"/v1/http/fn"))).body == b"12345678"


async def test_a_client_that_stops_sending_is_told_and_its_program_ended(tmp_path: Path):
    async with cgi_door(shell(tmp_path, COUNT, timeout_s=0.5, grace_s=0.1)) as door:
        client = await door.connect()
        await client.send(b"PUT /v1/http/fn HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\nabc")
        answer = await client.answer()
        assert (answer.status, json.loads(answer.body)["code"]) == (408, "slow_request")
        await until_ended(tmp_path)


async def test_a_client_that_sends_a_byte_now_and_then_is_not_waited_for_for_ever(tmp_path: Path):
    async with (
        cgi_door(shell(tmp_path, COUNT, timeout_s=1, grace_s=0.1)) as door,
        trio.open_nursery() as nursery,
    ):
        client = await door.connect()
        await client.send(b"PUT /v1/http/fn HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\nx")

        async def drip() -> None:
            while True:
                await client.send(b"x")
                await trio.sleep(0.1)

        nursery.start_soon(drip)
        assert (await client.answer()).status == 408
        nursery.cancel_scope.cancel()


async def test_a_client_that_stops_reading_loses_its_program(tmp_path: Path):
    script = "printf 'A: b\\n\\n'; cat /dev/zero"
    async with cgi_door(shell(tmp_path, script, timeout_s=2, grace_s=0.1)) as door:
        client = await door.connect()
        await client.send(get(b"/v1/http/fn"))
        await until(lambda: bool(processes_of(tmp_path)))
        await until_ended(tmp_path)
        assert await works(door)


# The server's end, and new code.


async def test_a_server_that_closes_lets_an_answer_come_to_its_end(tmp_path: Path):
    gate = tmp_path / "gate"
    script = f"printf 'A: b\\n\\npart'; while [ ! -e {gate} ]; do sleep 0.01; done; printf ' end'"
    async with cgi_door(shell(tmp_path, script)) as door:
        client = await door.connect()
        await client.send(get(b"/v1/http/fn"))
        await door.running()
        door.calls.draining = True
        refused = await door.connect()
        await refused.send(get(b"/v1/http/fn"))
        assert (await refused.answer()).status == 503
        door.server.close()
        assert door.server.answering
        gate.touch()
        assert (await client.answer()).body == b"part end"


async def test_what_waits_is_served_by_new_code(tmp_path: Path):
    gate = tmp_path / "gate"
    old = shell(
        tmp_path,
        f"printf 'A: b\\n\\n'; while [ ! -e {gate} ]; do sleep 0.01; done; printf old",
        processes=Processes(0, 1),
    )
    async with cgi_door(old) as door:
        first, second = await door.connect(), await door.connect()
        await first.send(get(b"/v1/http/fn"))
        await door.running()
        await second.send(get(b"/v1/http/fn"))
        await door.crowded()
        successor = shell(tmp_path, "printf 'A: b\\n\\nnew'", "new")
        new = door.supervisor.try_out(attrs.evolve(successor, name="fn"))
        replaced = door.supervisor.replace(new)
        assert replaced is not None
        assert (await second.answer()).body == b"new"
        gate.touch()
        assert (await first.answer()).body == b"old"
        await door.supervisor.retire(replaced)
