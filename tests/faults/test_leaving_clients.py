"""Row C1: clients that leave while their call runs. What was begun goes on to its commit, once and whole."""

from __future__ import annotations

import random
import re
import socket
import struct

import orjson
import pytest
import trio
from front_door import Client, post
from ledger import Ledger, connect

from fix_matrix import Row
from fix_node import LiveNode, StartNode
from fix_outage import JOURNAL


async def metric(node: LiveNode, name: str) -> int:
    answer = await node.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", admin=True)
    found = re.search(rf"(?m)^inversion_{re.escape(name)} (\S+)$", answer.body.decode())
    assert found is not None, name
    return int(float(found[1]))


async def until_none_lives(node: LiveNode) -> None:
    with trio.fail_after(30):
        while await metric(node, "live_requests"):  # noqa: ASYNC110 (asked by HTTP)
            await trio.sleep(0.01)


async def reset(client: Client) -> None:
    """The rudest way to go."""
    client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    await client.aclose()


@pytest.mark.fault(
    "C1", "200 clients that are reset up to 20 ms after they sent a call, beside others that stay"
)
async def test_a_call_whose_client_left_is_applied_once_or_not_at_all(
    start_node: StartNode, database_url: str, row: Row
) -> None:
    chance = random.Random(7)
    async with start_node(JOURNAL) as node:
        ledger = Ledger()
        for _ in range(row.times):
            gone = await metric(node, "http_clients_gone_total")

            async def call_and_leave(key: str, after_s: float, url: str = node.started.url) -> None:
                entry = ledger.open_entry(key)
                entry.torn = "left"
                client = await connect(url)
                await client.send(
                    post(f"/v1/call/journal/{key}/add".encode(), b'"%b"' % entry.token.encode())
                )
                await trio.sleep(after_s)
                await reset(client)

            async with ledger.load(node.started.url):
                await ledger.more(20)
                for _ in range(10):
                    async with trio.open_nursery() as nursery:
                        for number in range(20):
                            nursery.start_soon(call_and_leave, f"k{number % 8}", chance.uniform(0, 0.02))
                gone = await metric(node, "http_clients_gone_total") - gone
                row.fired(f"{gone} of 200 were gone before their answer, or before their request was read")
                assert gone > 20
                await ledger.more(20)  # those who stayed are served as before
            await until_none_lives(node)
            row.recovered()
            ledger.check(database_url)
            applied = 0
            for entry in ledger.entries:
                if entry.torn == "left":
                    tokens = orjson.loads((await node.state(f"journal/{entry.key}")).body)["tokens"]
                    applied += entry.token in tokens
            assert applied > 20, "nearly all had been read when their clients left"


@pytest.mark.fault("C1", "20 clients that are reset while a function works for each of them")
async def test_every_call_that_was_begun_goes_on_to_its_commit(start_node: StartNode, row: Row) -> None:
    async with start_node(JOURNAL) as node:

        async def answered() -> int:
            return await metric(node, 'calls_total{function="slow",outcome="applied"}')

        for turn in range(row.times):
            clients = []
            for number in range(20):
                clients.append(client := await connect(node.started.url))
                body = orjson.dumps({"token": f"t{turn}-{number}", "s": 0.1})
                await client.send(post(f"/v1/call/slow/k{number}/add_slowly".encode(), body))
            with trio.fail_after(30):  # all have been read; on a slow machine the first are done by now
                while await metric(node, "live_requests") + await answered() < 20 * (turn + 1):  # noqa: ASYNC110 (asked)
                    await trio.sleep(0.01)
            for client in clients:
                await reset(client)
            left = await metric(node, "live_requests")
            assert left > 0
            row.fired(f"20 resets while {left} calls ran")
            await until_none_lives(node)
            row.recovered()
            for number in range(20):
                tokens = orjson.loads((await node.state(f"slow/k{number}")).body)["tokens"]
                assert tokens[turn:] == [f"t{turn}-{number}"]


@pytest.mark.fault("C1", "clients that are reset, or end their side, at every byte of a request")
async def test_a_request_that_did_not_come_whole_is_never_applied(start_node: StartNode, row: Row) -> None:
    async with start_node(JOURNAL) as node:
        whole = post(b"/v1/call/journal/k/add", b'"token"')
        for cut in range(len(whole)):
            client = await connect(node.started.url)
            await client.send(whole[:cut])
            if cut % 2:
                await reset(client)
            else:
                await client.send_eof()
                for answer in await client.answers_to_the_end():
                    assert answer.status == 400
                await client.aclose()
        row.fired(f"{len(whole)} requests broken off")
        with trio.fail_after(20):
            while await metric(node, "connections_open") > 1:  # noqa: ASYNC110 (asked by HTTP)
                await trio.sleep(0.01)
        assert (await node.state("journal/k")).status == 404
        assert (await node.call("journal/k/add", "token")).status == 200
        row.recovered()
