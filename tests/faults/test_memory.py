"""Row C7: a node of its own under bombs of requests and of answers: its memory has a bound."""

from __future__ import annotations

import re
import socket
import uuid
from pathlib import Path

import pytest
import trio
from front_door import Client, get, post

from fix_command import RunningCommand, StartCommand, for_serve
from fix_matrix import Row
from fix_node import PYTHON, RUNTIMES

LARGE = 4 << 20
ROOM = 32 << 20
CLIENTS = 60  #: 240 MiB
#: Of each byte that a client may make the node hold: read in pieces and joined, checked as JSON, put into a
#: frame; and what the allocator keeps.
COPIES = 4

FUNCTIONS = f"""
[functions.patient]
command = ["{PYTHON}", "{Path(__file__).parent.parent}/functions/patient.py"]
processes = {{ min = 1, max = 1 }}

[functions.much]
command = ["head", "-c", "{LARGE}", "/dev/zero"]
mode = "exec"
state = false

[functions.counter]
command = ["{PYTHON}", "{RUNTIMES}/python/counter.py"]

[limits]
body = "{LARGE >> 20}MiB"
response = "{LARGE >> 20}MiB"
in_flight = "{ROOM >> 20}MiB"
"""


@pytest.fixture
def folder(short_folder: Path) -> Path:
    made = short_folder / uuid.uuid4().hex[:8]
    made.mkdir()
    (made / "inversion.toml").write_text(for_serve(FUNCTIONS))
    return made


def most_rss_bytes(pid: int) -> int:
    """The highest it has been."""
    found = re.search(r"(?m)^VmHWM:\s+(\d+) kB$", Path(f"/proc/{pid}/status").read_text())
    assert found is not None
    return int(found[1]) << 10


async def metric(command: RunningCommand, name: str) -> int:
    found = re.search(
        rf"(?m)^inversion_{re.escape(name)} (\S+)$", (await command.admin("/metrics")).body.decode()
    )
    assert found is not None, name
    return int(float(found[1]))


@pytest.mark.fault("C7", f"{CLIENTS} bodies of {LARGE >> 20} MiB at once where {ROOM >> 20} MiB may be held")
async def test_a_bomb_of_requests_costs_a_bounded_amount_of_memory(
    folder: Path, database_url: str, start_command: StartCommand, row: Row
) -> None:
    with (
        start_command("serve", "--config", folder, "--database-url", database_url) as command,
        trio.fail_after(55),
    ):
        pid = command.process.pid
        for turn in range(row.times):
            assert (await command.call("counter/k/add", 1)).status == 200
            gate = folder / f"go{turn}"
            body = b'"%b:%b"' % (bytes(gate), b"x" * (LARGE - 200))
            statuses: list[int] = []

            async def bombard(number: int, statuses: list[int] = statuses, body: bytes = body) -> None:
                client = await command.connect(command.url)
                async with trio.open_nursery() as sending:
                    sending.start_soon(client.send, post(b"/v1/call/patient/k%d" % number, body))
                    answer = await client.answer()
                statuses.append(answer.status)
                assert answer.status == 200 or answer.fields["retry-after"] == "1"
                await client.aclose()

            before = most_rss_bytes(pid)
            async with trio.open_nursery() as nursery:
                for number in range(CLIENTS):
                    nursery.start_soon(bombard, number)
                with trio.fail_after(40):
                    while len(statuses) < CLIENTS - ROOM // LARGE:  # noqa: ASYNC110 (it grows)
                        await trio.sleep(0.01)
                held = await metric(command, "held_request_bytes")
                assert 0 < held <= ROOM
                row.fired(f"{statuses.count(429)} of {CLIENTS} refused, {held >> 20} MiB held")
                assert (await command.call("counter/k/add", 1)).status == 200
                gate.touch()
            grown = most_rss_bytes(pid) - before
            row.recovered()
            row.evidence += f", {grown >> 20} MiB of memory at most"
            assert statuses.count(429) + statuses.count(200) == CLIENTS
            assert grown < COPIES * ROOM, f"{grown >> 20} MiB"
            assert await metric(command, "held_request_bytes") == 0


@pytest.mark.fault("C7", f"{CLIENTS} answers of {LARGE >> 20} MiB that nobody takes")
async def test_a_bomb_of_answers_costs_a_bounded_amount_of_memory(
    folder: Path, database_url: str, start_command: StartCommand, row: Row
) -> None:
    with (
        start_command("serve", "--config", folder, "--database-url", database_url) as command,
        trio.fail_after(55),
    ):
        pid = command.process.pid
        before = most_rss_bytes(pid)
        clients: list[Client] = []
        for _ in range(CLIENTS):
            client = await command.connect(command.url)
            clients.append(client)
            client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 10)
            await client.send(post(b"/v1/call/much/call") * 2 + get(b"/errors/bad_json"))
        with trio.fail_after(40):
            while await metric(command, "http_answers_dropped_total") == 0:  # noqa: ASYNC110 (asked by HTTP)
                await trio.sleep(0.02)
            while await metric(command, "live_requests"):  # noqa: ASYNC110 (asked by HTTP)
                await trio.sleep(0.02)
        dropped = await metric(command, "http_answers_dropped_total")
        held = await metric(command, "held_answer_bytes")
        row.fired(f"{dropped} dropped, {held >> 20} MiB held")
        assert held <= ROOM
        grown = most_rss_bytes(pid) - before
        row.evidence += f", {grown >> 20} MiB of memory at most"
        assert grown < COPIES * ROOM, f"{grown >> 20} MiB"
        assert (await command.call("counter/k/add", 1)).status == 200
        for client in clients:
            await client.aclose()
        with trio.fail_after(20):
            while await metric(command, "held_answer_bytes"):  # noqa: ASYNC110 (asked by HTTP)
                await trio.sleep(0.02)
        row.recovered()
