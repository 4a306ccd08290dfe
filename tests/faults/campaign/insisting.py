"""Calls that have a key and are repeated until they are answered, by whichever node that is."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any, Final, Protocol

import orjson
import trio
from tests.faults.campaign.nodes import connect
from tests.http.front_door import Answer, EndOfAnswers, post

PATIENCE_S: Final = 12.0  #: for one answer
PAUSE_S: Final = 0.05
#: Nobody's fault: a key in flight, a full queue, a body that came too slowly.
_NOT_NOW: Final = (408, 409, 429)


class Door(Protocol):
    """Of a node."""

    @property
    def url(self) -> str: ...

    @property
    def up(self) -> bool: ...


class Insisting:
    def __init__(self, doors: Sequence[Door], dice: random.Random, note: Callable[[str], None]) -> None:
        self._doors = doors
        self._dice = dice
        self._note = note
        self._calls = 0

    async def ask(self, path: str, asked: object) -> Any:
        """What a call is answered; None: it was refused, and that is noted."""
        answer = await self.request(path, asked)
        return None if answer is None else orjson.loads(answer.body)

    async def request(
        self, path: str, asked: object, good: int = 200, door: Door | None = None
    ) -> Answer | None:
        self._calls += 1
        fields = b"Content-Type: application/json", f"Idempotency-Key: call{self._calls}".encode()
        return await self.raw(post(path.encode(), orjson.dumps(asked), *fields), good, door=door)

    async def raw(self, request: bytes, *good: int, door: Door | None = None) -> Answer | None:
        """The same bytes until they are answered, at `door` first."""
        while True:
            doors = [each for each in self._doors if each.up] or list(self._doors)
            answer = await _exchange(door if door in doors else self._dice.choice(doors), request)
            door = None
            if answer is not None and answer.status in good:
                return answer
            if answer is not None and 300 <= answer.status < 500 and answer.status not in _NOT_NOW:
                self._note(f"{request.partition(b' HTTP')[0]!r} was answered {answer.status} {answer.body!r}")
                return None
            await trio.sleep(PAUSE_S * self._dice.uniform(0.5, 1.5))


async def _exchange(door: Door, request: bytes) -> Answer | None:
    """None: there was no answer."""
    with trio.move_on_after(PATIENCE_S):
        try:
            client = await connect(door.url)
            async with client.stream:
                await client.send(request)
                return await client.answer()
        except (OSError, trio.BrokenResourceError, EndOfAnswers):
            return None
    return None
