"""One run: nodes on one database, clients, faults; then all heals, and everything is read once more."""

from __future__ import annotations

import random
import shutil
import signal
import sys
import tempfile
import uuid
from collections.abc import Sequence
from pathlib import Path
from time import perf_counter_ns
from typing import Final

import attrs
import trio
from tests.faults.campaign.asking import Asking, Slot, Wanted
from tests.faults.campaign.clients import CallingClient, Tally
from tests.faults.campaign.cuts import Wire
from tests.faults.campaign.faults import Faults
from tests.faults.campaign.nodes import Node, write_functions
from tests.faults.campaign.talking import Talking
from tests.faults.history.models import READ, STATE
from tests.faults.history.operation import HistoryWriter, Operation, Outcome, read_history
from tests.fix_postgres import Cluster

from inversion.state.migrate import migrate

BUGS_FILE: Final = Path(__file__).with_name("seeded")
ALTERED_FILE: Final = Path(__file__).parents[1] / "altered_node.py"
#: How far the wall clocks of nodes are off, one after the other: safety and timers rest on none of them.
CLOCKS_OFF_S: Final = (0, 3_600, -3_600)
#: In a short run a lease runs out as often in a minute as 10 s do in many.
SHORT_LEASE_S: Final = 1.0
#: How soon a schedule that was set back is noticed.
CRON_S: Final = 0.2
#: Of a ball, and those who hear what is told everybody: in a long run and in a short one.
HOPS: Final = (1_000, 200)
CROWD: Final = (100, 30)
HEAL_S: Final = 120.0
LAST_ANSWERS: Final = 5  #: of each node, after the last fault
READERS: Final = 4  #: of all that there was, at the end
LOOK_S: Final = 1.0
SAY_S: Final = 60.0
TICK_S: Final = 0.05
NOWHERE: Final = Slot("", "", 1 << 60)  #: of a read that no slot is to hear of


@attrs.frozen
class Options:
    seconds: float
    nodes: int = 1
    clients: int = 32
    keyed: float = 0.35
    every_s: float = 2.0  #: between a recovery and the next fault
    pause_s: float = 0.0  #: of a client between two calls
    seed: int = 1
    bug: str | None = None  #: of seeded, on purpose

    @property
    def long(self) -> bool:
        return self.seconds >= 600


