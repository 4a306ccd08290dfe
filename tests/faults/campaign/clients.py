"""HTTP clients that write the history: each asks, notes what it was told, and asks on.

What was not sent is no operation. A keyed call whose outcome is unknown is sent again, the same bytes with
the same key, until it is known; one that is known is now and then sent again too, or its key is taken for
something else. Half of the clients stay with one node while it is up: what one node waits for, others go
past. A client that hears nothing for longer than the call may take, and a second, notes that: `late`.
"""

from __future__ import annotations

import random
from collections import Counter
from time import perf_counter_ns
from typing import Final
from urllib.parse import quote

import attrs
import msgspec
import orjson
import trio
from tests.faults.campaign.asking import Asking, Wanted
from tests.faults.campaign.nodes import Node, connect
from tests.faults.history.models import DRAW, STATE
from tests.faults.history.operation import HistoryWriter, Json, Operation, Outcome, refused
from tests.faults.history.programs import Run, Told, program_of
from tests.http.front_door import Answer, Client, EndOfAnswers, get, post

#: A call ends with its deadline, and a second for the way.
LATE_S: Final = 1.0
#: Nothing is waited for longer: a node that was stopped may be so for half a minute.
PATIENCE_S: Final = 12.0
REPEATED: Final = 0.1  #: of the keyed calls that were answered
AT_ONCE: Final = 0.05  #: of the keyed calls are sent twice at the same time
DRAWN_AT_ONCE: Final = 0.25  #: of draws: two must race to be kept
TAKEN_AGAIN: Final = 0.03  #: of the keys that were answered, for another message
MOST_TRIES: Final = 40  #: half a minute and more
#: Answers of ours that were computed from a state, as a function's refusals are.
COMPUTED: Final = ("version_mismatch", "no_state")
#: Nobody asks so here: a workload that is refused at the door proves nothing.
WRONGLY_ASKED: Final = (400, 404, 405, 413, 415)


@attrs.define
class Tally:
    """What the clients of a run heard, beside the history."""

    codes: Counter[str] = attrs.field(factory=Counter)
    late: list[str] = attrs.field(factory=list)
    strange: list[str] = attrs.field(factory=list)
    in_flight: dict[int, Operation] = attrs.field(factory=dict)  #: as unknown as they are
    unsent: int = 0
    torn: int = 0
    landed: int = 0  #: unknown, and the repeated key showed that it had been applied
    not_landed: int = 0  #: unknown, and the repeated key was applied then
    never_told: int = 0
    ended: int = 0  #: programs
    given_up: int = 0  #: programs: for too long it was not known what came of a call
    #: By node and function: when the latest call was sent that was answered with 200.
    good_ns: dict[tuple[str, str], int] = attrs.field(factory=dict)
    lag_s: float = 0.0  #: how late this process itself was, at worst, within the last seconds


class NotSent(Exception):
    """Nobody can have heard of it."""


