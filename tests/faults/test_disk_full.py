"""D7: the disk of the database is full, on a small tmpfs: the tables' (an ERROR), or the log's (a PANIC)."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter

import psycopg
import pytest
import trio
from ledger import Ledger
from psycopg.conninfo import make_conninfo

from fix_matrix import Row
from fix_outage import ServeNode, Server, end_and_read
from fix_postgres import new_cluster_folder

#: First success after there is space again.
PROMPT_S = 5.0


class Disk:
    """A file system of a few megabytes that can be filled to its last byte."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._ballast = path / "ballast"

    def fill(self) -> None:
        with self._ballast.open("ab", buffering=0) as ballast:
            try:
                while True:
                    ballast.write(bytes(4096))
            except OSError:
                pass
        assert self.free_bytes == 0

    def empty(self) -> None:
        self._ballast.unlink()

    @property
    def free_bytes(self) -> int:
        info = os.statvfs(self.path)
        return info.f_bavail * info.f_bsize


@pytest.fixture
def make_disk(short_folder: Path) -> Iterator[Callable[[str, int], Disk]]:
    """`make_disk(name, megabytes)`: a tmpfs; only root may mount one."""
    made: list[Path] = []

    def make(name: str, megabytes: int) -> Disk:
        path = short_folder / name
        path.mkdir()
        mount = ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m,mode=700", "none", str(path)]
        mounted = subprocess.run(mount, capture_output=True, text=True, check=False)
        if mounted.returncode != 0:
            path.rmdir()
            pytest.skip(f"a small tmpfs cannot be mounted here: {mounted.stderr.strip()}")
        made.append(path)
        return Disk(path)

    yield make
    for path in made:
        subprocess.run(["umount", "--lazy", str(path)], check=True)
        path.rmdir()


@pytest.fixture
def ours(initialized_folder: Path) -> None:
    """Skips where the server runs as another account, which could not enter the tmpfs."""
    if (initialized_folder / "postgres").is_symlink():
        pytest.skip("user namespaces are refused here: the server runs as another account")


@pytest.fixture
def tables_disk(make_disk: Callable[[str, int], Disk]) -> Disk:
    return make_disk("tables", 24)


@pytest.mark.fault("D7", "the tables' disk is full: SQLSTATE 53100")
@pytest.mark.usefixtures("ours")
async def test_a_full_disk_of_the_tables_is_answered_at_once_and_heals_by_itself(
    tables_disk: Disk, own_server: Server, serve_node: ServeNode, row: Row
) -> None:
    disk = tables_disk
    own_server.ask(f"CREATE TABLESPACE small LOCATION '{disk.path}'")
    own_server.ask("CREATE DATABASE small TABLESPACE small")
    url = make_conninfo(own_server.url, dbname="small")
    ledger = Ledger()
    with serve_node(url, "--migrate") as command, trio.fail_after(50 * row.times):
        for _ in range(row.times):
            async with ledger.load(command.url):
                await ledger.more(50)
                disk.fill()
                full_s = perf_counter()
                # What is there can still be changed now and then; what is new and large cannot.
                while not ledger.told(full_s)["database_unavailable"]:
                    entry = ledger.open_entry(f"new{len(ledger.entries)}")
                    await ledger.call_once(command.url, entry, 400_000)
                refused = [entry for entry in ledger.entries if entry.code == "database_unavailable"][-1]
                assert refused.answer is not None
                assert b"53100" in refused.answer.body
                assert refused.outcome == "not_applied"
                row.fired(f"SQLSTATE 53100, {dict(ledger.told(full_s))}")
                disk.empty()
                while entry.code != "ok":
                    entry = ledger.open_entry(f"new{len(ledger.entries)}")
                    await ledger.call_once(command.url, entry, 400_000)
                assert row.recovered() < PROMPT_S
                await ledger.success_after(perf_counter())
        said = end_and_read(command)
    assert "No space left on device" in said
    assert set(ledger.told()) == {"ok", "database_unavailable"}
    ledger.check(url)


@pytest.fixture
def server_with_log_disk(
    make_disk: Callable[[str, int], Disk], short_folder: Path, initialized_folder: Path, ours: None
) -> Iterator[tuple[Server, Disk]]:
    """A server whose pg_wal lies on a disk of its own."""
    folder = new_cluster_folder(short_folder, initialized_folder)
    disk = make_disk("wal", 64)
    wal = folder / "postgres" / "pg_wal"
    shutil.copytree(wal, disk.path / "pg_wal")
    shutil.rmtree(wal)
    wal.symlink_to(disk.path / "pg_wal")
    with (folder / "postgres" / "postgresql.auto.conf").open("a") as settings:
        settings.write("min_wal_size = 32MB\nmax_wal_size = 32MB\n")  # or it fills the disk by itself
    server = Server(folder)
    yield server, disk
    server.stop()
    shutil.rmtree(folder)


@pytest.mark.fault("D7", "the log's disk is full: PANIC, and no start until there is space")
async def test_a_full_disk_of_the_log_is_waited_out_and_heals_by_itself(
    server_with_log_disk: tuple[Server, Disk], serve_node: ServeNode, row: Row
) -> None:
    server, disk = server_with_log_disk
    ledger = Ledger()
    with serve_node(server.url, "--migrate") as command, trio.fail_after(55 * row.times):
        async with ledger.load(command.url, b"Inversion-Timeout: 700ms"):
            for _ in range(row.times):
                await ledger.more(50)
                before = server.log.count("PANIC:")
                server.ask("CHECKPOINT")
                disk.fill()
                full_s = perf_counter()
                await trio.to_thread.run_sync(use_up_log, server)
                await ledger.until(lambda n=before: server.log.count("PANIC:") > n)
                await ledger.until(lambda s=full_s: ledger.told(s)["database_unavailable"] > 20)
                row.fired(f"PANIC: No space left on device, {dict(ledger.told(full_s))}")
                disk.empty()
                await ledger.success_after(perf_counter())
                assert row.recovered() < PROMPT_S
        end_and_read(command)
    assert "No space left on device" in server.log
    assert set(ledger.told()) <= {"ok", "database_unavailable", "deadline"}
    ledger.check(server.url)


def use_up_log(server: Server) -> None:
    """Begin new segments until one cannot be made."""
    try:
        while True:
            server.ask("SELECT pg_switch_wal(), pg_logical_emit_message(true, 'x', repeat('x', 100000))")
    except psycopg.OperationalError:
        pass
