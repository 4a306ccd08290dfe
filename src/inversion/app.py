"""The composition root: the one place where things are constructed, in floor order.

`serve` opens the processes, the database, the store and the doors, and tells `on_started`. The first
SIGTERM or SIGINT drains: readiness off, what was accepted is answered, what comes is refused, processes
leave, the database stops last; `limits.drain` bounds it. A second signal ends it at once. A database that
is away at start does not keep the doors shut: functions without state work, calls that need it answer 503.
"""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Final

import attrs
import trio

from inversion.calls import Calls
from inversion.config import Config, Mode
from inversion.delivery.cron import Cron
from inversion.delivery.dispatcher import Dispatcher
from inversion.delivery.outgoing import Outgoing
from inversion.embedded import EmbeddedPostgres
from inversion.errors import Code, Conflict, InversionError, RuntimeBroken, StoreUnavailable
from inversion.exposition import function_reports, metrics_of
from inversion.farewell import answer_all
from inversion.garbage import Tidying, spared_collector
from inversion.gate import Bridge
from inversion.http.admin import Admin, Sources
from inversion.http.letters import LetterDesk
from inversion.http.programs import PREFIX, Programs
from inversion.http.routes import Ingress
from inversion.http.server import Listener, Server
from inversion.http.service import Application, Held
from inversion.mailbox import PostOffice
from inversion.messages import Hello, Turn
from inversion.names import HTTP
from inversion.observe import logs
from inversion.observe.metrics import Counters, FunctionCounters
from inversion.opening import Options, listen, open_database, start_error, url_of
from inversion.processes.supervisor import Supervisor
from inversion.reload.reloader import Reloader
from inversion.sends import Sends
from inversion.state.letters import Letters
from inversion.state.outputs import Outputs
from inversion.state.store import PostgresStore
from inversion.state.sweeper import Kept
from inversion.watch import Watch

#: How often deadlines are looked at: fine enough for a person, 1 % of a core at full queues.
SWEEP_INTERVAL_S: Final = 0.05
#: A database that is away keeps the doors shut for no longer than this.
_DATABASE_PATIENCE_S: Final = 3.0
#: The banner waits this long for hellos; a function that is slower is shown as such.
_HELLO_PATIENCE_S: Final = 1.0

_log = logs.get_logger("node")


@attrs.frozen(slots=True)
class Started:
    """What `on_started` is told."""

    url: str
    admin_url: str
    database: str  #: a sentence: which database it uses
    functions: Sequence[tuple[str, bool, str]]  #: name, does it run, a sentence
    socket_path: Path | None  #: None: its folder cannot be written
    hellos: Mapping[str, Hello | None]  #: what each function said of itself
    drain: Callable[[], None]  #: what the first SIGTERM does
    nodes: int = 1


async def serve(
    config: Config, options: Options, on_started: Callable[[Started], None] = lambda started: None
) -> bool:
    """Run one node to its end; whether it answered all it had accepted. Raises StartError."""
    try:
        with contextlib.closing(Watch()) as watch:
            async with trio.open_nursery() as nursery:
                node = _Node(config, options, watch, nursery)
                await node.run(on_started)
                nursery.cancel_scope.cancel()
            return node.drained
    except BaseExceptionGroup as group:
        raise start_error(group) or group from None


