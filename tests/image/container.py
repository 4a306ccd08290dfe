"""A container as an engine would start it, made of bubblewrap, setpriv and nsenter.

Namespaces of its own for processes, network, mounts, names and IPC; the image's root, read-only and with
nothing writable on it; the image's user, environment, folder and entry point; no capability and no new
privileges; its command is PID 1.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import attrs
import orjson
import trio
from build_image import Image
from psycopg.conninfo import conninfo_to_dict, make_conninfo

#: A folder that every Debian has and that is empty.
DATABASE_FOLDER = "/mnt"
ZOMBIE = "(ended, and not reaped)"
NONE: Mapping[str, Path] = {}
SOCKET_NAME = ".s.PGSQL.5432"


@attrs.define
class Container:
    """One that runs: `exec` is `docker exec`, `stop` is `docker kill -s`."""

    image: Image
    process: trio.Process  #: bwrap's, which ends as PID 1 does
    pid: int  #: of PID 1, as seen from outside
    output: bytearray = attrs.Factory(bytearray)

    async def exec(self, *command: str) -> subprocess.CompletedProcess[bytes]:
        entered = ["nsenter", f"--target={self.pid}", "--mount", "--pid", "--net", "--ipc", "--uts", "--"]
        env = [f"{name}={value}" for name, value in self.image.env.items()]
        inside = [*as_user(self.image), "env", "-i", f"--chdir={folder_of(self.image)}", *env, *command]
        return await trio.run_process(
            [*entered, *inside], capture_stdout=True, capture_stderr=True, check=False
        )

    async def call(self, path: str, body: str = "") -> str:
        """POST to the ingress, from within."""
        done = await self.exec("python3", "-c", CALL, path, body)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout.decode()

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        os.kill(self.pid, number)

    def processes(self) -> dict[int, str]:
        """Those of its PID namespace, by pid seen from outside: their command lines."""
        found = {}
        ours = os.readlink(f"/proc/{self.pid}/ns/pid")
        for entry in Path("/proc").iterdir():
            try:
                if entry.name.isdigit() and os.readlink(entry / "ns/pid") == ours:
                    line = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode().strip()
                    zombie = (entry / "stat").read_text().rpartition(")")[2].split()[0] == "Z"
                    found[int(entry.name)] = ZOMBIE if zombie else line
            except OSError:
                continue  # it has just ended
        return found

    def events(self) -> list[dict[str, object]]:
        """What it logged, whole lines only."""
        return [orjson.loads(line) for line in bytes(self.output).split(b"\n")[:-1]]


CALL = """
import sys, urllib.request
url = "http://127.0.0.1:8080/v1/call/" + sys.argv[1]
with urllib.request.urlopen(url, data=sys.argv[2].encode(), timeout=30) as answer:
    sys.stdout.buffer.write(answer.read())
"""


def folder_of(image: Image) -> str:
    return str(image.config["WorkingDir"])


def as_user(image: Image) -> Sequence[str]:
    user, _, group = str(image.config["User"]).partition(":")
    who = [f"--reuid={user}", f"--regid={group}", "--clear-groups"]
    return ["setpriv", *who, "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", "--"]


@asynccontextmanager
async def running(
    image: Image, *command: str, env: Mapping[str, str], database: Path, volumes: Mapping[str, Path] = NONE
) -> AsyncIterator[Container]:
    """Start `command`, by default the image's. `database` is a folder with PostgreSQL's socket.

    `volumes` may be written: where they are seen, and what is there.
    """
    told, tell = os.pipe()
    begin = ["--unshare-pid", "--as-pid-1", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
    begin += ["--info-fd", str(tell), "--clearenv", "--cap-add", "ALL"]
    mounts = ["--ro-bind", str(image.root), "/", "--proc", "/proc", "--dev", "/dev"]
    mounts += ["--ro-bind", str(database), DATABASE_FOLDER, "--remount-ro", "/dev"]
    for place, volume in volumes.items():
        mounts += ["--bind", str(volume), place]
    for name, value in {**image.env, **env}.items():
        begin += ["--setenv", name, value]
    entry = command or tuple(image.config["Entrypoint"])  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        process = await trio.lowlevel.open_process(
            ["bwrap", *begin, *mounts, "--chdir", folder_of(image), "--", *as_user(image), *entry],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            pass_fds=[tell],
        )
        os.close(tell)
        said = b""
        async with trio.lowlevel.FdStream(told) as info:
            while b"}" not in said and (data := await info.receive_some()):
                said += data
        pid = orjson.loads(said)["child-pid"]
        container = Container(image, process, pid)

        async def listen() -> None:
            assert process.stdout is not None
            async for data in process.stdout:
                container.output += data

        nursery.start_soon(listen)
        try:
            yield container
        finally:
            if process.returncode is None:
                os.kill(pid, signal.SIGKILL)  # everything else dies with PID 1
            with trio.CancelScope(shield=True):
                await process.wait()
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def database_within_reach(conninfo: str, folder: Path) -> AsyncIterator[str]:
    """PostgreSQL's socket in a folder that any user may enter. The conninfo inside a container."""
    wanted = conninfo_to_dict(conninfo)
    host, port = str(wanted.get("hostaddr") or wanted["host"]), str(wanted.get("port") or 5432)

    async def relay(near: trio.SocketStream) -> None:
        if host.startswith("/"):
            far = await trio.open_unix_socket(f"{host}/.s.PGSQL.{port}")
        else:
            far = await trio.open_tcp_stream(host, int(port))
        async with near, far, trio.open_nursery() as nursery:
            nursery.start_soon(pump, near, far)
            await pump(far, near)
            nursery.cancel_scope.cancel()

    path = folder / SOCKET_NAME
    listening = trio.socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    await listening.bind(str(path))
    listening.listen(100)
    os.chmod(folder, 0o755)
    os.chmod(path, 0o666)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, relay, [trio.SocketListener(listening)])
        inside = {**wanted, "hostaddr": None, "host": DATABASE_FOLDER, "port": "5432"}
        yield make_conninfo(**{name: value for name, value in inside.items() if value is not None})
        nursery.cancel_scope.cancel()


async def pump(source: trio.SocketStream, sink: trio.SocketStream) -> None:
    try:
        async for data in source:
            await sink.send_all(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        return  # one side went away; so does the other
