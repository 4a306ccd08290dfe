"""Messages from the outbox to the mailboxes of this node, each until its turn was committed or it is put off.

What is born here leased goes to its mailbox at once (`born`); the rest is claimed: polling is the truth, a
stir only hurries it. A message is a request that nobody waits for; its answer says what becomes of it:
consumed with the turn, put off (not its fault), failed (the retry policy decides), or buried.
One trio task with a connection of its own does all that is asked of the database, gathered.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import perf_counter, time_ns
from typing import Final, assert_never

import attrs
import trio

from inversion import json_text, last_words
from inversion.calls import SpokenPool, rfc3339
from inversion.config import Function
from inversion.delivery.aftermath import (
    AWAY_PAUSE_S,
    BUSY_PAUSE_S,
    fails,
    has_not_begun,
    pause_s,
    retry_after_s,
    status_of,
    words_of,
)
from inversion.delivery.built_in import BuiltIn
from inversion.delivery.fan_out import FanOut
from inversion.delivery.pace import Pace
from inversion.errors import Code, InversionError, RequestRefused
from inversion.ids import new_id, new_turn_id
from inversion.mailbox import PostOffice
from inversion.messages import Address, Delivery, Request, Response
from inversion.names import TOPIC
from inversion.observe import logs
from inversion.observe.metrics import Counters
from inversion.protocol.retrying import Again, GiveUp, after_failure
from inversion.state.consequence_rows import LEASE_MS
from inversion.state.consequences import UNASKED
from inversion.state.dialing import ConnectionLost, UnfitServer
from inversion.state.lane import Backoff, Knocking
from inversion.state.outbox import MOST, Backlog, Burial, Outbox, PutOff
from inversion.state.postgres import StatementFailed

#: Between two looks for what is due when nothing stirs: half of what a timer may be late.
POLL_S: Final = 0.05
#: How often what waits is counted for /metrics.
_COUNT_S: Final = 5.0
_RENEW_S: Final = LEASE_MS / 3_000
#: How much longer than its function may run a message may wait in this node.
_PATIENCE_S: Final = 30.0
#: How long the end of a node waits for its leases to be given back.
_FAREWELL_S: Final = 2.0
_log = logs.get_logger("messages")


@attrs.define(slots=True, eq=False)
class _Held:
    """A message that this node has."""

    delivery: Delivery
    pace: Pace  #: of its function
    held_s: float
    renewed_s: float
    request: Request | None = None


class Dispatcher:
    """Of one node. `run` it as a task; it is the `Births` of the store."""

    def __init__(
        self,
        conninfo: str,
        functions: Mapping[str, Function],
        office: PostOffice,
        pools: Mapping[str, SpokenPool],
        counters: Counters,
        knocking: Knocking,
        built_ins: Mapping[str, BuiltIn] | None = None,
    ) -> None:
        self.node = new_turn_id()
        self.hint: Callable[[Address, str], None] = lambda target, id_: None  #: told of answers to outside
        self.backlog: Mapping[str, Backlog] = {}
        self._conninfo = conninfo
        self._functions = functions  # a reload changes it
        self._office = office
        self._pools = pools
        self._counters = counters
        self._built_ins = built_ins or {}
        self._knocking = knocking  #: of the store: one node's tries stand in one line
        self._fan_out = FanOut(conninfo, self.node, counters, knocking, self.stir, self._return)
        self._held: dict[_Held, None] = {}
        self._paces: dict[str, Pace] = {}
        self._put_off: list[PutOff] = []
        self._burials: list[Burial] = []
        self._wake = trio.Event()
        self._draining = False
        self._counted_s = 0.0

    @property
    def held(self) -> int:
        """How many messages this node has now."""
        return len(self._held)

    @property
    def publications(self) -> int:
        """How many publications it brings to their subscribers now."""
        return self._fan_out.held

    def admits(self, function: str) -> bool:
        """Whether a message to it may be born leased by this node: others do not wait before it."""
        if self._draining or not (function in self._functions or function in self._built_ins):
            return False
        pace = self._pace(function)
        return not pace.more and pace.held < pace.most

    def born(self, deliveries: Sequence[Delivery]) -> None:
        """They were committed, leased by this node."""
        now_s = perf_counter()
        for delivery in deliveries:
            self._deliver(delivery, now_s)

    def stir(self) -> None:
        """Something that is due was committed without a lease."""
        self._wake.set()

    async def run(self) -> None:
        """Serve until cancelled; a database that is away is tried again."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._fan_out.run)
            await self._run()

    async def _run(self) -> None:
        backoff = Backoff()
        while True:
            await self._knocking.turn()
            try:
                outbox = await Outbox.open(self._conninfo, self.node)
            except (ConnectionLost, StatementFailed, UnfitServer) as failure:
                self._knocking.failed(failure, "no database")
                continue
            self._knocking.succeeded()
            try:
                while True:
                    await self._serve(outbox)
                    backoff.reset()
            except ConnectionLost:
                await backoff.pause()
            except StatementFailed as failure:
                _log.error("messages_refused_by_the_database", reason=str(failure))
                await backoff.pause()
            finally:
                outbox.close()

    def drain(self) -> None:
        """Claim no more, give back what has not begun. What runs comes to its end; see `farewell`."""
        self._draining = True
        self._fan_out.drain()
        for held in list(self._held):
            request = held.request
            if request is not None and not request.answered and has_not_begun(request):
                request.answer(Response(error=InversionError(Code.DRAINING, "the node ends")))
        self._wake.set()

    async def farewell(self) -> None:
        """Wait until nothing is held any more and everything was said to the database, for a while."""
        with trio.move_on_after(_FAREWELL_S):
            while self._held or self._put_off or self._burials:
                self._wake.set()
                await trio.sleep(0.01)

    async def _serve(self, outbox: Outbox) -> None:
        """One round: what was decided meanwhile, then what is due."""
        self._wake = trio.Event()
        now_s = perf_counter()
        await self._tell(outbox)
        await self._renew(outbox, now_s)
        full = False
        if not self._draining:
            full = await self._claim(outbox, now_s)
        if now_s - self._counted_s >= _COUNT_S:
            self._counted_s = now_s
            self.backlog = await outbox.backlog([*self._functions, *self._built_ins, TOPIC])
        if not full:
            with trio.move_on_after(POLL_S):
                await self._wake.wait()

    async def _tell(self, outbox: Outbox) -> None:
        while self._put_off:
            telling = self._put_off[:MOST]
            await outbox.put_off(telling)
            del self._put_off[: len(telling)]
        while self._burials:
            burial = self._burials[0]
            if await outbox.bury(burial):
                self._note_dead(burial.delivery, burial.error)
                self.hint(burial.delivery.target, burial.delivery.id)
            del self._burials[0]

    async def _renew(self, outbox: Outbox, now_s: float) -> None:
        due = [held for held in self._held if now_s - held.renewed_s >= _RENEW_S]
        publications = self._fan_out.renewals(now_s)
        if due or publications:
            await outbox.renew([*(held.delivery for held in due), *publications])
            for held in due:
                held.renewed_s = now_s

    async def _claim(self, outbox: Outbox, now_s: float) -> bool:
        """Whether there may be more to take at once, of some function."""
        rooms = {}
        for name in (*self._functions, *self._built_ins):
            pace = self._pace(name)
            pace.look(now_s)
            if room := min(pace.room(now_s), MOST):
                rooms[name] = room
        counts = dict.fromkeys(rooms, 0)
        if room := self._fan_out.room:
            rooms[TOPIC] = room
        if not rooms:
            return False
        claimed = await outbox.claim(rooms)
        now_s = perf_counter()
        for delivery in claimed:
            if delivery.target.function == TOPIC:
                self._fan_out.take(delivery)
            else:
                counts[delivery.target.function] += 1
                self._deliver(delivery, now_s)
        self._counters.messages_claimed += len(claimed)
        full = outbox.displaced > 0
        for name, count in counts.items():
            pace = self._pace(name)
            pace.more = count >= rooms[name]
            full = full or (pace.more and pace.room(now_s) > 0)
        return full

    def _return(self, given_back: PutOff) -> None:
        self._put_off.append(given_back)
        self._wake.set()

    def _pace(self, function: str) -> Pace:
        pace = self._paces.get(function)
        if pace is None:
            built_in = self._built_ins.get(function)
            queues = self._office.limits.queue
            pace = Pace.within(queues) if built_in is None else Pace(least=built_in.most)
            self._paces[function] = pace
        return pace

    def _deliver(self, delivery: Delivery, now_s: float) -> None:
        """To its mailbox, or back to where it came from."""
        name = delivery.target.function
        pace = self._pace(name)
        held = _Held(delivery, pace, now_s, now_s)
        self._held[held] = None
        pace.held += 1
        function = self._function(name)
        if function is None or self._draining or pace.held > pace.limit:
            self._settle(held, PutOff(delivery, 0.0))
            return
        try:
            self._admit(function, delivery)
        except RequestRefused as refusal:
            self._settle(held, self._burial(delivery, refusal.code.wire, refusal.detail, refusal.code.status))
            return
        held.request = request = self._request(held, function)
        built_in = self._built_ins.get(name)
        try:
            (self._office if built_in is None else built_in.office).post(request)
        except RequestRefused:  # a queue is full
            pace.paused_until_s = now_s + BUSY_PAUSE_S
            self._settle(held, PutOff(delivery, BUSY_PAUSE_S))

    def _function(self, name: str) -> Function | None:
        built_in = self._built_ins.get(name)
        return self._functions.get(name) if built_in is None else built_in.function

    def _admit(self, function: Function, delivery: Delivery) -> None:
        """Raises RequestRefused for what no attempt will change, short of a deploy."""
        pool = self._pools.get(function.name)
        hello = None if pool is None else pool.hello
        if hello is None:
            return
        if hello.handlers is not None and delivery.handler not in hello.handlers:
            raise RequestRefused(
                Code.NO_HANDLER, f"function {function.name} has no handler {delivery.handler!r}"
            )
        if hello.integers == 53:
            json_text.check_integers_53(delivery.body)

    def _request(self, held: _Held, function: Function) -> Request:
        delivery = held.delivery
        now_ms = time_ns() // 1_000_000
        request = Request(
            delivery.id,
            delivery.target,
            delivery.handler,
            delivery.body,
            "application/json",
            held.held_s,
            held.held_s + function.timeout_s + _PATIENCE_S,
            None,
            rfc3339(now_ms),
            rfc3339(now_ms + int(function.timeout_s * 1_000)),
            _seed(delivery),
            None,
            partial(self._answered, held),
        )
        request.attempt = delivery.attempt
        request.delivery = delivery
        return request

    def _answered(self, held: _Held, response: Response) -> None:
        """Its turn has ended, or will not come."""
        error = response.error
        counters = self._counters
        if error is None:
            counters.messages_delivered += 1
            held.pace.done()
            said = response.function_error
            delivery = held.delivery
            if delivery.outside:
                self.hint(delivery.target, delivery.id)
            elif said is not None and delivery.reply_to is None:
                self._note_dead(delivery, last_words.of_answer(said, UNASKED))
            self._settle(held, None)
        elif fails(error):
            counters.messages_failed += 1
            self._settle(held, self._after_failure(held, error))
        else:
            self._settle(held, PutOff(held.delivery, pause_s(error)))

    def _after_failure(self, held: _Held, error: InversionError) -> PutOff | Burial:
        delivery = held.delivery
        function = self._function(delivery.target.function)
        if error.code is Code.TOO_MANY_HOPS:
            return self._burial(delivery, error.code.wire, error.detail, error.code.status)
        if function is None:
            return PutOff(delivery, AWAY_PAUSE_S, failed=True, error=words_of(error, {}))
        verdict = after_failure(
            function.retry,
            failures=delivery.failures + 1,
            age_s=delivery.age_ms / 1_000 + perf_counter() - held.held_s,
            chance=random.random(),
            retry_after_s=retry_after_s(error),
        )
        match verdict:
            case Again(after_s=pause_s):
                return PutOff(delivery, pause_s, failed=True, error=words_of(error, function.env))
            case GiveUp(reason):
                words = words_of(error, function.env, reason)
                return Burial(delivery, words, status_of(error), new_id())
            case _:
                assert_never(verdict)

    def _burial(self, delivery: Delivery, code: str, detail: str, status: int) -> Burial:
        words = last_words.of_refusal(code, detail, "another try would not change it")
        return Burial(delivery, words, status, new_id(), failed=False)

    def _settle(self, held: _Held, then: PutOff | Burial | None) -> None:
        """It is not held any more."""
        del self._held[held]
        held.request = None  # which answers to `held`: freed by count, not by collection
        pace = held.pace
        pace.held -= 1
        if then is None:
            if pace.more and pace.held <= pace.most // 2:
                self._wake.set()
        elif isinstance(then, Burial):
            self._burials.append(then)
            self._wake.set()
        else:
            self._return(then)

    def _note_dead(self, delivery: Delivery, error: bytes) -> None:
        self._counters.messages_dead += 1
        _log.error(
            "dead_letter",
            function=delivery.target.function,
            key=delivery.target.key,
            handler=delivery.handler,
            message=delivery.id,
            sender=delivery.sender,
            attempt=delivery.attempt,
            error=error.decode(errors="replace"),
        )


def _seed(delivery: Delivery) -> str:
    """The same for all attempts; what is forwarded keeps its id, and is another message."""
    named = f"{delivery.id}/{delivery.hops}" if delivery.hops else delivery.id
    return hashlib.sha256(named.encode()).hexdigest()[:16]