class _Node:
    """Everything one node consists of."""

    def __init__(self, config: Config, options: Options, watch: Watch, nursery: trio.Nursery):
        self._config = config
        self._options = options
        self._nursery = nursery
        self.drained = False  #: it ended with nothing unanswered
        self._embedded: EmbeddedPostgres | None = None
        self._stopping = trio.Event()
        self._doors_closed = trio.Event()
        self._store_opened = trio.Event()
        self._servers: Sequence[Server] = ()
        self._functions = dict(config.functions)  # what serves: a reload changes it
        self._reloading = trio.CancelScope()
        self._counters = Counters.of(config.functions)
        self._of_ours = FunctionCounters()  # of built-in functions: shown by nobody
        self._watch = watch
        self._supervisor = Supervisor(config, self._function_line, watch, self._counters, lenient=options.dev)

    async def run(self, on_started: Callable[[Started], None]) -> None:
        self._nursery.start_soon(self._heed_signals)
        with contextlib.ExitStack() as closing:
            self._nursery.start_soon(self._watch.run)
            await self._serve(self._listen(closing), on_started)

    async def _serve(self, listeners: Sequence[Listener], on_started: Callable[[Started], None]) -> None:
        await self._nursery.start(self._supervisor.run)
        database = await open_database(self._config, self._options, self._nursery)
        self._embedded = database.embedded
        self._conninfo = database.conninfo
        retention = self._config.retention
        self._store = PostgresStore(
            database.conninfo,
            self._config.limits,
            self._watch,
            kept=Kept(retention.keys_s, retention.outputs_s, retention.dead_letters_s),
            log=_log.warning,
            counters=self._counters,
        )
        await self._open_store()
        pools, limits = self._supervisor.pools, self._config.limits
        self._office = PostOffice(
            self._store, pools, self._functions, limits, self._note_failure, self._after
        )
        self._outgoing = Outgoing(self._config, self._store, self._counters, self._note_failure, self._after)
        await self._nursery.start(self._outgoing.run)
        self._dispatcher = Dispatcher(
            database.conninfo,
            self._functions,
            self._office,
            pools,
            self._counters,
            self._store.knocking,
            {HTTP: self._outgoing},
        )
        self._store.births = self._store.sender.births = self._dispatcher
        self._outputs = Outputs(database.conninfo, self._store.knocking)
        self._dispatcher.hint = self._outputs.hint
        self._cron = Cron(
            database.conninfo,
            self._functions,
            pools,
            self._counters,
            self._store.knocking,
            self._dispatcher.stir,
        )
        self._watch.expects = lambda: len(self._office.live)
        self._nursery.start_soon(self._sweep)
        self._open_doors(listeners)
        self._nursery.start_soon(self._deliver)
        await self._supervisor.first_words(_HELLO_PATIENCE_S)
        if (origin := self._options.reload) is not None:
            take_up = self._outgoing.take_up
            reloader = Reloader(
                self._config, origin, self._functions, self._supervisor, self._office, take_up
            )
            self._nursery.start_soon(reloader.run, self._reloading)
        with spared_collector():
            on_started(self._started(listeners, database.sentence))
            await self._stopping.wait()
            await self._drain()

    def _listen(self, closing: contextlib.ExitStack) -> Sequence[Listener]:
        given = self._options.doors
        if given is None:
            return listen(self._config, self._options, closing)
        for listener in given:
            closing.callback(listener.close)
        return given

    async def _open_store(self) -> None:
        async def run_store() -> None:
            await self._nursery.start(self._store.run)
            self._store_opened.set()

        self._nursery.start_soon(run_store)
        with trio.move_on_after(_DATABASE_PATIENCE_S):
            await self._store_opened.wait()
        if not self._store_opened.is_set():
            _log.error("no database yet: calls that need it answer 503 until there is one")

    async def _deliver(self) -> None:
        await (
            self._store_opened.wait()
        )  # the store's first try tells a wrong URL from a database that is away
        self._nursery.start_soon(self._cron.run)
        self._nursery.start_soon(self._outputs.run)
        await self._dispatcher.run()

    def _open_doors(self, listeners: Sequence[Listener]) -> None:
        limits = self._config.limits
        pools = self._supervisor.pools
        self._calls = calls = Calls(
            self._functions, self._office, pools, self._store, self._outputs, self._counters
        )
        sends = Sends(calls, self._store.sender, self._outputs)
        held = Held(limits.in_flight_bytes)
        metrics = metrics_of(
            self._counters,
            self._store,
            self._office,
            pools,
            held,
            lambda: self._servers,
            self._dispatcher,
            self._cron,
            self._outgoing,
        )
        sources = Sources(self._not_ready, metrics.text, partial(function_reports, self._supervisor))
        desk = LetterDesk(Letters(self._conninfo), Bridge(self._nursery))
        admin = partial(
            Admin, calls, sources, sends, desk=desk, token=self._options.admin_token, tally=self._tally
        )
        ingress = Ingress(
            calls,
            sends,
            read_state=self._options.dev or self._config.http.read_state,
            tally=self._tally,
            programs=Programs(calls, pools, self._counters.functions, self._tally),
        )
        shares = self._options.doors is not None
        applications: Sequence[Application] = (ingress, admin(), admin(trusted=True))
        if shares:  # the parent has the admin port
            applications = ingress, admin(trusted=True)
        self._servers = [
            Server(
                application,
                watch=self._watch,
                body_bytes=limits.body_bytes,
                connections=limits.connections,
                held=held,
                shares=shares,
                streamed=PREFIX if application is ingress else None,
            )
            for application in applications[: len(listeners)]
        ]
        self._nursery.start_soon(self._serve_doors, listeners)

    async def _serve_doors(self, listeners: Sequence[Listener]) -> None:
        async with trio.open_nursery() as doors:
            for server, listener in zip(self._servers, listeners, strict=True):
                doors.start_soon(server.serve, listener)
        self._doors_closed.set()

    def _after(self, seconds: float, call: Callable[[], None]) -> None:
        self._nursery.start_soon(_call_after, seconds, call)

    async def _sweep(self) -> None:
        """Time passes: function timeouts first, so that a caller learns what hung, then deadlines."""
        tidying = Tidying(self._endings)
        while True:
            await trio.sleep(SWEEP_INTERVAL_S)
            now_s = perf_counter()
            self._supervisor.sweep(now_s)
            self._office.sweep(now_s)
            self._outgoing.office.sweep(now_s)
            self._store.sweep(now_s)
            self._outputs.sweep(now_s)
            logs.sweep()
            tidying.sweep(now_s)

    def _endings(self) -> int:
        """Processes that serve many calls and were replaced or ended, and connections that broke, so far."""
        counted = self._counters.functions
        lasting = [name for name, function in self._functions.items() if function.mode is Mode.LINES]
        return self._counters.database_losses + sum(counted[name].starts for name in lasting)

    async def _heed_signals(self) -> None:
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async for number in signals:
                if self._stopping.is_set():
                    _log.warning("second signal: ending at once", signal=signal.Signals(number).name)
                    if self._embedded is not None:
                        self._embedded.hurried = True
                    self._nursery.cancel_scope.cancel()
                else:
                    _log.info("draining; a second signal ends it at once")
                    self._stopping.set()

    def _not_ready(self) -> Sequence[str]:
        reasons = []
        if self._calls.draining:
            reasons.append("draining")
        if not self._store.available:
            reasons.append("no database connection, or no answer from it")
        return reasons

    def _tally(self, code: Code) -> None:
        self._counters.errors[code] += 1

    async def _drain(self) -> None:
        """Answer what was accepted, send the processes home; then everything else may end."""
        self._reloading.cancel()
        limit_s = self._config.limits.drain_s
        until_s = trio.current_time() + limit_s
        self._dispatcher.drain()
        self._outputs.drain()
        async with trio.open_nursery() as parting:
            parting.start_soon(self._outgoing.drain, limit_s)
            self.drained = await answer_all(
                self._calls, self._office, self._store, self._servers, self._doors_closed, limit_s
            )
        await self._dispatcher.farewell()
        if self.drained:
            with trio.move_on_at(until_s):
                await self._supervisor.drain()

    def _function_line(self, function: str, stream: str, text: str) -> None:
        counters = self._counters.functions[function]
        if stream == "stderr":
            counters.stderr_lines += 1
        else:
            counters.stray_lines += 1
        logs.function_line(function, stream, text)

    def _note_failure(self, turn: Turn, error: Exception) -> None:
        """A turn failed: count what people want to know, and keep what only a log may say."""
        counters = self._counters.functions.get(turn.address.function) or self._of_ours
        counters.failed_turns += 1
        if isinstance(error, Conflict):
            self._counters.conflicts += 1
        elif isinstance(error, RuntimeBroken) and error.code is Code.FUNCTION_TIMEOUT:
            counters.timeouts += 1
        elif isinstance(error, StoreUnavailable):
            _log.error("refused_by_the_database", step=turn.step.value, reason=str(error.__cause__ or error))
        elif not isinstance(error, InversionError):
            _log.error(
                "step_failed",
                step=turn.step.value,
                function=turn.address.function,
                key=turn.address.key,
                exc_info=error,
            )

    def _started(self, listeners: Sequence[Listener], database: str) -> Started:
        options = self._options
        return Started(
            url=url_of(options.host, listeners[0].port),
            admin_url=url_of(options.admin_host, listeners[1].port),  # of a parent's, it says that itself
            database=database,
            functions=self._supervisor.reports(),
            socket_path=next((each.path for each in listeners if each.path is not None), None),
            hellos={name: pool.hello for name, pool in self._supervisor.pools.items()},
            drain=self._stopping.set,
        )


async def _call_after(seconds: float, call: Callable[[], None]) -> None:
    await trio.sleep(seconds)
    call()
