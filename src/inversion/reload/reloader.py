"""Carries out a reload: new processes first, and only when they are up do the old ones drain.

What changed is tried out beside what runs. New code that ends at once, has no command or says no hello
leaves the old code serving, and the log says why; the next change is the next attempt. A change that comes
while one is tried out overtakes it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Final

import attrs
import trio

from inversion.config import Config, Function, Http
from inversion.config_file import ConfigError
from inversion.mailbox import PostOffice
from inversion.messages import SILENT
from inversion.observe import logs
from inversion.processes.lines_mode import LinesPool
from inversion.processes.supervisor import Pool, Supervisor
from inversion.processes.worker import HELLO_S
from inversion.reload import concern
from inversion.reload.lookout import Lookout

#: A program that says no hello is up when it has lived this long: a syntax error ends it sooner.
_SETTLED_S: Final = 0.5
#: A newer change overtakes an attempt that has gone on for this long; a shorter one is let finish.
_OVERTAKEN_S: Final = 1.0
#: How often it is looked whether a removed function's last call was answered.
_LAST_CALL_LOOK_S: Final = 0.05

_log = logs.get_logger("reload")


@attrs.frozen(slots=True)
class Origin:
    """Where the config comes from."""

    file: Path  #: inversion.toml, or the one program that has none
    read: Callable[[], Config]  #: read it again; raises ConfigError

    @property
    def is_program(self) -> bool:
        return self.file.suffix != ".toml"


class Reloader:
    """Watches the folder of a config and keeps `functions` and the supervisor's pools up to date."""

    def __init__(
        self,
        config: Config,
        origin: Origin,
        functions: dict[str, Function],
        supervisor: Supervisor,
        office: PostOffice,
        take_up_http: Callable[[Http], None],
    ) -> None:
        self._started = config
        self._wanted = config  # as last read; what could not be started is not among `functions`
        self._origin = origin
        self._functions = functions
        self._supervisor = supervisor
        self._office = office
        self._take_up_http = take_up_http
        # Beside one program may lie anything: a whole home folder, or /tmp.
        suffix = origin.file.suffix if origin.is_program else None
        self._lookout = Lookout(config.folder, self._named_files, suffix)
        self._restless = concern.Restless()
        self._changed: set[Path] = set()
        self._due = trio.Event()
        self._stale: dict[str, str] = {}  # function -> why its code or config is no longer what runs

    async def run(self, until: trio.CancelScope) -> None:
        """Until that is cancelled; what drains then is drained by the supervisor with the rest."""
        with until:
            await self._keep_up()

    async def _keep_up(self) -> None:
        await self._lookout.first_look()
        _log.info(f"watching {self._origin.file if self._origin.is_program else self._wanted.folder}")
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            nursery.start_soon(self._lookout.run, self._note)
            while True:
                await self._due.wait()
                self._due = trio.Event()
                changed, self._changed = self._changed, set()
                self._find_out_what_is_stale(changed)
                async with trio.open_nursery() as attempt:
                    attempt.start_soon(self._overtake, attempt.cancel_scope)
                    await self._renew_all()
                    attempt.cancel_scope.cancel()

    def _named_files(self) -> set[Path]:
        functions = self._wanted.functions.values()
        return {self._origin.file, *(path for each in functions for path in concern.candidates(each))}

    def _note(self, paths: frozenset[Path]) -> None:
        now_s = perf_counter()
        never = self._restless.left_alone - self._named_files()
        for path in paths - never:
            if not self._restless.saw(path, now_s) and path not in self._named_files():
                _log.warning(f"{self._shown(path)} changes all the time: it is no longer watched")
            else:
                self._changed.add(path)
        if self._changed:
            self._due.set()

    async def _overtake(self, attempt: trio.CancelScope) -> None:
        begun_s = trio.current_time()
        await self._due.wait()
        await trio.sleep_until(begun_s + _OVERTAKEN_S)
        attempt.cancel()

    # -- what is to be done ------------------------------------------------------------------------------

    def _find_out_what_is_stale(self, changed: set[Path]) -> None:
        before = self._wanted
        files = self._lookout.sight.files.keys() | changed
        if self._origin.file in changed:
            try:
                self._wanted = self._origin.read()
            except ConfigError as error:
                for fault in error.faults:
                    _log.error(f"{fault}; what ran before goes on")
            else:
                self._take_up_config(before)
        code = changed if self._origin.is_program else changed - {self._origin.file}
        for name, paths in concern.concerned(self._wanted.functions, code, files).items():
            self._stale[name] = f"{', '.join(map(self._shown, paths[:3]))} changed"

    def _take_up_config(self, before: Config) -> None:
        difference = concern.difference(before, self._wanted, self._started)
        for key in difference.needs_restart:
            _log.warning(f"{self._origin.file.name}: {key} has changed: it needs a restart")
        if difference.outgoing:
            self._take_up_http(self._wanted.http)
            _log.info("what outgoing requests go by changed")
        for name in difference.renewed:
            self._stale[name] = f"{self._origin.file.name} changed"
        for name in difference.rescheduled:
            if name in self._functions:  # also where the rest of it waits for new code to start
                self._functions[name] = attrs.evolve(
                    self._functions[name], cron=self._wanted.functions[name].cron
                )
                _log.info(f"schedules of {name} changed")
        for name in difference.removed:
            self._stale.pop(name, None)
            if self._functions.pop(name, None) is not None:
                _log.info(f"removed {name} ({self._origin.file.name} changed)")
                self._nursery.start_soon(self._send_home, self._supervisor.pools[name])

    async def _send_home(self, pool: Pool) -> None:
        """The end of a removed function: its last calls are answered."""
        name = pool.function.name
        while self._office.live_of(name):
            await trio.sleep(_LAST_CALL_LOOK_S)
            if name in self._functions:
                return  # it is back: whatever replaces this pool retires it
        await self._supervisor.retire(pool)

    # -- doing it ----------------------------------------------------------------------------------------

    async def _renew_all(self) -> None:
        begun_s = perf_counter()
        done: dict[str, list[str]] = {}
        try:
            async with trio.open_nursery() as nursery:
                for name, why in self._stale.items():
                    nursery.start_soon(self._renew, self._wanted.functions[name], why, done)
        finally:
            for why, names in done.items():
                _log.info(f"reloaded {', '.join(sorted(names))} ({why}) in {perf_counter() - begun_s:.2f} s")

    async def _renew(self, function: Function, why: str, done: dict[str, list[str]]) -> None:
        name = function.name
        old = self._supervisor.pools.get(name)
        if old is not None and old.function.mode is not function.mode:
            # Bodies that wait were admitted as the old mode takes them.
            _log.warning(f"{self._origin.file.name}: functions.{name}.mode has changed: it needs a restart")
            del self._stale[name]
            return
        if isinstance(old, LinesPool):
            old.is_frozen = True  # until its successor serves: what it would start is the new code
        pool = self._supervisor.try_out(function)
        serves = False
        try:
            if name not in self._functions:
                # No old code serves: callers are told what is wrong with the new, as after a start.
                self._put_in(pool, old)
                serves = True
            problem = await _why_not(pool, old)
            if problem is None and not serves:
                self._put_in(pool, old)
                serves = True
        finally:
            if not serves:
                self._supervisor.discard(pool)
        del self._stale[name]
        if problem is None:
            done.setdefault(why, []).append(name)
        else:
            goes_on = "" if serves else ", the old code goes on serving"
            _log.error(f"{name} was not reloaded ({why}){goes_on}: {problem}")

    def _put_in(self, pool: Pool, old: Pool | None) -> None:
        """The moment of the change: it serves from now on, what it replaces drains."""
        self._functions[pool.function.name] = pool.function
        self._office.deploy(pool.function, pool)
        self._supervisor.replace(pool)
        if old is not None:
            self._nursery.start_soon(self._supervisor.retire, old)

    def _shown(self, path: Path) -> str:
        """As somebody calls it who is in the folder."""
        folder = self._wanted.folder
        return str(path.relative_to(folder) if path.is_relative_to(folder) else path)


async def _why_not(pool: Pool, old: Pool | None) -> str | None:
    """Wait until new code is up; else why it is not."""
    silent = pool.hello is SILENT or (old is not None and old.hello is SILENT)
    with trio.move_on_after(_SETTLED_S if silent else 2 * HELLO_S):
        await pool.known.wait()
    if not isinstance(pool, LinesPool):
        return pool.problem
    if pool.hello is SILENT:
        await trio.sleep(_SETTLED_S)
    well, sentence = pool.report()
    return pool.crash if well else sentence
