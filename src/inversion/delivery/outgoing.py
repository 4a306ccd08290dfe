"""The built-in function `~http`: outgoing requests as messages, at least once, the same key each time.

Claims, leases, pauses and dead letters are those of every message; its "processes" are tasks of this node,
bounded as a whole and for each host. An answer is the function's response, what may be otherwise next time
asks for a retry, what will not is its error. Its requests have a post office of their own: they take no
room from callers. What the end of the node cuts off is another node's at once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from time import perf_counter, time
from typing import Final

import trio

from inversion.config import Config, Function, Http
from inversion.delivery.attempt import Way
from inversion.delivery.hosts import AT_ONCE, Host
from inversion.errors import Code, Crowded, InversionError
from inversion.gate import Bridge
from inversion.mailbox import PostOffice
from inversion.messages import Answer, MessageIn, MessageOut, Request, Response, Turn
from inversion.names import HTTP
from inversion.observe.metrics import Counters
from inversion.protocol.outgoing import (
    Ending,
    Failed,
    Outbound,
    error_of,
    failure_of,
    read_outbound,
    response_of,
    too_large,
)
from inversion.transition import Store

#: Of a node: eight slow hosts leave room for others. Each may hold a body and an answer of limits.body.
_AT_ONCE: Final = 8 * AT_ONCE
#: With those that wait for others to the same host.
MOST: Final = 2 * _AT_ONCE
#: What runs when a node drains may come to its end within this. A longer one is repeated elsewhere, which
#: it must bear anyway.
_GRACE_S: Final = 5.0


class Outgoing:
    """Of one node. `run` it as a task; it is the pool of `~http` and has its post office."""

    batch = 1
    most = MOST

    def __init__(
        self,
        config: Config,
        store: Store,
        counters: Counters,
        on_failure: Callable[[Turn, Exception], None],
        after: Callable[[float, Callable[[], None]], None],
    ) -> None:
        self._functions: dict[str, Function] = {}
        self._most_bytes = config.limits.body_bytes
        self.take_up(config.http)
        self.office = PostOffice(store, {HTTP: self}, self._functions, config.limits, on_failure, after)
        self._counters = counters
        self._slots = trio.Semaphore(_AT_ONCE)
        self._hosts: dict[str, tuple[Host, trio.Semaphore]] = {}
        self._draining = False
        self._waiting: dict[Request, None] = {}
        self._cuts: set[trio.CancelScope] = set()
        self._bridge: Bridge | None = None

    def take_up(self, http: Http) -> None:
        """From the next request on it goes by these."""
        # It has no command; nothing starts it.
        self.function = Function(
            HTTP, (HTTP,), Path(), timeout_s=http.timeout_s, state=False, retry=http.retry
        )
        self._functions[HTTP] = self.function
        self._way = Way(http.allow, http.timeout_s, self._most_bytes)

    @property
    def under_way(self) -> int:
        """How many requests are being made now."""
        return len(self._cuts)

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Serve until cancelled."""
        async with trio.open_nursery() as nursery:
            self._bridge = Bridge(nursery)
            task_status.started()
            await trio.sleep_forever()

    async def drain(self, limit_s: float) -> None:
        """Begin nothing any more, let what runs end for a while, then cut it off."""
        self._draining = True
        for request in list(self._waiting):
            request.answer(Response(error=_draining()))
        with trio.move_on_after(min(_GRACE_S, limit_s)):
            while self._cuts:  # noqa: ASYNC110 (at the end of a node)
                await trio.sleep(0.01)
        for cut in list(self._cuts):
            cut.cancel()

    def begun_s(self, turn: Turn) -> float | None:
        """Its own time limit ends a request: no deadline does."""
        return None

    async def send_message_in(self, message: MessageIn) -> _Sent:
        """For a walk. Raises InversionError for what is to come back later."""
        request = message.turn.requests[0]
        try:
            outbound = read_outbound(request.body, request.id)
        except Failed as failed:
            return _Sent(self, request, self.failure(failed))
        if self._draining:
            raise _draining()
        name = outbound.url.host
        host, _ = self._hosts.setdefault(name, (Host(), trio.Semaphore(AT_ONCE)))
        if host.is_full:
            raise Crowded(name, host.turn_away(perf_counter()))
        host.held += 1
        return _Sent(self, request, outbound)

    async def perform(self, request: Request, outbound: Outbound) -> MessageOut:
        """For a walk: the request as `send_message_in` let it in."""
        assert self._bridge is not None
        return await self._bridge.run(self._perform, request, outbound)

    async def _perform(self, request: Request, outbound: Outbound) -> MessageOut:
        host, slots = self._hosts[outbound.url.host]
        self._waiting[request] = None
        try:
            async with slots, self._slots:
                del self._waiting[request]
                if request.answered or perf_counter() + self.function.timeout_s > request.deadline_s:
                    raise InversionError(Code.DEADLINE, f"it waited too long for {outbound.url.host}")
                return await self._attempt(host, outbound)
        finally:
            self._waiting.pop(request, None)
            host.leave()
            if not host.held:
                del self._hosts[outbound.url.host]

    async def _attempt(self, host: Host, outbound: Outbound) -> MessageOut:
        begun_s = perf_counter()
        with trio.CancelScope() as cut:
            self._cuts.add(cut)
            try:
                return await self._ask(outbound)
            finally:
                self._cuts.discard(cut)
                host.took(perf_counter() - begun_s)
        self._count(Ending.CUT_OFF)
        raise _draining()

    async def _ask(self, outbound: Outbound) -> MessageOut:
        try:
            reply = await self._way.ask(outbound)
            if reply.ending.is_retried:
                self._count(reply.ending)
                return MessageOut([Answer(error=error_of(outbound, reply, time()))])
            response = response_of(reply)
            if len(response) > self._most_bytes:
                raise too_large(outbound, self._most_bytes)
        except Failed as failed:
            return self.failure(failed)
        self._count(reply.ending)
        return MessageOut([Answer(response)])

    def failure(self, failed: Failed) -> MessageOut:
        """The answer to what has none from outside."""
        self._count(failed.ending)
        return MessageOut([Answer(error=failure_of(failed))])

    def _count(self, ending: Ending) -> None:
        self._counters.outgoing[ending] += 1


class _Sent:
    """A request that was let in, or that goes nowhere."""

    def __init__(self, outgoing: Outgoing, request: Request, what: Outbound | MessageOut) -> None:
        self._outgoing = outgoing
        self._request = request
        self._what = what

    async def receive_message_out(self) -> MessageOut:
        if isinstance(self._what, MessageOut):
            return self._what
        return await self._outgoing.perform(self._request, self._what)


def _draining() -> InversionError:
    return InversionError(Code.DRAINING, "the node ends")
