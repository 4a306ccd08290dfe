"""Who sleeps while messages for it come and go: its turn finds one that is gone and one too many.

A teller winds a timer for a napper. While the napper sleeps, on each node, and the timer has been taken
there, the teller cancels it, publishes, and sends the napper a message, all in one turn. What is published
comes later and stands before the message. Each of both is heard once, whatever the number of rows is.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

import orjson
import trio
from tests.faults.campaign.insisting import Door, Insisting
from tests.faults.campaign.snapshots import FUNCTION, Snapshot
from tests.http.front_door import post

NAPPERS: Final = 3
NAP_S: Final = (0.3, 0.8)
#: The other node's, so that what it has taken is still there when the first turn commits.
LONGER_S: Final = 0.4
#: Until a nap has begun, and until a timer that is due has been taken.
BEGUN_S: Final = 0.05
TAKEN_S: Final = 0.12
PAUSE_S: Final = 0.1
WAYS: Final = ("direct", "paper")


class Naps:
    """Of one run."""

    def __init__(self, insisting: Insisting, doors: Sequence[Door], run: str, dice: random.Random) -> None:
        self.counts: Counter[str] = Counter()
        self.nappers = [f"{run}-napper-{number}" for number in range(NAPPERS)]
        self._insisting = insisting
        self._doors = doors
        self._dice = dice
        self._asked: Counter[str] = Counter()

    @property
    def keys(self) -> Sequence[str]:
        return [*self.nappers, *map(teller_of, self.nappers)]

    async def tell_for_ever(self, napper: str, stop: trio.Event) -> None:
        teller = teller_of(napper)
        await self._ask(napper, "join", {"topic": teller, "handler": "awake"})
        while not stop.is_set():
            nap_s = self._dice.uniform(*NAP_S)
            here, *others = self._dice.sample(self._doors, len(self._doors))
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._nap, napper, nap_s, here)
                for other in others:
                    nursery.start_soon(self._nap, napper, nap_s + LONGER_S, other)
                await trio.sleep(BEGUN_S)
                await self._ask(teller, "arm", {"to": napper}, here)
                await trio.sleep(TAKEN_S)
                self._asked[napper] += 1
                await self._ask(teller, "tell", {"to": napper}, here)
            self.counts["naps"] += 1
            await trio.sleep(PAUSE_S * self._dice.uniform(0.5, 1.5))

    async def _nap(self, napper: str, nap_s: float, door: Door) -> None:
        """Without a key: it leaves nothing behind."""
        path, asked = f"/v1/call/{FUNCTION}/{napper}/nap", orjson.dumps(nap_s)
        await self._insisting.raw(
            post(path.encode(), asked, b"Content-Type: application/json"), 200, door=door
        )

    async def _ask(self, key: str, handler: str, asked: object, door: Door | None = None) -> None:
        await self._insisting.request(f"/v1/call/{FUNCTION}/{key}/{handler}", asked, door=door)

    def faults_of(self, snapshot: Snapshot) -> Iterator[str]:
        for napper in self.nappers:
            teller = teller_of(napper)
            told = snapshot.states.get(teller, {"told": 0})["told"]
            heard = snapshot.states.get(napper, dict.fromkeys(WAYS, 0))
            ways = Counter(
                each.body["by"] for each in snapshot.messages if (each.key, each.handler) == (napper, "awake")
            )
            ways["paper"] += snapshot.publications[teller]
            for way in WAYS:
                if heard[way] + ways[way] != told:
                    yield f"{napper} has heard {heard[way]} of {told} ({way}), under way are {ways[way]}"

    def unlike_asked(self, snapshot: Snapshot) -> Iterator[str]:
        """When all has come to its end."""
        for napper in self.nappers:
            heard = snapshot.states.get(napper, dict.fromkeys(WAYS, 0))
            if any(heard[way] != self._asked[napper] for way in WAYS):
                yield f"{napper} was told {self._asked[napper]} times, and has heard {heard}"


def teller_of(napper: str) -> str:
    return f"{napper}-teller"
