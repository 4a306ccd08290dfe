"""The server's own PostgreSQL, seen from outside through its unix socket and its own psql."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import attrs
import click

from bench import machine
from bench.server import Server

#: What `inversion dev` makes its cluster with.
_USER = "inversion"
_DATABASE = "postgres"

#: Read for the report; the first two decide whether there are ratios.
SETTINGS = (
    "fsync",
    "synchronous_commit",
    "full_page_writes",
    "wal_sync_method",
    "shared_buffers",
    "max_connections",
    "server_version",
)


@attrs.frozen
class Cluster:
    """Where to reach it and what it is."""

    binaries: Path
    socket_folder: Path
    port: int
    data_folder: Path
    database: str = _DATABASE

    @property
    def arguments(self) -> list[str]:
        """How every client program of PostgreSQL is told where."""
        return ["-h", str(self.socket_folder), "-p", str(self.port), "-U", _USER]

    def program(self, name: str) -> str:
        """One beside the running server, else the PATH's."""
        beside = self.binaries / name
        found = str(beside) if beside.exists() else shutil.which(name)
        if found is None:
            raise click.ClickException(f"no {name} in {self.binaries} nor on the PATH")
        return found

    def query(self, sql: str) -> list[list[str]]:
        """Rows of text. Raises ClickException with psql's words."""
        command = [self.program("psql"), "-X", "-q", "-A", "-t", "-F", "\t", "-v", "ON_ERROR_STOP=1"]
        command += [*self.arguments, "-d", self.database, "-c", sql]
        ended = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
        if ended.returncode != 0:
            raise click.ClickException(f"psql: {ended.stderr.strip()}")
        return [line.split("\t") for line in ended.stdout.splitlines()]

    def settings(self) -> dict[str, str]:
        names = ", ".join(f"current_setting('{name}')" for name in SETTINGS)
        return dict(zip(SETTINGS, self.query(f"SELECT {names}")[0], strict=True))


def find(server: Server) -> Cluster:
    """The cluster of a running server: its postmaster's folder, socket and binaries."""
    pid = _postmaster(server)
    data_folder = Path(os.readlink(f"/proc/{pid}/cwd"))
    lines = (data_folder / "postmaster.pid").read_text().splitlines()
    binaries = Path(os.readlink(f"/proc/{pid}/exe")).parent
    return Cluster(binaries, Path(lines[4]), int(lines[3]), data_folder)


def _postmaster(server: Server) -> int:
    """The one postgres whose parent is none."""
    everything = machine.tree(server.pid)
    postgres = {pid: one for pid, one in everything.items() if one.name == "postgres"}
    for pid, one in postgres.items():
        if one.parent not in postgres:
            return pid
    raise click.ClickException("the server runs no PostgreSQL of its own")
