"""The parent of several nodes on one host: it holds the doors and the database, they serve.

All nodes accept from one listening socket: what waits in it when a node ends is accepted by another. In
`dev` the embedded PostgreSQL runs here. The first SIGTERM or SIGINT drains every node, the second ends them
at once. If this process is killed each node's lifeline ends, and the node with it.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Sequence
from typing import Final

import attrs
import trio

from inversion.app import Started
from inversion.gate import Bridge
from inversion.http.admin import Doorkeeper
from inversion.http.server import Listener, Server
from inversion.nodes.charge import Charge, Word
from inversion.nodes.front import Front
from inversion.nodes.member import Member
from inversion.observe import logs
from inversion.opening import Options, StartError, listen, open_database, start_error, url_of
from inversion.watch import Watch

#: Beyond the nodes' own limit of a drain: one that is stopped never comes to it.
_DRAIN_SPARE_S: Final = 5.0
#: After a second signal: a node ends its functions, and is gone.
_HURRY_S: Final = 5.0
#: The admin door is idle when the nodes have ended; whoever asks just now is answered.
_LAST_WORD_S: Final = 0.5
_SWEEP_S: Final = 0.05

_log = logs.get_logger("nodes")


async def serve(charge: Charge, count: int, on_started: Callable[[Started], None]) -> bool:
    """Run `count` nodes to their end; whether they answered all they had accepted. Raises StartError.

    `charge` is the pattern of what each node is told: database and files are filled in.
    """
    try:
        with contextlib.closing(Watch()) as watch:
            async with trio.open_nursery() as nursery:
                parent = _Parent(charge, count, watch, nursery)
                await parent.run(on_started)
                nursery.cancel_scope.cancel()
            return parent.drained
    except BaseExceptionGroup as group:
        raise start_error(group) or group from None


class _Parent:
    def __init__(self, charge: Charge, count: int, watch: Watch, nursery: trio.Nursery) -> None:
        self._charge = charge
        self._options: Options = charge.options
        self._count = count
        self._watch = watch
        self._nursery = nursery
        self._members: Sequence[Member] = ()
        self._stopping = trio.Event()
        self._hurried = trio.Event()
        self.drained = False

    async def run(self, on_started: Callable[[Started], None]) -> None:
        self._nursery.start_soon(self._heed_signals)
        self._nursery.start_soon(_sweep_logs)
        with contextlib.ExitStack() as closing:
            listeners = listen(self._charge.config, self._options, closing)
            self._nursery.start_soon(self._watch.run)
            database = await open_database(self._charge.config, self._options, self._nursery)
            ingress, *admin = listeners
            files = [sock.fileno() for sock in ingress.sockets]
            options = attrs.evolve(
                self._options, database_url=database.conninfo, migrate=False, reload=None, doors=None
            )

            charge = attrs.evolve(self._charge, options=options, listening=files)
            self._members = [Member(number, charge) for number in range(self._count)]
            ended = trio.Event()
            self._nursery.start_soon(self._run_members, ended)
            self._open_admin(admin)
            word = await self._first_words()
            if word is not None:
                on_started(self._started(listeners, database.sentence, word))
            await self._stopping.wait()
            await self._drain(ended)
            if self._hurried.is_set() and database.embedded is not None:
                database.embedded.hurried = True

    async def _run_members(self, ended: trio.Event) -> None:
        async with trio.open_nursery() as nursery:
            for member in self._members:
                nursery.start_soon(member.run)
        ended.set()

    async def _first_words(self) -> Word | None:
        """Until all are up; what the first says. None: a signal came before. Raises StartError."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_then, self._stopping.wait, nursery.cancel_scope.cancel)
            for member in self._members:
                await member.word.wait()
                assert member.said is not None
                if member.said.failure is not None:
                    raise StartError(member.said.failure)
            nursery.cancel_scope.cancel()
        return None if self._stopping.is_set() else self._members[0].said

    def _open_admin(self, listeners: Sequence[Listener]) -> None:
        limits = self._charge.config.limits
        bridge = Bridge(self._nursery)
        for listener in listeners:
            keeper = Doorkeeper(self._options.admin_token, trusted=listener.path is not None)
            server = Server(
                Front(self._members, keeper, bridge, self._stopping.is_set),
                watch=self._watch,
                body_bytes=limits.body_bytes,
                connections=limits.connections,
            )
            self._nursery.start_soon(server.serve, listener)

    async def _heed_signals(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for number in signals:
                if self._stopping.is_set():
                    _log.warning("second signal: ending at once", signal=signal.Signals(number).name)
                    self._hurried.set()
                    if not self._members:  # the database is being made ready
                        self._nursery.cancel_scope.cancel()
                else:
                    _log.info("draining all nodes; a second signal ends it at once")
                    self._stopping.set()

    async def _drain(self, ended: trio.Event) -> None:
        for member in self._members:
            member.stop()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_then, ended.wait, nursery.cancel_scope.cancel)
            with trio.move_on_after(self._charge.config.limits.drain_s + _DRAIN_SPARE_S):
                await self._hurried.wait()
            for member in self._members:
                member.stop()  # their second signal
            await trio.sleep(_HURRY_S)
            nursery.cancel_scope.cancel()  # what is left is killed with our own nursery
        self.drained = ended.is_set() and all(member.drained for member in self._members)
        await trio.sleep(0 if self._hurried.is_set() else _LAST_WORD_S)

    def _started(self, listeners: Sequence[Listener], database: str, word: Word) -> Started:
        options = self._options
        return Started(
            url=url_of(options.host, listeners[0].port),
            admin_url=url_of(options.admin_host, listeners[1].port),
            database=database,
            functions=word.functions,
            socket_path=next((each.path for each in listeners if each.path is not None), None),
            hellos=word.hellos,
            drain=self._stopping.set,
            nodes=self._count,
        )


async def _then(wait: Callable[[], object], call: Callable[[], None]) -> None:
    await wait()  # type: ignore[misc]
    call()


async def _sweep_logs() -> None:
    while True:
        await trio.sleep(_SWEEP_S)
        logs.sweep()
