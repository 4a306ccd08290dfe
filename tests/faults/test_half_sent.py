"""S6: a commit arrived in part when its link died without a goodbye.

Whatever the server has of it, at most the bytes up to its Sync, it waits for the rest, and once it has
executed the statement it holds the row meanwhile, without a time limit of its own. Only TCP tells it:
keepalive probes, whose pace we ask for (dialing.Settings).
"""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator

import pytest
import trio
from ledger import Entry, Ledger
from psycopg.conninfo import make_conninfo
from wire_proxy import Trick, WireProxy, wire_proxy

from fix_command import for_serve
from fix_matrix import Row
from fix_node import StartNode
from fix_outage import JOURNAL, ListeningServer, Server, ask
from fix_postgres import run_apart
from inversion.state.migrate import migrate

#: The probes find it out within 8 s, as the docs say; then the resolver has several to go through.
FREE_S = 10.0
#: From the end: before, within and after Sync (5 bytes), Execute (10) and Describe (7); then all of it.
FROM_THE_END = (22, 16, 15, 6, 5, 4, 1, 0)
HOLDING = """SELECT count(*) FROM pg_locks
              WHERE relation = 'inversion.entity'::regclass AND mode = 'RowExclusiveLock'"""


def may_close_silently() -> bool:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as one,
    ):
        try:
            one.setsockopt(socket.IPPROTO_TCP, 19, 1)
        except OSError:
            return False
        return True


@pytest.fixture
def tcp_server(listening_server: ListeningServer) -> Iterator[tuple[Server, str]]:
    """A server that listens on an address of its own, and its conninfo."""
    if not may_close_silently():
        pytest.skip("needs CAP_NET_ADMIN to end a TCP connection without a word")
    address = f"127.{random.randrange(1, 255)}.{random.randrange(256)}.{random.randrange(1, 255)}"
    with listening_server(address) as server:
        yield server, make_conninfo(server.url, host=address)


@pytest.mark.fault(
    "S6", "the link dies silently after so many bytes of a commit, at every boundary and between"
)
@pytest.mark.timeout(60 * 20)
async def test_a_commit_that_arrived_in_part_frees_its_locks_and_is_applied_once(
    tcp_server: tuple[Server, str], start_node: StartNode, row: Row
) -> None:
    server, url = tcp_server
    run_apart(migrate, server.url)
    ledger = Ledger()
    async with wire_proxy(url) as proxy, start_node(for_serve(JOURNAL), database_url=proxy.url) as node:
        with trio.fail_after(50 * row.times):
            for number in range(row.times):
                for existing in (False, True):
                    await half_sent(
                        ledger, node.started.url, proxy, f"{number}{existing}", existing, server, row
                    )
    assert set(ledger.told()) == {"ok"}, ledger.told()
    ledger.check(server.url)


async def half_sent(
    ledger: Ledger, node_url: str, proxy: WireProxy, prefix: str, existing: bool, server: Server, row: Row
) -> None:
    """One commit for each number of bytes, all of them in doubt at once."""
    lengths: list[int] = []
    entries: list[Entry] = []
    async with trio.open_nursery() as nursery:
        for place in (*range(len(FROM_THE_END)), -1, -2, -3, -4):
            key = f"{prefix}.{place}."
            if existing:
                await ledger.call_once(node_url, ledger.open_entry(key), 8)
            if not lengths:
                first_bytes = 1
            elif place < 0:
                first_bytes = -place * lengths[0] // 5
            else:
                first_bytes = lengths[0] - FROM_THE_END[place]
            spoil = proxy.spoil_next(Trick.HALVE, entity=key, first_bytes=first_bytes)
            entries.append(ledger.open_entry(key))
            nursery.start_soon(ledger.call_once, node_url, entries[-1], 8)
            with trio.fail_after(20):
                await spoil.happened.wait()
            lengths.append(spoil.statement_bytes)
        ((holding,),) = ask(server.url, HOLDING)
        row.fired(f"commits of {lengths[0]} bytes, {len(entries)} cut short, {holding} backends hold locks")
        assert int(str(holding)) >= 3, "those that had executed wait for their Sync"
    assert row.recovered() < FREE_S
