"""PgBouncer in transaction mode between two nodes and PostgreSQL: what it mixes up, nobody notices.

It refuses startup options, gives each transaction another server connection, and before 1.21 knows nothing
of prepared statements: a name may be another client's there (storage.md, Connections).
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import trio
from ledger import Ledger
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from fix_command import StartCommand, for_serve
from fix_matrix import Row
from fix_outage import JOURNAL, Server, ask

pytestmark = pytest.mark.toolchain("pgbouncer", "socat")

INI = """
[databases]
* = {server}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = transaction
default_pool_size = {pool_size}
logfile = {folder}/pgbouncer.log
pidfile = {folder}/pgbouncer.pid
"""
#: Fewer server connections than the two nodes have together: they share them.
POOL_SIZE = 3
#: PgBouncer will not run as root.
NOBODY = "nobody"


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture
def pooled_url(own_server: Server, tmp_path: Path) -> Iterator[str]:
    """The conninfo of `own_server` by way of a PgBouncer."""
    server = conninfo_to_dict(own_server.url)
    folder = Path("/tmp") / f"pooler-{os.getpid()}-{time.monotonic_ns()}"
    folder.mkdir(mode=0o755)
    port = free_port()
    # Its user may not enter the folder of the server's socket: a relay in ours leads there.
    relay = subprocess.Popen(
        ["socat", f"TCP-LISTEN:{(inner := free_port())},fork,reuseaddr,bind=127.0.0.1",
         f"UNIX-CONNECT:{server['host']}/.s.PGSQL.{server['port']}"]
    )  # fmt: skip
    to = f"host=127.0.0.1 port={inner} user={server['user']}"
    (folder / "pgbouncer.ini").write_text(
        INI.format(server=to, port=port, pool_size=POOL_SIZE, folder=folder)
    )
    command = ["pgbouncer", str(folder / "pgbouncer.ini")]
    if os.getuid() == 0:
        shutil.chown(folder, NOBODY)
        command[1:1] = ["-u", NOBODY]
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    url = make_conninfo(
        host="127.0.0.1", port=str(port), user=str(server["user"]), dbname=str(server["dbname"])
    )
    try:
        deadline_s = time.monotonic() + 20
        while True:
            try:
                ask(url, "SELECT 1")
                break
            except Exception:
                if time.monotonic() > deadline_s or process.poll() is not None:
                    pytest.fail(f"no pooler: {(folder / 'pgbouncer.log').read_text()}")
        yield url
    finally:
        for one in (process, relay):
            one.kill()
            one.wait()
        shutil.rmtree(folder)


@pytest.mark.fault("D4", "two nodes by way of PgBouncer, its server connections terminated")
async def test_two_nodes_behind_a_transaction_pooler_keep_every_promise(
    own_server: Server, pooled_url: str, start_command: StartCommand, short_folder: Path, row: Row
) -> None:
    ledger = Ledger()
    folders = [short_folder / f"pooled-{n}-{time.monotonic_ns()}" for n in range(2)]
    for folder in folders:
        folder.mkdir()
        (folder / "inversion.toml").write_text(for_serve(JOURNAL))
    serve = ("serve", "--database-url", pooled_url, "--config")
    with start_command(*serve, folders[0], "--migrate") as one, start_command(*serve, folders[1]) as two:
        with trio.fail_after(60 * row.times):
            async with ledger.load(one.url), ledger.load(two.url):
                for _ in range(row.times):
                    await ledger.more(300)
                    servers = ask(
                        own_server.url,
                        "SELECT pid FROM pg_stat_activity WHERE query LIKE '%inversion.entity%'"
                        " AND pid <> pg_backend_pid()",
                    )
                    assert 0 < len(servers) <= POOL_SIZE, "the nodes share the pooler's connections"
                    for (pid,) in servers:
                        os.kill(int(str(pid)), signal.SIGTERM)
                    row.fired(f"{len(servers)} connections of the pooler ended by 57P01")
                    await ledger.success_after(time.perf_counter())
                    row.recovered()
                    await ledger.more(300)
    told = ledger.told()
    assert set(told) <= {"ok", "deadline", "contended", "database_unavailable"}, told
    assert told["ok"] > 600
    ledger.check(own_server.url)
