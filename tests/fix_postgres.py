"""Real PostgreSQL for tests: one embedded cluster per session, a fresh database per test.

`database_url` is migrated (cloned from a template), `empty_database_url` is not. `postgres_server` is a
cluster of the test's own, to be killed. INVERSION_TEST_DATABASE_URL names a server to use instead of the
session's (its role must be allowed to create databases); INVERSION_PG_BIN chooses the embedded binaries.
"""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import threading
import uuid
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

import psycopg
import pytest
import trio
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.sql import SQL, Identifier

from inversion.embedded import EmbeddedPostgres

T = TypeVar("T")
START_TIMEOUT_S = 60.0  #: initdb on a busy machine


class Cluster:
    """An embedded PostgreSQL that runs under a trio of its own, in a thread that lives as long as it does."""

    def __init__(self, folder: Path) -> None:
        self.sentences: list[str] = []  #: what it said to the log
        self.embedded = EmbeddedPostgres(folder, log=self.sentences.append)
        self.conninfo = ""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._said: SimpleQueue[str | BaseException] = SimpleQueue()
        self._cancel: Callable[[], object] = lambda: None

    @property
    def data(self) -> Path:
        assert self.embedded.place is not None
        return self.embedded.place.data

    @property
    def pid(self) -> int:
        """The postmaster's."""
        assert self.embedded.pid is not None, "it does not run just now"
        return self.embedded.pid

    def start(self) -> Cluster:
        self._thread.start()
        said = self._said.get(timeout=START_TIMEOUT_S)
        if isinstance(said, BaseException):
            raise said
        self.conninfo = said
        return self

    def stop(self) -> None:
        self._cancel()
        self._thread.join(START_TIMEOUT_S)

    def kill(self) -> None:
        """kill -9 of the postmaster; it is started again by itself."""
        os.kill(self.pid, signal.SIGKILL)

    def _run(self) -> None:
        try:
            trio.run(self._serve)
        except BaseException as error:
            self._said.put(error)

    async def _serve(self) -> None:
        token = trio.lowlevel.current_trio_token()
        async with trio.open_nursery() as nursery:
            self._cancel = lambda: token.run_sync_soon(nursery.cancel_scope.cancel)
            self._said.put(await nursery.start(self.embedded.run))


def run_apart(function: Callable[..., Awaitable[T]], *args: object) -> T:
    """Run an async function to its end under a trio of its own, also from within another one."""
    said: SimpleQueue[T | BaseException] = SimpleQueue()

    def run() -> None:
        try:
            said.put(trio.run(function, *args))
        except BaseException as error:
            said.put(error)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    result = said.get(timeout=START_TIMEOUT_S)
    thread.join(START_TIMEOUT_S)
    if isinstance(result, BaseException):
        raise result
    return result


def make_database(server_url: str, *, template: str = "template0") -> str:
    """A new database's conninfo."""
    name = f"inversion_test_{uuid.uuid4().hex}"
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(
            SQL("CREATE DATABASE {} TEMPLATE {}").format(Identifier(name), Identifier(template))
        )
    return make_conninfo(server_url, dbname=name)


def drop_database(server_url: str, url: str) -> None:
    """Drop it, whoever is still connected."""
    name = conninfo_to_dict(url)["dbname"]
    with psycopg.connect(server_url, autocommit=True) as connection:
        connection.execute(SQL("DROP DATABASE {} WITH (FORCE)").format(Identifier(str(name))))


@pytest.fixture(scope="session")
def short_folder() -> Iterator[Path]:
    """A folder of this session with a path short enough for unix sockets, removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="inversion-test-"))
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def initialized_folder(short_folder: Path) -> Path:
    """An `.inversion` folder after its first start, stopped in order: copies of it spare the initdb."""
    folder = short_folder / "initialized"
    cluster = Cluster(folder).start()
    cluster.stop()
    return folder


def new_cluster_folder(short_folder: Path, initialized_folder: Path) -> Path:
    """A copy of the initialized one; an empty one where the data lies elsewhere (user namespaces refused)."""
    folder = short_folder / uuid.uuid4().hex[:8]
    if not (initialized_folder / "postgres").is_symlink():
        shutil.copytree(initialized_folder, folder)
    return folder


@pytest.fixture(scope="session")
def server_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """The session's server, as one who may create databases."""
    if given := os.environ.get("INVERSION_TEST_DATABASE_URL"):
        yield given
        return
    folder = new_cluster_folder(
        request.getfixturevalue("short_folder"), request.getfixturevalue("initialized_folder")
    )
    cluster = Cluster(folder).start()
    yield cluster.conninfo
    cluster.stop()


@pytest.fixture(scope="session")
def migrated_template(server_url: str) -> Iterator[str]:
    """The name of a migrated database nobody is connected to."""
    from inversion.state.migrate import migrate

    url = make_database(server_url)
    run_apart(migrate, url)
    yield str(conninfo_to_dict(url)["dbname"])
    drop_database(server_url, url)


@pytest.fixture
def empty_database_url(server_url: str) -> Iterator[str]:
    """A fresh database without our schema."""
    url = make_database(server_url)
    yield url
    drop_database(server_url, url)


@pytest.fixture
def database_url(server_url: str, migrated_template: str) -> Iterator[str]:
    """A fresh database with our schema."""
    url = make_database(server_url, template=migrated_template)
    yield url
    drop_database(server_url, url)


@pytest.fixture
def postgres_server(short_folder: Path, initialized_folder: Path) -> Iterator[Cluster]:
    """A cluster of this test's own: pid, data, conninfo, kill()."""
    folder = new_cluster_folder(short_folder, initialized_folder)
    cluster = Cluster(folder).start()
    yield cluster
    cluster.stop()
    shutil.rmtree(folder)
