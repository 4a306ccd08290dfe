"""Entities that talk by messages, beside the clients: what is asked of them, and whether it came out.

Each call has a key and is repeated until it is answered: what was asked is known, and so is how it must
end. Meanwhile the database is looked at, all of it in one snapshot. A chain or a program that has ended is
looked at once more and must never change again. When the faults are over all must come to its end within
a bound, with nothing left under way.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from time import perf_counter_ns
from typing import Any, Final

import attrs
import psycopg
import trio
from tests.faults.campaign.chimes import Chimes
from tests.faults.campaign.clockwork import program_of
from tests.faults.campaign.insisting import Door, Insisting
from tests.faults.campaign.naps import Naps
from tests.faults.campaign.orders import Orders
from tests.faults.campaign.outside import Outside
from tests.faults.campaign.snapshots import (
    FUNCTION,
    OPENING,
    REFUSED,
    Cast,
    Snapshot,
    chain_ended,
    faults_of,
    players,
    program_ended,
    strangers,
    take,
    unlike_foretold,
)

#: Leases run out, who has failed waits a little, and the machine may be slow.
DRAIN_S: Final = 45.0
ACCOUNTS: Final = 12
SPREADERS: Final = 2
CHAINS: Final = 2  #: at a time
PAYERS: Final = 3
CLOCKS: Final = 4  #: programs at a time
MOST_PAID: Final = 200
DELAYED: Final = 0.2  #: of the payments
MISDIRECTED: Final = 0.03  #: as often as there are payments: a dead letter that must be
PAUSE_S: Final = 0.03  #: of who asks, between two calls
MOST_NUMBERS: Final = 4  #: at once to everybody
SPREAD_S: Final = 1.0  #: between two times


@attrs.frozen
class Wrong:
    sentence: str
    seen_ns: int


@attrs.frozen
class Payment:
    source: str
    target: str
    amount: int


class Talking:
    """All of a run that goes by messages."""

    def __init__(
        self,
        doors: Sequence[Door],
        database_url: str,
        run: str,
        *,
        hops: int,
        crowd: int,
        look_s: float,
        sends_only: bool = False,
    ) -> None:
        """`sends_only`: of the effects; without topics, forwards and messages from outside."""
        self.wrong: list[Wrong] = []
        self.counts: Counter[str] = Counter()
        self.drained_s: float | None = None
        self._sends_only = sends_only
        self._database_url = database_url
        self._run = run
        self._dice = random.Random(f"talking {run}")
        self._insisting = Insisting(doors, self._dice, self._note)
        self._outside = Outside(self._insisting, run, self._dice)
        self._naps = Naps(self._insisting, doors, run, self._dice)
        self._chimes = Chimes(database_url)
        self._orders = Orders(self._insisting, run, self._dice)
        self._hops = hops
        self._look_s = look_s
        self._cast = Cast(
            [f"{run}-account-{number}" for number in range(ACCOUNTS)],
            [f"{run}-spreader-{number}" for number in range(SPREADERS)],
            [f"crowd-{number}" for number in range(crowd)],
            publishers=[f"{run}-publisher"],
            others=[
                *self._outside.keys,
                *self._naps.keys,
                *self._chimes.keys,
                *self._orders.keys,
            ],
        )
        self._asked: Counter[str] = Counter()
        self._payments: list[Payment] = []
        self._ended: set[str] = set()  #: programs that ask no more
        self._told: Counter[str] = Counter()  #: by spreader, how often it was to tell everybody
        self._left: dict[str, Mapping[str, Any] | None] = {}  #: who has ended, and what was left
        self._looking = trio.Lock()

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """The world outside, as long as anything is under way; with it schedules and those who nap too."""
        await self._orders.serve(task_status)

    async def run(self, stop: trio.Event) -> None:
        """Ask and look until it is time to stop, and what was begun is asked."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._look_for_ever)
            async with trio.open_nursery() as asking:
                for _ in range(PAYERS):
                    asking.start_soon(self._pay, stop)
                for _ in range(CHAINS):
                    asking.start_soon(self._play, stop)
                for _ in range(CLOCKS):
                    asking.start_soon(self._wind, stop)
                asking.start_soon(self._spread, stop)
                if not self._sends_only:
                    asking.start_soon(self._publish, stop)
                    asking.start_soon(self._outside.send_for_ever, stop)
                    asking.start_soon(self._outside.forward_for_ever, stop)
                if self._orders.served:
                    asking.start_soon(self._chimes.set_back_for_ever, stop)
                    asking.start_soon(self._orders.order_for_ever, stop)
                    for napper in self._naps.nappers:
                        asking.start_soon(self._naps.tell_for_ever, napper, stop)
            nursery.cancel_scope.cancel()

    async def drain(self) -> None:
        """Everything comes to its end within a bound, and what is left is what was to be."""
        begun_s = trio.current_time()
        snapshot: Snapshot | None = None
        with trio.move_on_after(DRAIN_S) as waiting:
            while snapshot is None or snapshot.under_way or self._cast.chains or self._cast.programs:
                if self.wrong:
                    return
                snapshot = await self.look()
                await trio.sleep(0.05)
        if waiting.cancelled_caught or snapshot is None:
            self._note(f"{DRAIN_S:g} s after the last fault {self._remnant(snapshot)}")
            return
        self.drained_s = trio.current_time() - begun_s
        everything = await trio.to_thread.run_sync(take, self._database_url)
        for sentence in self._unlike_asked(everything):
            self._note(sentence)

    def _remnant(self, snapshot: Snapshot | None) -> str:
        if snapshot is None:
            return "the database cannot be read"
        names = [*self._cast.chains, *self._cast.programs]
        return f"{snapshot.under_way} messages are under way, and {names[:3]} have not ended"

    def _unlike_asked(self, snapshot: Snapshot) -> Iterator[str]:
        told = sum(snapshot.states.get(key, {}).get("unknown", 0) for key in self._cast.accounts)
        if snapshot.misdirected + told != (lost := self.counts["sent to nobody"]):
            yield f"{snapshot.misdirected} dead letters and {told} answers, {lost} were sent to nobody"
        self.counts["dead letters"] = snapshot.misdirected
        balances = dict.fromkeys(self._cast.accounts, OPENING)
        for each in self._payments:
            if each.amount % REFUSED:
                balances[each.source] -= each.amount
                balances[each.target] += each.amount
        for key, balance in balances.items():
            if (has := snapshot.states.get(key, {"balance": OPENING})["balance"]) != balance:
                yield f"{key} has {has}, not {balance}"
        for key in self._cast.crowd:
            heard = snapshot.states.get(key, {"heard": {}})["heard"]
            if heard != self._told:
                yield f"{key} has heard {heard}, and was told {dict(self._told)}"
        yield from self._outside.unlike_asked(snapshot)
        yield from self._naps.unlike_asked(snapshot)
        yield from self._orders.unlike_asked(snapshot)
        for key, state in self._left.items():
            if snapshot.states.get(key) != state:
                yield f"{key} had ended, and has changed: {snapshot.states.get(key)} after {state}"

    # What is asked.

    async def _pay(self, stop: trio.Event) -> None:
        while not stop.is_set():
            source, target = self._dice.sample(self._cast.accounts, 2)
            amount = self._dice.randint(1, MOST_PAID)
            asked: dict[str, Any] = {"to": target, "amount": amount}
            if self._dice.random() < DELAYED:
                asked["delay"] = f"{self._dice.randint(1, 300)}ms"
            if await self._insist(source, "pay", asked):
                self._payments.append(Payment(source, target, amount))
                self.counts["payments"] += 1
            if self._dice.random() < MISDIRECTED:
                await self._insist(source, "misdirect", {"to": target})
                self.counts["sent to nobody"] += 1
            await self._pause(PAUSE_S)

    async def _play(self, stop: trio.Event) -> None:
        while not stop.is_set():
            chain = f"{self._run}-{self._number('ball')}"
            self._cast.chains[chain] = self._hops
            first, other = players(chain)
            await self._insist(first, "hop", {"left": self._hops, "to": other})
            while chain in self._cast.chains and not stop.is_set():  # noqa: ASYNC110 (a look decides)
                await trio.sleep(0.2)

    async def _wind(self, stop: trio.Event) -> None:
        while not stop.is_set():
            program = program_of(f"{self._run}-{self._number('clock')}")
            self._cast.programs[program.clock] = program
            for handler, asked in program.instructions:
                await self._insist(program.clock, handler, asked)
                await self._pause(PAUSE_S * 2)
            self._ended.add(program.clock)

    async def _spread(self, stop: trio.Event) -> None:
        while not stop.is_set():
            for spreader in self._cast.spreaders:
                numbers = self._dice.randint(1, MOST_NUMBERS)
                self._told[spreader] += numbers
                await self._insist(spreader, "spread", {"to": len(self._cast.crowd), "numbers": numbers})
                self.counts["messages to everybody"] += numbers
            await self._pause(SPREAD_S)

    async def _publish(self, stop: trio.Event) -> None:
        (publisher,) = self._cast.publishers
        for key in self._cast.crowd:
            await self._insist(key, "join", {"topic": publisher})
        while not stop.is_set():
            numbers = self._dice.randint(1, MOST_NUMBERS)
            self._told[publisher] += numbers
            await self._insist(publisher, "spread", {"topic": publisher, "numbers": numbers})
            self.counts["publications"] += numbers
            await self._pause(SPREAD_S)

    def _number(self, name: str) -> str:
        self._asked[name] += 1
        return f"{name}{self._asked[name]}"

    async def _pause(self, about_s: float) -> None:
        await trio.sleep(about_s * self._dice.uniform(0.5, 1.5))

    async def _insist(self, key: str, handler: str, asked: object) -> Any:
        return await self._insisting.ask(f"/v1/call/{FUNCTION}/{key}/{handler}", asked)

    # What is seen.

    async def _look_for_ever(self) -> None:
        while True:
            await trio.sleep(self._look_s)
            await self.look()

    async def look(self) -> Snapshot | None:
        """All of it at one moment. None: the database is away."""
        async with self._looking:
            cast, asked = self._cast.copy(), set(self._ended)
            acknowledged, begun = self._outside.acknowledged(), self._chimes.begun()
            try:
                keys = sorted(cast.keys)
                snapshot = await trio.to_thread.run_sync(take, self._database_url, keys)
            except psycopg.Error:
                return None
            self.counts["snapshots"] += 1
            self.counts["seen under way"] += snapshot.under_way
            self.counts |= self._outside.counts | self._naps.counts | self._orders.counts
            self.counts["minutes that struck"] = self._chimes.counted(snapshot)
            for sentence in (
                *faults_of(snapshot, cast),
                *strangers(snapshot, self._cast.keys),
                *self._outside.faults_of(snapshot, acknowledged),
                *self._naps.faults_of(snapshot),
                *self._chimes.faults_of(snapshot, begun),
                *self._orders.faults_of(snapshot),
            ):
                self._note(sentence)
            self._dismiss(snapshot, cast, asked)
            return snapshot

    def _dismiss(self, snapshot: Snapshot, cast: Cast, asked: set[str]) -> None:
        """Those who have ended."""
        for chain, length in cast.chains.items():
            if chain_ended(snapshot, chain):
                del self._cast.chains[chain]
                self._left |= {each: snapshot.states.get(each) for each in players(chain)}
                self.counts["chains"] += 1
                self.counts["hops"] += length + 1
        for program in cast.programs.values():
            if program.clock in asked and program_ended(snapshot, program):
                del self._cast.programs[program.clock]
                self._ended.discard(program.clock)
                self._left |= {each: snapshot.states.get(each) for each in (program.clock, program.bell)}
                for sentence in unlike_foretold(snapshot, program):
                    self._note(sentence)
                self._count(snapshot, program.clock, program.bell)

    def _count(self, snapshot: Snapshot, *keys: str) -> None:
        states = [snapshot.states[key] for key in keys if key in snapshot.states]
        self.counts["programs of timers"] += 1
        self.counts["timers that rang"] += sum(len(each["rung"]) for each in states)

    def _note(self, sentence: str) -> None:
        self.wrong.append(Wrong(sentence, perf_counter_ns()))
