"""D9: the primary dies, its synchronous standby takes over; a node with both hosts in its URL follows.

With a synchronous standby nothing acknowledged is lost. With an asynchronous one what was committed just
before the end may be (docs/state.md); that the old turn ids are gone with it is what protects the caches.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest
import trio
from ledger import Ledger
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from fix_matrix import Row
from fix_outage import ServeNode, Server, ask
from inversion.embedded.binaries import find_binaries
from inversion.embedded.place import Place, settle

#: From the promotion to the first success, the node's back-off included.
PROMPT_S = 5.0
START_TIMEOUT_S = 60.0


class Standby:
    """A streaming copy of a server, in a folder of its own."""

    def __init__(self, place: Place, primary: Server) -> None:
        self.place = place
        given = conninfo_to_dict(primary.url)
        self.url = make_conninfo(primary.url, host=str(place.sockets))
        source = ["-h", str(given["host"]), "-p", str(given["port"]), "-U", str(given["user"])]
        base = place.spawn(
            "pg_basebackup", [*source, "-D", str(place.data), "-R", "-X", "stream", "-c", "fast"], "KILL"
        )
        assert base.wait(START_TIMEOUT_S) == 0, place.log.read_text()
        arguments = ["-D", str(place.data), "-c", f"unix_socket_directories={place.sockets}"]
        arguments += ["-c", "listen_addresses=", "-c", f"cluster_name={place.token}"]
        self.process = place.spawn("postgres", arguments, "QUIT")
        self.wait_for(lambda: ask(self.url, "SELECT pg_is_in_recovery()") == [(True,)])

    def wait_for(self, condition) -> None:  # type: ignore[no-untyped-def]
        end_s = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                if condition():
                    return
            except psycopg.OperationalError:
                pass  # it is starting
            assert time.monotonic() < end_s, self.place.log.read_text()
            time.sleep(0.05)

    def promote(self) -> float:
        """Make it the primary; when it took commits."""
        ask(self.url, "SELECT pg_promote(true, 30)")
        ask(self.url, "ALTER SYSTEM SET synchronous_standby_names = ''")
        ask(self.url, "SELECT pg_reload_conf()")
        self.wait_for(lambda: ask(self.url, "SHOW synchronous_standby_names") == [("",)])
        return time.perf_counter()

    def stop(self) -> None:
        self.process.send_signal(signal.SIGQUIT)
        self.process.wait(START_TIMEOUT_S)


@pytest.fixture
def standby(own_server: Server, short_folder: Path) -> Iterator[Standby]:
    folder = short_folder / f"standby-{time.monotonic_ns()}"
    folder.mkdir(mode=0o700)
    made = Standby(settle(folder, find_binaries(os.environ), log=lambda said: None), own_server)
    ask(own_server.url, "ALTER SYSTEM SET synchronous_standby_names = '*'")
    ask(own_server.url, "SELECT pg_reload_conf()")
    made.wait_for(lambda: ask(own_server.url, "SELECT sync_state FROM pg_stat_replication") == [("sync",)])
    yield made
    made.stop()
    shutil.rmtree(folder)


@pytest.mark.fault("D9", "kill -9 of the primary for good, its synchronous standby promoted")
async def test_nothing_acknowledged_is_lost_when_a_synchronous_standby_takes_over(
    own_server: Server, standby: Standby, serve_node: ServeNode, row: Row
) -> None:
    hosts = [str(conninfo_to_dict(url)["host"]) for url in (own_server.url, standby.url)]
    url = make_conninfo(own_server.url, host=",".join(hosts), target_session_attrs="read-write")
    ledger = Ledger()
    with serve_node(url, "--migrate") as command, trio.fail_after(90):
        async with ledger.load(command.url, b"Inversion-Timeout: 5s"):
            await ledger.more(300)
            pid = await own_server.down(signal.SIGKILL)
            row.fired(f"postmaster {pid} is gone for good")
            up_s = await trio.to_thread.run_sync(standby.promote)
            took_s = await ledger.success_after(up_s)
            row.recovered()
            assert took_s < PROMPT_S
            await ledger.more(300)
    told = ledger.told()
    assert set(told) <= {"ok", "deadline", "database_unavailable"}, told
    ledger.check(standby.url)
