"""S8: two releases on one database, in both directions, while clients call both at the same entities.

The other release is this repository's last commit before the newest migration, its code as it stands. One
of before migrations said what they need refuses a newer schema at its start, and only there. So it is on
HEAD's schema in two ways: it serves already when HEAD migrates (that is what its user would do); and, where
it is started later, the records of the newer migrations are taken away for the moment of its start.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import signal
import subprocess
import sys
import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from zipfile import ZipFile

import attrs
import psycopg
import pytest
import trio
from front_door import Answer
from ledger import Entry, Ledger
from test_drain import ended, until_draining
from test_message_points import Latest, couriers_folder
from tests.faults.campaign.talking import Talking

from fix_command import RunningCommand, StartCommand, for_serve
from fix_matrix import Row
from fix_outage import JOURNAL
from inversion.state import sql

ROOT = Path(__file__).parents[2]
MIGRATIONS = "src/inversion/state/sql/migrations"
#: The calls that both nodes of a moment must have answered before one of them is replaced.
ENOUGH = 60


@attrs.frozen
class Release:
    """A release, and a folder with the functions for it."""

    name: str
    folder: Path
    environ: dict[str, str]
    newest: int = sql.MIGRATIONS[-1].number  #: the newest migration that it knows
    bears_newer: bool = True  #: it starts beside newer migrations that say that it may

    def run(self, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "inversion", *map(str, arguments)]
        environ = {name: value for name, value in os.environ.items() if name != "DATABASE_URL"}
        return subprocess.run(
            command, check=False, env={**environ, **self.environ}, capture_output=True, text=True, timeout=60
        )

    def new_folder(self) -> Path:
        """For one node."""
        folder = self.folder / uuid.uuid4().hex[:8]
        folder.mkdir()
        shutil.copy(self.folder / "inversion.toml", folder)
        return folder

    def migrate(self, url: str) -> None:
        ended = self.run("migrate", "--database-url", url)
        assert ended.returncode == 0, ended.stderr


def git(*arguments: str) -> bytes:
    """What git says of this repository; skips where there is none, or not the whole of it."""
    command = ["git", "-c", "safe.directory=*", "-C", str(ROOT), *arguments]
    try:
        ended = subprocess.run(command, check=False, capture_output=True, timeout=60)
    except FileNotFoundError:
        pytest.skip("needs git for a release of before")
    if ended.returncode != 0:
        pytest.skip(f"needs the history for a release of before: {ended.stderr.decode().strip()}")
    return ended.stdout


@pytest.fixture(scope="session")
def before(short_folder: Path) -> Release:
    """The last commit before the newest migration came."""
    newest = f"{MIGRATIONS}/{sql.MIGRATIONS[-1].name}.sql"
    added = git("log", "--diff-filter=A", "--format=%H", "--", newest).decode().split()
    commit = git("rev-parse", "--short", "--verify", f"{added[-1]}^" if added else "HEAD").decode().strip()
    folder = short_folder / "before"
    with ZipFile(io.BytesIO(git("archive", "--format=zip", commit, "src"))) as archive:
        archive.extractall(folder)
    known = [int(name[:4]) for name in os.listdir(folder / MIGRATIONS) if re.match(r"\d{4}_", name)]
    knows_sandbox = (folder / "src/inversion/processes/sandbox.py").exists()
    (folder / "inversion.toml").write_text(for_serve(JOURNAL) if knows_sandbox else JOURNAL)
    bears_newer = "needs" in (folder / "src/inversion/state/migrate.py").read_text()
    environ = {"PYTHONPATH": str(folder / "src")}
    return Release(commit, folder, environ, max(known), bears_newer)


@pytest.fixture
def head(journal_folder: Path) -> Release:
    return Release("HEAD", journal_folder, {"PYTHONPATH": str(ROOT / "src")})


class Fleet:
    """Two nodes, each with clients of its own that call the same entities as those of the other."""

    def __init__(self, url: str, start: StartCommand, nursery: trio.Nursery) -> None:
        self.url = url
        self.ledger = Ledger()
        self.lives: list[Life] = []
        self._start = start
        self._nursery = nursery
        self._keyed: list[tuple[Entry, Answer]] = []

    async def add(self, release: Release) -> Life:
        """A node more, that has answered something."""
        life = Life(self, release)
        await self._nursery.start(life.run, self._start)
        self.lives.append(life)
        entry = self.ledger.open_entry("hot")
        entry.answer = await life.command.call(f"journal/{entry.key}/add", entry.token)
        await self.ledger.more(ENOUGH)
        return life

    async def replace(self, release: Release, row: Row) -> None:
        """End the node that has lived longest, under load, and start one of this release in its place."""
        oldest = self.lives.pop(0)
        await oldest.end()
        row.fired(f"a node of {oldest.release.name} was ended, one of {release.name} takes its place")
        await self.add(release)
        row.recovered()
        await self.repeat_keyed_calls()

    async def repeat_keyed_calls(self) -> None:
        """What was answered under a key is replayed by a node of HEAD, whatever the others did since."""
        node = next((life.command for life in self.lives if life.release.name == "HEAD"), None)
        if node is None:
            return
        for entry, answer in self._keyed:
            again = await call_keyed(node, entry)
            assert (again.status, again.body, again.fields["etag"]) == (
                200,
                answer.body,
                answer.fields["etag"],
            )
            assert again.fields["inversion-replayed"] == "true"
        entry = self.ledger.open_entry("hot")
        entry.answer = await call_keyed(node, entry)
        assert entry.answer.status == 200
        self._keyed.append((entry, entry.answer))


async def call_keyed(node: RunningCommand, entry: Entry) -> Answer:
    return await node.call(
        f"journal/{entry.key}/add", entry.token, b"Idempotency-Key: " + entry.token.encode()
    )


class Life:
    """One node from its start to its end, and its clients."""

    def __init__(self, fleet: Fleet, release: Release) -> None:
        self.release = release
        self.command: RunningCommand
        self._fleet = fleet
        self._ending, self._ended = trio.Event(), trio.Event()

    async def run(self, start: StartCommand, task_status: trio.TaskStatus[None]) -> None:
        folder, url, ledger = self.release.new_folder(), self._fleet.url, self._fleet.ledger
        starting = start("serve", "--config", folder, "--database-url", url, **self.release.environ)
        with may_start(self.release, url):
            self.command = await trio.to_thread.run_sync(starting.__enter__)
        try:
            async with ledger.load(self.command.url, keys=("a", "b", "c"), hot=2):
                task_status.started()
                await self._ending.wait()
                self.command.process.send_signal(signal.SIGTERM)
                await until_draining(self.command)
            assert await ended(self.command, 30) == 0, "a call was not answered"
        finally:
            starting.__exit__(None, None, None)
            self._ended.set()

    async def end(self) -> None:
        self._ending.set()
        await self._ended.wait()


@contextmanager
def may_start(release: Release, url: str) -> Iterator[None]:
    """For a release that bears no newer schema: hide that it is one, until it has started."""
    if release.bears_newer:
        yield
        return
    with psycopg.connect(url, autocommit=True) as connection:
        columns = "number, name, checksum, needs"
        hidden: Sequence[tuple[object, ...]] = []
        if connection.execute("SELECT max(number) FROM inversion.migration").fetchone() != (release.newest,):
            hidden = connection.execute(
                f"DELETE FROM inversion.migration WHERE number > {release.newest} RETURNING {columns}"
            ).fetchall()
        try:
            yield
        finally:
            for entry in hidden:
                connection.execute(
                    f"INSERT INTO inversion.migration ({columns}) VALUES (%s, %s, %s, %s)", entry
                )


@asynccontextmanager
async def a_fleet(url: str, start: StartCommand, timeout_s: float = 300) -> AsyncIterator[Fleet]:
    with trio.fail_after(timeout_s):
        async with trio.open_nursery() as nursery:
            made = Fleet(url, start, nursery)
            yield made
            for life in made.lives:
                await life.end()
    told = made.ledger.told()
    assert set(told) <= {"ok", "draining"}, told
    made.ledger.check(url)


@pytest.mark.fault("S8", "HEAD migrates under two nodes of the release before, and replaces them one by one")
@pytest.mark.timeout(60 * 20)
async def test_a_rolling_upgrade_loses_and_refuses_nothing_but_what_drains(
    empty_database_url: str, start_command: StartCommand, before: Release, head: Release, row: Row
) -> None:
    await trio.to_thread.run_sync(before.migrate, empty_database_url)
    async with a_fleet(empty_database_url, start_command) as fleet:
        for _ in range(2):
            await fleet.add(before)
        await trio.to_thread.run_sync(head.migrate, empty_database_url)
        await fleet.ledger.more(ENOUGH)
        for _ in range(2):
            await fleet.replace(head, row)
        if not before.bears_newer:
            serve = (
                "serve",
                "--config",
                before.new_folder(),
                "--database-url",
                empty_database_url,
                "--port",
                "0",
            )
            refused = await trio.to_thread.run_sync(before.run, *serve)
            assert refused.returncode != 0
            assert "run a newer one" in refused.stdout + refused.stderr


@pytest.mark.fault(
    "S8", "nodes of HEAD and of the release before replace each other, both ways, on HEAD's schema"
)
@pytest.mark.timeout(60 * 20)
async def test_two_releases_take_turns_on_one_database(
    empty_database_url: str, start_command: StartCommand, before: Release, head: Release, row: Row
) -> None:
    await trio.to_thread.run_sync(head.migrate, empty_database_url)
    async with a_fleet(empty_database_url, start_command, 300 * row.times) as fleet:
        for _ in range(2):
            await fleet.add(head)
        for _ in range(row.times):
            for release in (before, head, before, before, head, head):
                await fleet.replace(release, row)


@pytest.mark.fault(
    "S8", "entities talk by messages over nodes of HEAD and of the release before, replaced by turns"
)
@pytest.mark.timeout(60 * 20)
async def test_two_releases_bring_each_others_messages(
    empty_database_url: str,
    start_command: StartCommand,
    before: Release,
    head: Release,
    short_folder: Path,
    row: Row,
) -> None:
    await trio.to_thread.run_sync(head.migrate, empty_database_url)
    doors, stop = [Latest(up=False), Latest(up=False)], trio.Event()
    talking = Talking(doors, empty_database_url, "mixed", hops=100, crowd=12, look_s=0.3, sends_only=True)
    lives: list[ExitStack] = [ExitStack(), ExitStack()]

    async def replace(number: int, release: Release) -> None:
        """Drains what is there; what it has not begun it gives back."""
        door, life = doors[number], lives[number]
        door.up = False
        await trio.to_thread.run_sync(life.close)
        starting = start_command(
            "serve", "--config", couriers_folder(short_folder), "--database-url", empty_database_url,
            **release.environ,
        )  # fmt: skip
        with may_start(release, empty_database_url):
            command = await trio.to_thread.run_sync(life.enter_context, starting)
        door.url, door.up = command.url, True

    async def until_more_has_ended() -> None:
        payments, snapshots = (talking.counts[name] for name in ("payments", "snapshots"))
        while talking.counts["payments"] < payments + 10 or talking.counts["snapshots"] == snapshots:  # noqa: ASYNC110 (asks other tasks)
            await trio.sleep(0.02)

    with trio.fail_after(300 * row.times), ExitStack() as every_life:
        for life in lives:
            every_life.callback(life.close)
        await replace(0, head)
        await replace(1, before)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(talking.run, stop)
            for _ in range(row.times):
                for number, release in ((0, before), (1, head)):
                    await until_more_has_ended()
                    await replace(number, release)
                    row.fired(f"a node ended, one of {release.name} takes its place")
                    await until_more_has_ended()
                    row.recovered()
                    assert talking.wrong == []
            stop.set()
        await talking.drain()
    assert talking.wrong == []