class CallingClient:
    """One of many; one call at a time."""

    def __init__(
        self,
        name: str,
        nodes: list[Node],
        asking: Asking,
        history: HistoryWriter,
        tally: Tally,
        home: Node | None = None,
    ) -> None:
        self.name = name
        self.tear = 0  #: so many of the next calls are torn off when they are sent
        self._nodes = nodes
        self._home = home
        self._asking = asking
        self._history = history
        self._tally = tally
        self._dice = random.Random(name)
        self._connections: dict[str, tuple[str, Client]] = {}  #: by node: its URL then

    async def run(self, stop: trio.Event, pause_s: float) -> None:
        while not stop.is_set():
            program = self._asking.program(self.name)
            if program is not None:
                await self.run_program(program)
            else:
                await self.fulfil(self._asking.next(self.name))
            if pause_s:
                await trio.sleep(self._dice.random() * 2 * pause_s)
        await self.aclose()

    async def fulfil(self, wanted: Wanted) -> None:
        """Ask until it is known, if it has a key; else once."""
        await self._perhaps_at_once(wanted)
        was_unknown = False
        for tries in range(MOST_TRIES):
            told = await self.ask(wanted, self._node())
            if told is None or wanted.key is None:
                return
            operation, replayed = told
            if operation.outcome is Outcome.UNKNOWN:
                was_unknown = True
            elif operation.ran:
                if was_unknown:
                    self._tally.landed += replayed
                    self._tally.not_landed += not replayed
                was_unknown = False
                if self._dice.random() < TAKEN_AGAIN:
                    await self.ask(self._asking.something_else(wanted), self._node())
                if self._dice.random() > REPEATED:
                    return
            elif not was_unknown and self._dice.random() < 0.5:
                return
            await self._pause(tries)
        self._tally.never_told += was_unknown

    async def run_program(self, entity: str) -> None:
        """From its beginning to its end."""
        run = Run(program_of(entity))
        while (message := run.next()) is not None:
            told = await self._insist(self._asking.of_program(entity, message))
            if told is None:
                self._tally.given_up += 1
                return
            run.hear(Told(told.answer, told.version or 0))
        self._tally.ended += 1

    async def _insist(self, wanted: Wanted) -> Operation | None:
        """Ask until it is known; what has no key must be nothing but a look."""
        await self._perhaps_at_once(wanted)
        was_unknown = False
        for tries in range(MOST_TRIES):
            operation, replayed = await self.ask(wanted, self._node()) or (None, False)
            if operation is None:
                pass
            elif operation.outcome is Outcome.UNKNOWN:
                was_unknown = wanted.key is not None
            elif operation.ran:
                self._tally.landed += was_unknown and replayed
                self._tally.not_landed += was_unknown and not replayed
                if wanted.key is not None and self._dice.random() < REPEATED:
                    await self.ask(wanted, self._node())
                if wanted.key is not None and self._dice.random() < TAKEN_AGAIN:
                    await self.ask(self._asking.something_else(wanted), self._node())
                return operation
            await self._pause(tries)
        self._tally.never_told += was_unknown
        return None

    async def _perhaps_at_once(self, wanted: Wanted) -> None:
        at_once = DRAWN_AT_ONCE if wanted.kind == DRAW else AT_ONCE
        if wanted.key is not None and self._dice.random() < at_once:
            async with trio.open_nursery() as nursery:
                for _ in range(2):
                    nursery.start_soon(self.ask, wanted, self._node())

    async def _pause(self, tries: int) -> None:
        await trio.sleep(min(0.5, 0.02 * 1.5**tries) * self._dice.uniform(0.5, 1.5))

    def _node(self) -> Node:
        if self._home is not None and self._home.up:
            return self._home
        return self._dice.choice([node for node in self._nodes if node.up] or self._nodes)

    async def ask(self, wanted: Wanted, node: Node) -> tuple[Operation, bool] | None:
        """Send it once and note what came of it. None: it was not sent."""
        invoked_ns = perf_counter_ns()
        begun = Operation(
            self.name,
            wanted.entity,
            wanted.kind,
            wanted.input,
            invoked_ns,
            None,
            Outcome.UNKNOWN,
            key=wanted.key,
            if_match=wanted.if_match,
            node=f"{node.name}.{node.lives}",
            none_match=wanted.none_match,
        )
        self._tally.in_flight[id(begun)] = begun
        try:
            tried = await self._exchange(node, wanted)
        except NotSent:
            self._tally.unsent += 1
            await trio.sleep(0.05)
            return None
        finally:
            del self._tally.in_flight[id(begun)]
        completed_ns = perf_counter_ns()
        took_s = (completed_ns - invoked_ns) / 1e9
        if (
            took_s > wanted.timeout_ms / 1e3 + LATE_S + self._tally.lag_s
            and node.disturbed_ns < invoked_ns
            and not self.tear
        ):
            told = "nothing" if tried is None else f"{tried.status}"
            self._tally.late.append(
                f"{node.name}: {wanted.kind} of {wanted.entity}: {told} after {took_s:.1f} s"
            )
        outcome, answer, version = self._read(tried, wanted)
        ended_ns = None if outcome is Outcome.UNKNOWN else completed_ns
        operation = msgspec.structs.replace(
            begun, completed_ns=ended_ns, outcome=outcome, answer=answer, version=version
        )
        self._history.write(operation)
        wanted.slot.heard(wanted.entity, version)
        if tried is not None and tried.status == 200:
            place = node.name, wanted.entity.partition("/")[0]
            self._tally.good_ns[place] = max(invoked_ns, self._tally.good_ns.get(place, 0))
        return operation, tried is not None and tried.fields.get("inversion-replayed") == "true"

    async def _exchange(self, node: Node, wanted: Wanted) -> Answer | None:
        """The answer; None when there was none."""
        with trio.move_on_after(PATIENCE_S):
            url, client = await self._connection(node)
            try:
                await client.stream.send_all(_request(wanted))
                if self.tear:
                    self.tear -= 1
                    self._tally.torn += 1
                    return None
                answer = await client.answer()
                if answer.fields.get("connection") != "close" and node.name not in self._connections:
                    self._connections[node.name] = url, client
                return answer
            except (OSError, trio.BrokenResourceError, EndOfAnswers):
                return None
            finally:
                if self._connections.get(node.name, ("", None))[1] is not client:
                    await client.aclose()
        return None

    async def _connection(self, node: Node) -> tuple[str, Client]:
        """The one to this life of the node, or a new one."""
        url, client = self._connections.pop(node.name, ("", None))
        if client is not None:
            if url == node.url:
                return url, client
            await client.aclose()
        url = node.url
        try:
            return url, await connect(url)
        except OSError:
            raise NotSent from None

    async def aclose(self) -> None:
        for _, client in self._connections.values():
            await client.aclose()

    def _read(self, answer: Answer | None, wanted: Wanted) -> tuple[Outcome, Json, int | None]:
        """What an answer says of the entity."""
        if answer is None:
            self._tally.codes["no answer"] += 1
            return Outcome.UNKNOWN, None, None
        etag = answer.fields.get("etag")
        version = 0 if etag is None else int(etag.strip('"'))
        body = orjson.loads(answer.body)
        if answer.status == 200:
            self._tally.codes["200"] += 1
            if (etag is None) is (wanted.kind != DRAW) or answer.fields["inversion-outcome"] != "applied":
                self._tally.strange.append(f"200 with {answer.fields}")
            return Outcome.APPLIED, body, version
        code = body["code"]
        self._tally.codes[code] += 1
        if body["source"] == "function" or code in COMPUTED:
            return Outcome.NOT_APPLIED, refused(code), version
        if answer.status in WRONGLY_ASKED or (code == "key_reused" and not wanted.refused):
            self._tally.strange.append(f"{wanted.kind} of {wanted.entity}: {answer.body!r}")
        outcome = Outcome(body["outcome"])
        if outcome is Outcome.APPLIED:
            self._tally.strange.append(f"applied, and no answer: {answer.body!r}")
            outcome = Outcome.UNKNOWN
        return outcome, None, None


def _request(wanted: Wanted) -> bytes:
    function, _, key = wanted.entity.partition("/")
    path = function if wanted.kind == DRAW else f"{function}/{quote(key, safe='')}"
    if wanted.kind == STATE:
        return get(f"/v1/state/{path}".encode())
    lines = [b"Content-Type: application/json", b"Inversion-Timeout: %dms" % wanted.timeout_ms]
    if wanted.key is not None:
        lines.append(b"Idempotency-Key: " + wanted.key.encode())
    if wanted.if_match is not None:
        lines.append(b'If-Match: "%d"' % wanted.if_match)
    if wanted.none_match:
        lines.append(b"If-None-Match: *")
    return post(f"/v1/call/{path}/{wanted.kind}".encode(), orjson.dumps(wanted.input), *lines)
