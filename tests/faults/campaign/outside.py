"""Messages from outside and questions that are handed on: each is counted once, by who gets it.

A send is repeated until it is acknowledged, with its key: between what was acknowledged before a look and
what was asked for after it lies what has come or is under way. One of an hour is withdrawn and never comes.
A question that is forwarded gets a number from a counter: each number is told once, and none is left out.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Final

import trio
from tests.faults.campaign.insisting import Insisting
from tests.faults.campaign.snapshots import FUNCTION, Snapshot
from tests.http.front_door import get

MAILBOXES: Final = 3
DELAYED: Final = 0.2
OUTPUTS: Final = 0.3  #: of the sends, that somebody waits for what came of them
WITHDRAWN: Final = 0.1  #: as often as there are sends
PAUSE_S: Final = 0.08
OUTPUT_S: Final = 30.0  #: a run must end though an output never comes


class Outside:
    """Of one run."""

    def __init__(self, insisting: Insisting, run: str, dice: random.Random) -> None:
        self.counts: Counter[str] = Counter()
        self.mailboxes = [f"{run}-mailbox-{number}" for number in range(MAILBOXES)]
        self.counter = f"{run}-counter"
        self._insisting = insisting
        self._dice = dice
        self._asked: Counter[str] = Counter()
        self._sent: Counter[str] = Counter()
        self._outputs: set[tuple[str, int]] = set()
        self._numbers: list[int] = []
        self._wrong: list[str] = []

    async def send_for_ever(self, stop: trio.Event) -> None:
        while not stop.is_set():
            mailbox = self._dice.choice(self.mailboxes)
            delay = f"?delay={self._dice.randint(1, 300)}ms" if self._dice.random() < DELAYED else ""
            self._asked[mailbox] += 1
            answer = await self._insisting.request(f"/v1/send/{FUNCTION}/{mailbox}/poke{delay}", 1, 202)
            if answer is not None:
                self._sent[mailbox] += 1
                self.counts["sends"] += 1
                if self._dice.random() < OUTPUTS:
                    await self._await_output(mailbox, answer.fields["location"])
            if self._dice.random() < WITHDRAWN:
                await self._withdraw(mailbox)
            await self._pause()

    async def _await_output(self, mailbox: str, location: str) -> None:
        """Each poke is told another number."""
        answer = None
        with trio.move_on_after(OUTPUT_S):  # what never comes is seen under way at the end
            answer = await self._insisting.raw(get(f"{location}?wait=5s".encode()), 200)
        if answer is not None:
            output = mailbox, int(answer.body)
            if output in self._outputs:
                self._wrong.append(f"two sends to {mailbox} had the output {output[1]}")
            self._outputs.add(output)
            self.counts["outputs"] += 1

    async def _withdraw(self, mailbox: str) -> None:
        answer = await self._insisting.request(f"/v1/send/{FUNCTION}/{mailbox}/never?delay=1h", 1, 202)
        if answer is not None:
            target = answer.fields["location"].replace("/output/", "/send/", 1)
            request = f"DELETE {target} HTTP/1.1\r\nHost: a\r\n\r\n".encode()
            await self._insisting.raw(request, 200, 204, 404, 410)  # it may have been so the first time
            self.counts["sends withdrawn"] += 1

    async def forward_for_ever(self, stop: trio.Event) -> None:
        while not stop.is_set():
            mailbox = self._dice.choice(self.mailboxes)
            number = await self._insisting.ask(
                f"/v1/call/{FUNCTION}/{mailbox}/ask", {"counter": self.counter}
            )
            if number is not None:
                self._numbers.append(number)
                self.counts["forwards"] += 1
            await self._pause()

    async def _pause(self) -> None:
        await trio.sleep(PAUSE_S * self._dice.uniform(0.5, 1.5))

    def acknowledged(self) -> Counter[str]:
        """Before a look."""
        return Counter(self._sent)

    def faults_of(self, snapshot: Snapshot, acknowledged: Counter[str]) -> Iterator[str]:
        yield from self._wrong
        ways = Counter(each.key for each in (*snapshot.messages, *snapshot.timers) if each.handler == "poke")
        states = [snapshot.states.get(key, {"poked": 0, "asked": 0}) for key in self.mailboxes]
        for key, state in zip(self.mailboxes, states, strict=True):
            least, there, most = acknowledged[key], state["poked"] + ways[key], self._asked[key]
            if not least <= there <= most:
                yield f"{key}: {least} to {most} sends, {state['poked']} have come, {ways[key]} under way"
        asked, told = sum(state["asked"] for state in states), self._told(snapshot)
        if asked != told + (way := sum(each.handler == "number" for each in snapshot.messages)):
            yield f"{asked} questions were handed on, {told} have a number, {way} are under way"

    def unlike_asked(self, snapshot: Snapshot) -> Iterator[str]:
        """When all has come to its end."""
        for key in self.mailboxes:
            if (poked := snapshot.states.get(key, {"poked": 0})["poked"]) != self._sent[key]:
                yield f"{key} was poked {poked} times, {self._sent[key]} were sent"
            if any(mailbox == key and number > poked for mailbox, number in self._outputs):
                yield f"{key} was poked {poked} times, and another output was told"
        told = self._told(snapshot)
        if sorted(self._numbers) != list(range(1, told + 1)):
            yield f"{told} numbers were given, and the callers were told {len(set(self._numbers))} of them"

    def _told(self, snapshot: Snapshot) -> int:
        return int(snapshot.states.get(self.counter, {"numbers": 0})["numbers"])

    @property
    def keys(self) -> Sequence[str]:
        return [*self.mailboxes, self.counter]
