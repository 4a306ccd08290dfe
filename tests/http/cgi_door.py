"""CGI programs behind a real socket, without a database: `cgi_door({"name": script}, folder)`."""

from __future__ import annotations

import sys
import textwrap
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, closing
from pathlib import Path
from time import perf_counter

import attrs
import trio
from front_door import Answer, Client

from inversion.config import Config, Function, Limits, Mode
from inversion.errors import Code, RequestRefused
from inversion.http.programs import PREFIX, Programs
from inversion.http.routes import Ingress
from inversion.http.server import Listener, Server, open_tcp
from inversion.http.service import Deadlines
from inversion.observe.metrics import Counters
from inversion.processes.cgi_mode import CgiPool
from inversion.processes.supervisor import Supervisor
from inversion.watch import Watch

BODY_BYTES = 1_000


class _Calls:
    """What Programs and Ingress ask of calls.py."""

    def __init__(self, functions: Mapping[str, Function]) -> None:
        self.functions = functions
        self.draining = False

    def function(self, name: str) -> Function:
        if name not in self.functions:
            raise RequestRefused(Code.NO_FUNCTION, f"no function is named {name!r}")
        return self.functions[name]


async def until(happened: Callable[[], bool]) -> None:
    """Look until it is so; the caller has the timeout."""
    while not happened():  # noqa: ASYNC110 (another process makes it so)
        await trio.sleep(0.005)


@attrs.define
class CgiDoor:
    """A server with nothing but CGI programs behind it."""

    server: Server
    listener: Listener
    calls: _Calls
    supervisor: Supervisor
    counters: Counters
    logs: list[str]
    clients: list[Client] = attrs.field(factory=list)

    async def connect(self) -> Client:
        self.clients.append(Client(await trio.open_tcp_stream("127.0.0.1", self.listener.port)))
        return self.clients[-1]

    async def ask(self, raw: bytes, method: str = "GET") -> Answer:
        client = await self.connect()
        await client.send(raw)
        return await client.answer(method)

    def pool(self, name: str = "fn") -> CgiPool:
        pool = self.supervisor.pools[name]
        assert isinstance(pool, CgiPool)
        return pool

    async def running(self) -> None:
        """Wait until a process runs."""
        await until(lambda: self.pool().in_flight > 0)

    async def crowded(self) -> None:
        """Wait until a request waits for a process."""
        await until(lambda: self.pool().waiting > 0)

    async def quiet(self) -> None:
        """Wait until no process runs."""
        await until(lambda: not any(pool.in_flight for pool in self.supervisor.pools.values()))


def shell(folder: Path, script: str, name: str = "fn", **settings: object) -> Function:
    return _function(folder, f"#!/bin/sh\n{textwrap.dedent(script)}", name, **settings)


def python(folder: Path, script: str, name: str = "fn", **settings: object) -> Function:
    return _function(folder, f"#!{sys.executable}\n{textwrap.dedent(script)}", name, **settings)


def _function(folder: Path, text: str, name: str, **settings: object) -> Function:
    path = folder / f"{name}.cgi"
    path.write_text(text)
    path.chmod(0o755)
    return Function(name, (f"./{path.name}",), folder, mode=Mode.CGI, state=False, **settings)  # type: ignore[arg-type]


@asynccontextmanager
async def cgi_door(
    *functions: Function,
    limits: Limits | None = None,
    deadlines: Deadlines | None = None,
    within_s: float = 50.0,
) -> AsyncIterator[CgiDoor]:
    named = {function.name: function for function in functions}
    logs: list[str] = []
    counters = Counters.of(named)
    with closing(Watch()) as watch, trio.fail_after(within_s):
        supervisor = Supervisor(
            Config(named, limits or Limits()), lambda *line: logs.append(line[2]), watch, counters
        )
        calls = _Calls(named)
        programs = Programs(calls, supervisor.pools, counters.functions, lambda code: None)
        server = Server(
            Ingress(calls, read_state=False, programs=programs),  # type: ignore[arg-type]
            watch=watch,
            body_bytes=BODY_BYTES,
            connections=100,
            deadlines=deadlines,
            streamed=PREFIX,
        )
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.run)
            await nursery.start(supervisor.run)
            nursery.start_soon(_sweep, supervisor)
            listener = open_tcp("127.0.0.1", 0)
            await nursery.start(server.serve, listener)
            door = CgiDoor(server, listener, calls, supervisor, counters, logs)
            try:
                yield door
            finally:
                for client in door.clients:
                    client.stream.socket.close()
            nursery.cancel_scope.cancel()


async def _sweep(supervisor: Supervisor) -> None:
    while True:
        supervisor.sweep(perf_counter())
        await trio.sleep(0.01)
