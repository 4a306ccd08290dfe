"""A whole node in the test's own process: real processes, a real database, real sockets.

`start_node(functions_toml)` is an async context manager; what a step of the node does can be replaced with
monkeypatch, since it runs here. The embedded PostgreSQL of the session serves it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from textwrap import dedent

import attrs
import orjson
import pytest
import trio
from front_door import Answer, Client, get, post

from inversion import app, opening
from inversion.config_file import load

RUNTIMES = Path(__file__).parent.parent / "runtimes"
#: As tests write it into inversion.toml: the Python that runs the tests.
PYTHON = sys.executable


@attrs.define
class LiveNode:
    """A node that runs, and how to talk to it."""

    started: app.Started
    folder: Path

    async def send(self, raw: bytes, *, admin: bool = False) -> Answer:
        """One exchange on a connection of its own."""
        url = self.started.admin_url if admin else self.started.url
        host, _, port = url.removeprefix("http://").rpartition(":")
        with trio.fail_after(20):
            stream = await trio.open_tcp_stream(host, int(port))
            async with stream:
                client = Client(stream)
                await client.send(raw)
                return await client.answer()

    async def call(self, path: str, body: bytes | object = b"", *lines: bytes) -> Answer:
        """POST /v1/call/{path}; what is not bytes is sent as JSON."""
        raw = body if isinstance(body, bytes) else orjson.dumps(body)
        return await self.send(post(f"/v1/call/{path}".encode(), raw, *lines))

    async def state(self, path: str) -> Answer:
        return await self.send(get(f"/v1/state/{path}".encode()))

    def has_died(self, pid: int) -> bool:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        return False


StartNode = Callable[..., AbstractAsyncContextManager[LiveNode]]


@pytest.fixture
def start_node(tmp_path: Path, database_url: str) -> StartNode:
    """A node over a fresh database; `write(name, text)` files beforehand into `tmp_path`."""

    @asynccontextmanager
    async def start(functions: str, *, folder: Path = tmp_path, **options: object) -> AsyncIterator[LiveNode]:
        (folder / "inversion.toml").write_text(dedent(functions))
        config = load(folder)
        given: dict[str, object] = {
            "port": 0,
            "admin_port": 0,
            "database_url": database_url,
            "dev": True,
            **options,
        }
        begun: list[app.Started] = []
        up, ended = trio.Event(), trio.Event()

        def on_started(started: app.Started) -> None:
            begun.append(started)
            up.set()

        async def run() -> None:
            await app.serve(config, opening.Options(**given), on_started)  # type: ignore[arg-type]
            ended.set()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(run)
            with trio.fail_after(30):
                await up.wait()
            yield LiveNode(begun[0], folder)
            with trio.fail_after(30):
                begun[0].drain()
                await ended.wait()

    return start


@pytest.fixture
def counter_toml() -> str:
    """The Python counter and its neighbours."""
    return f"""
        [functions.counter]
        command = ["{PYTHON}", "{RUNTIMES}/python/counter.py"]

        [functions.pure]
        command = ["{PYTHON}", "{RUNTIMES}/python/counter.py"]
        state = false

        [functions.echo]
        command = ["cat"]
        mode = "exec"
        state = false
        """