class Campaign:
    def __init__(
        self, options: Options, folder: Path, postgres: Cluster, database_url: str, kept: Path | None = None
    ) -> None:
        """`kept` outlives the folder: for logs of bad ends, and for all when it fails; else a new one."""
        self.options = options
        self.kept = kept or Path(tempfile.gettempdir()) / f"inversion-campaign-{uuid.uuid4().hex[:8]}"
        self._folder = folder
        self.history = folder / "history.jsonl"
        self.tally = Tally()
        self.wrong: list[str] = []
        self.enough = trio.Event()  #: set from outside, it ends at once and reads nothing more
        self.final_reads = 0
        self._dice = random.Random(f"campaign {options.seed}")
        program = (str(ALTERED_FILE),) if options.bug is None else (str(BUGS_FILE), options.bug)
        environ = {"INVERSION_CRON_S": str(CRON_S)}
        if not options.long:
            environ["INVERSION_LEASE_S"] = str(SHORT_LEASE_S)
        names = [f"n{number}" for number in range(options.nodes)]
        self.nodes = [
            Node(
                name,
                folder / name,
                Wire(database_url, folder / name, self._dice.uniform),
                program,
                {**environ, "INVERSION_CLOCK_OFF_S": str(CLOCKS_OFF_S[number % len(CLOCKS_OFF_S)])},
                self.kept if options.bug is None else None,
            )
            for number, name in enumerate(names)
        ]
        (functions,) = {tuple(write_functions(node.folder)) for node in self.nodes}
        self._asking = Asking(functions, f"r{options.seed}", self._dice, options.keyed)
        self._database_url = database_url
        self._writer = HistoryWriter(self.history)
        # Every second one has a home, each node in its turn.
        homes = [
            self.nodes[number // 2 % options.nodes] if number % 2 else None
            for number in range(options.clients)
        ]
        self._clients = [self._client(f"c{number}", home) for number, home in enumerate(homes)]
        short = not options.long
        self.talking = Talking(
            self.nodes, database_url, f"r{options.seed}", hops=HOPS[short], crowd=CROWD[short], look_s=LOOK_S
        )
        self.faults = Faults(
            self.nodes,
            postgres,
            self._clients,
            self.tally,
            functions,
            long=options.long,
            dice=random.Random(f"faults {options.seed}"),
        )

    def _client(self, name: str, home: Node | None = None) -> CallingClient:
        return CallingClient(name, self.nodes, self._asking, self._writer, self.tally, home)

    async def run(self) -> None:
        try:
            await migrate(self._database_url)
            with self._writer:
                async with trio.open_nursery() as nursery:
                    async with trio.open_nursery() as starting:
                        for node in self.nodes:
                            await nursery.start(node.wire.run)
                            starting.start_soon(node.start)
                    await nursery.start(self.talking.serve)
                    nursery.start_soon(self._look_for_ever)
                    nursery.start_soon(self._tick_for_ever)
                    nursery.start_soon(self._say_for_ever)
                    await self._disturb()
                    if not self.enough.is_set():
                        await self.talking.drain()
                        await self._read_everything()
                    for node in self.nodes if not self.enough.is_set() else ():
                        await node.look()
                        if (status := await node.end(signal.SIGTERM)) != 0:
                            self.wrong.append(f"{node.name} ended with {status}")
                    nursery.cancel_scope.cancel()
        except BaseException:
            self.keep()
            raise
        finally:
            for node in self.nodes:
                if node.process is not None and node.process.poll() is None:
                    node.process.kill()
                    node.process.wait()

    def keep(self) -> None:
        """The history and the logs of all lives of all nodes, and say where; a bug on purpose is no news."""
        if self.options.bug is None:
            self.kept.mkdir(parents=True, exist_ok=True)
            for file in (self.history, *self._folder.glob("n*/*.log")):
                if file.exists():
                    shutil.copy(file, self.kept)
            print(f"the history and the logs of the nodes are in {self.kept}", file=sys.stderr)

    def so_far(self) -> list[Operation]:
        """The history up to now: what is under way may have happened."""
        self._writer.flush()
        return [*read_history(self.history), *self.tally.in_flight.values()]

    async def _disturb(self) -> None:
        end_clients, end_faults = trio.Event(), trio.Event()
        async with trio.open_nursery() as clients:
            for client in self._clients:
                clients.start_soon(client.run, end_clients, self.options.pause_s)
            clients.start_soon(self.talking.run, end_clients)
            async with trio.open_nursery() as faults:
                faults.start_soon(self.faults.run, end_faults, self.options.every_s)
                with trio.move_on_after(self.options.seconds):
                    await self.enough.wait()
                with trio.move_on_after(2 * self.options.seconds):  # on a busy machine
                    while not (self.enough.is_set() or self.faults.all_fired):  # noqa: ASYNC110 (asks another task)
                        await trio.sleep(LOOK_S)
                end_faults.set()
                if self.enough.is_set():
                    clients.cancel_scope.cancel()  # recoveries and answers are waited for no longer
            end_clients.set()

    async def _read_everything(self) -> None:
        """After the last heal every node answers, and so does every entity there was."""
        reader = self._client("last")
        entities = sorted(self._asking.entities)
        with trio.move_on_after(HEAL_S) as waiting:
            for node in self.nodes:
                good = 0
                while good < LAST_ANSWERS:
                    good = good + 1 if await self._read(reader, self._dice.choice(entities), node) else 0
        if waiting.cancelled_caught:
            self.wrong.append(f"{HEAL_S:g} s after the last fault not every node answers")
        else:
            async with trio.open_nursery() as nursery:
                for number in range(READERS):
                    nursery.start_soon(self._read_each, entities[number::READERS], f"last{number}")
        await reader.aclose()

    async def _read_each(self, entities: Sequence[str], name: str) -> None:
        reader = self._client(name)
        for entity in entities:
            if await self._read(reader, entity, self._dice.choice(self.nodes)):
                self.final_reads += 1
            else:
                self.wrong.append(f"{entity} could not be read in peace")
        await reader.aclose()

    async def _read(self, reader: CallingClient, entity: str, node: Node) -> bool:
        """Whether it was answered."""
        kind = self._dice.choice((READ, STATE))
        told = await reader.ask(Wanted(NOWHERE, entity, kind, None, None, None), node)
        return told is not None and told[0].ran and told[0].outcome is not Outcome.UNKNOWN

    async def _look_for_ever(self) -> None:
        while True:
            for node in self.nodes:
                if node.up:
                    await node.look()
            await trio.sleep(LOOK_S)

    async def _say_for_ever(self) -> None:
        begun_s = trio.current_time()
        while True:
            await trio.sleep(SAY_S)
            minutes = (trio.current_time() - begun_s) / 60
            faults = sum(self.faults.fired.values())
            print(f"{minutes:.0f} min: {self._writer.written:,} calls, {faults} faults", file=sys.stderr)

    async def _tick_for_ever(self) -> None:
        """How late this process is itself: that much later may a call be seen to end."""
        while True:
            due_ns = perf_counter_ns() + int(TICK_S * 1e9)
            await trio.sleep(TICK_S)
            lag_s = (perf_counter_ns() - due_ns) / 1e9
            self.tally.lag_s = max(lag_s, self.tally.lag_s * 0.995)  # halves in seven seconds
