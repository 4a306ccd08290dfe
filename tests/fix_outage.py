"""A PostgreSQL that a test stops, kills and starts again, and a node of its own process that uses it.

`own_server` is the server, `serve_node(url)` starts the node; its function `journal` (faults/journal.py)
keeps the token of every call, for the ledger.
"""

from __future__ import annotations

import os
import shutil
import signal
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import psycopg
import pytest
import trio
from psycopg.conninfo import make_conninfo

from fix_command import RunningCommand, StartCommand, for_serve
from fix_node import PYTHON, RUNTIMES
from fix_postgres import START_TIMEOUT_S, Cluster, new_cluster_folder
from inversion.embedded import server as embedded_server

JOURNAL_PROGRAM = Path(__file__).parent / "faults" / "journal.py"
JOURNAL = "".join(
    f"""
[functions.{name}]
command = ["{PYTHON}", "{JOURNAL_PROGRAM}"]
env = {{ PYTHONPATH = "{RUNTIMES}/python" }}
"""
    for name in ("journal", "slow")
)

#: The node's connections in pg_stat_activity.
NODE = "application_name = 'inversion'"

ServeNode = Callable[..., AbstractContextManager[RunningCommand]]


class Server:
    """A cluster in a folder of its own. `down` and `up` as often as one likes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.cluster = Cluster(folder)
        self.cluster.start()
        self.runs = True

    @property
    def url(self) -> str:
        return self.cluster.conninfo

    @property
    def log(self) -> str:
        assert self.cluster.embedded.place is not None
        return self.cluster.embedded.place.log.read_text(errors="replace")

    async def down(self, how: signal.Signals) -> int:
        """End the postmaster this way and leave it ended; its pid."""
        pid = self.cluster.pid
        os.kill(pid, how)
        await trio.to_thread.run_sync(self.stop)
        assert not alive(pid)
        return pid

    async def up(self) -> float:
        """Start it again; when it accepted connections."""
        self.cluster = Cluster(self.folder)
        await trio.to_thread.run_sync(self.cluster.start)
        self.runs = True
        return time.perf_counter()

    async def end_once(self, how: signal.Signals) -> float:
        """End the postmaster, let it be started again by its supervisor; when it accepted connections."""
        before = self.cluster.pid
        os.kill(before, how)
        with trio.fail_after(START_TIMEOUT_S):
            while self.cluster.embedded.pid in (None, before):  # noqa: ASYNC110 (another thread's)
                await trio.sleep(0.005)
        return time.perf_counter()

    def stop(self) -> None:
        if self.runs:
            self.runs = False
            self.cluster.stop()

    def ask(self, text: str, **connection: str) -> list[tuple[object, ...]]:
        return ask(make_conninfo(self.url, application_name="test", **connection), text)

    def backends(self) -> Sequence[int]:
        """The pids of the node's connections."""
        return [int(str(pid)) for (pid,) in self.ask(f"SELECT pid FROM pg_stat_activity WHERE {NODE}")]


def ask(url: str, text: str) -> list[tuple[object, ...]]:
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(text)  # type: ignore[call-overload]
        return cursor.fetchall() if cursor.description else []


def alive(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")


def stopped(pid: int) -> bool:
    """Whether a process has been stopped by a signal."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


def memory_bytes(pid: int) -> int:
    """What a process holds."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@pytest.fixture
def own_server(short_folder: Path, initialized_folder: Path) -> Iterator[Server]:
    server = Server(new_cluster_folder(short_folder, initialized_folder))
    yield server
    server.stop()
    shutil.rmtree(server.folder)


ListeningServer = Callable[[str], AbstractContextManager[Server]]


@pytest.fixture
def listening_server(
    short_folder: Path, initialized_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> ListeningServer:
    """`listening_server(address)`: a server that listens there too, to everybody."""

    @contextmanager
    def start(address: str) -> Iterator[Server]:
        settings = [each for each in embedded_server.SETTINGS if not each.startswith("listen_addresses")]
        monkeypatch.setattr(embedded_server, "SETTINGS", (*settings, f"listen_addresses={address}"))
        server = Server(new_cluster_folder(short_folder, initialized_folder))
        hba = server.cluster.data / "pg_hba.conf"
        hba.write_text(hba.read_text() + "\nhost all all 0.0.0.0/0 trust\n")
        server.ask("SELECT pg_reload_conf()")
        yield server
        server.stop()
        shutil.rmtree(server.folder)

    return start


@pytest.fixture
def journal_folder(short_folder: Path) -> Path:
    """A folder with the functions `journal` and, for calls that take their time, `slow`."""
    made = short_folder / uuid.uuid4().hex[:8]
    made.mkdir()
    (made / "inversion.toml").write_text(for_serve(JOURNAL))
    return made


@pytest.fixture
def serve_node(journal_folder: Path, start_command: StartCommand) -> ServeNode:
    """`serve_node(url, *flags)`: a node of its own process over that database."""

    def start(url: str, *flags: str) -> AbstractContextManager[RunningCommand]:
        return start_command("serve", "--config", journal_folder, "--database-url", url, *flags)

    return start


def end_and_read(command: RunningCommand) -> str:
    """End the node in order; what it logged since its start line."""
    command.process.terminate()
    assert command.process.stdout is not None
    said = command.process.stdout.read().decode()
    assert command.process.wait(30) == 0
    return said
