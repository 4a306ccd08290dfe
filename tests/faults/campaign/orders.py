"""Requests to a server outside that counts keys: what was committed arrives, and nothing else.

At least once, all attempts of one under one key, of two never the same. A turn that is refused after it
asked sends nothing, and nobody who runs again sends his first request. The server fails, tears and is slow.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from typing import Final

import orjson
import trio
from tests.delivery.outside import Heard, Outside, answer, outside
from tests.faults.campaign.insisting import Insisting
from tests.faults.campaign.snapshots import FUNCTION, Snapshot

BUYERS: Final = 3
PAUSE_S: Final = 0.1
REFUSED: Final = 0.2  #: of the calls, after they have asked for a request
FAILS, TORN, SLOW = 0.15, 0.1, 0.1
SLOW_S: Final = 0.7


class Orders:
    """Of one run. `serve` as long as anything is under way."""

    def __init__(self, insisting: Insisting, run: str, dice: random.Random) -> None:
        self.counts: Counter[str] = Counter()
        self.keys: Sequence[str] = [f"{run}-buyer-{number}" for number in range(BUYERS)]
        self._insisting = insisting
        self._dice = dice
        self._ordered: dict[str, Counter[str]] = {key: Counter() for key in self.keys}
        self._asked = 0
        self._server: Outside | None = None
        self._arrived: defaultdict[str, set[str]] = defaultdict(set)  #: the keys of each token
        self._read = 0  #: of what the server has heard
        self._tokens: dict[str, str] = {}  #: by key

    @property
    def served(self) -> bool:
        return self._server is not None

    async def serve(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        async with outside(self._behave) as self._server:
            task_status.started()
            await trio.sleep_forever()

    async def _behave(self, _: Heard, stream: trio.abc.Stream) -> None:
        dice = self._dice.random()
        if dice < TORN:
            return
        if dice < TORN + SLOW:
            await trio.sleep(SLOW_S)
        await stream.send_all(answer(503 if dice > 1 - FAILS else 200))

    async def order_for_ever(self, stop: trio.Event) -> None:
        assert self._server is not None
        url = f"http://127.0.0.1:{self._server.port}/"
        while not stop.is_set():
            buyer, refused = self._dice.choice(self.keys), self._dice.random() < REFUSED
            self._asked += 1
            token = f"{'never' if refused else 'order'}{self._asked}"
            asked = {"url": url, "token": token, "refused": refused}
            path = f"/v1/call/{FUNCTION}/{buyer}/order"
            if await self._insisting.request(path, asked, 422 if refused else 200) and not refused:
                self._ordered[buyer][token] += 1
                self.counts["orders"] += 1
            await trio.sleep(PAUSE_S * self._dice.uniform(0.5, 1.5))

    def faults_of(self, snapshot: Snapshot) -> Iterator[str]:
        for buyer in self.keys:
            state = snapshot.states.get(buyer, {"ordered": 0, "answered": 0})
            way = snapshot.requests[buyer]
            way += sum((each.key, each.handler) == (buyer, "answered") for each in snapshot.messages)
            if state["ordered"] != state["answered"] + way:
                yield f"{buyer}: {state['ordered']} ordered, {state['answered']} answered, {way} under way"
        yield from self._strange()

    def _strange(self) -> Iterator[str]:
        """Of what has been heard since the last look."""
        news = [] if self._server is None else self._server.heard[self._read :]
        self._read += len(news)
        for heard in news:
            token = orjson.loads(heard.body)["token"]
            self._arrived[token].add(heard.key)
            if token.startswith("never"):
                yield f"{token} was not committed, and has arrived"
            if len(self._arrived[token]) > 1:
                yield f"{token} has arrived under {len(self._arrived[token])} keys"
            if self._tokens.setdefault(heard.key, token) != token:
                yield f"{token} and {self._tokens[heard.key]} have arrived under one key"

    def unlike_asked(self, snapshot: Snapshot) -> Iterator[str]:
        """When all has come to its end."""
        yield from self._strange()
        for buyer, ordered in self._ordered.items():
            if missing := ordered.keys() - self._arrived.keys():
                yield f"{buyer}: {sorted(missing)[:3]} of {len(ordered)} have never arrived"
            has = snapshot.states.get(buyer, {"ordered": 0})["ordered"]
            if has != len(ordered):
                yield f"{buyer} has ordered {has}, and was asked for {len(ordered)}"
