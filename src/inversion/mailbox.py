"""One queue per entity; starts the next turn when the one before is known to be done.

Owns queues and counts, decides nothing itself: which requests run again is the verdict's. A stateless
request gets a mailbox of its own, so that every call goes the same straight line. Nothing here awaits.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Final, Protocol

import attrs

from inversion.config import Function, Limits
from inversion.errors import Code, Conflict, ProcessDied, RequestRefused
from inversion.gate import Walk
from inversion.messages import Address, Idempotency, Request, Response, Turn
from inversion.protocol import verdict
from inversion.transition import Runtime, Store, transition

#: A lost race makes an entity contested for so long: many turns, and soon over when the other node has gone.
CONTESTED_S: Final = 0.5
#: A turn may take as long as its function's timeout; nobody waits that long for another node.
LONGEST_YIELD_S: Final = 0.05


class Pool(Runtime, Protocol):
    """What a mailbox asks of a function's pool beyond running a message."""

    @property
    def batch(self) -> int:
        """How many messages a frame may carry now."""

    def begun_s(self, turn: Turn) -> float | None:
        """When a process could begin this turn; None while it waits behind another."""


@attrs.define(slots=True, eq=False)
class Contest:
    """An entity that another node wants too."""

    until_s: float
    free_s: float = 0.0  #: the last turn was won: leave it alone until then


class Mailbox:
    """The requests of one entity, in the order they came."""

    __slots__ = (
        "_office",
        "_starting",
        "_yielding",
        "address",
        "function",
        "most",
        "pool",
        "queue",
        "turn",
    )

    def __init__(self, office: PostOffice, address: Address, function: Function, pool: Pool):
        self._office = office
        self._starting = False
        self._yielding = False
        self.address = address
        self.function = function
        self.pool = pool
        self.queue: deque[Request] = deque()
        self.turn: Turn | None = None
        self.most: int | None = None  #: after an overrun: no more than this in a turn

    def put(self, request: Request) -> None:
        if self.turn is None and not (self._starting or self.queue or self._office.contests):
            # Nearly always: nothing to choose from, so nothing is queued and cut out again.
            self._starting = True
            self._start([request])
            self._starting = False
            if self.turn is not None:
                return
        else:
            self.queue.append(request)
        self._start_turns()

    def _start_turns(self) -> None:
        # A loop, not recursion: a turn may end before it has parked, and `_ended` calls this again.
        if self._starting or self._yielding:
            return
        if self._office.contests and self.turn is None and self._must_yield():
            return
        self._starting = True
        while self.turn is None and (requests := self._cut()):
            looks = self.address in self._office.contests
            self._start(requests, looks or any(request.repeats for request in requests))
        self._starting = False
        if self.turn is None:
            self._office.forget(self)

    def _start(self, requests: list[Request], looks: bool = False) -> None:
        self.turn = turn = Turn(self.address, requests, perf_counter(), looks)
        walk: Walk[object, object] = Walk(transition(turn, self._office.store, self.pool), self._ended)
        walk.start()

    def _cut(self) -> list[Request]:
        """Take the next turn's requests: as many as fit into one frame."""
        requests: list[Request] = []
        if not self.queue:
            return requests  # as after nearly every turn
        most = self.pool.batch if self.most is None else min(self.pool.batch, self.most)
        room_bytes = self._office.limits.body_bytes
        while self.queue:
            request = self.queue[0]
            if request.answered:
                self.queue.popleft()
                continue
            if requests and (
                len(requests) >= most
                or request.alone
                or requests[0].alone
                or len(request.body) > room_bytes
                or request.condition is not None
                or requests[0].condition is not None
                or _repeats_one_of(request, requests)
            ):
                break
            room_bytes -= len(request.body)
            requests.append(self.queue.popleft())
        return requests

    def _ended(self, error: Exception | None) -> None:
        turn, self.turn = self.turn, None
        assert turn is not None
        # An answer may bring its caller's next request at once: it waits for what runs again.
        starting, self._starting = self._starting, True
        for request in turn.requests:
            request.turn = None  # else the two would keep each other from being freed by count
        if error is None:
            self.most = None
            if self._office.contests:
                self._office.note_win(turn)
        else:
            self._run_again(turn, error)
            # Its frames and their callers' hold it and a state: that would wait for the collector.
            error.__traceback__ = None
        self._starting = starting
        self._start_turns()

    def _must_yield(self) -> bool:
        """The winner of a contested entity leaves it alone for as long as its turn took (storage.md).

        The loser runs again at once, and without this it loses dozens of races in a row.
        """
        contest = self._office.contests.get(self.address)
        if contest is None or (wait_s := contest.free_s - perf_counter()) <= 0:
            return False
        self._yielding = True
        self._office.after(wait_s, self._go_on)
        return True

    def _go_on(self) -> None:
        self._yielding = False
        self._start_turns()

    def drop_answered(self) -> None:
        """Their deadline passed while they waited: they are not to take room."""
        self.queue = deque(request for request in self.queue if not request.answered)

    def _run_again(self, turn: Turn, error: Exception) -> None:
        now_s = perf_counter()
        if isinstance(error, Conflict) and self.address.key is not None:  # else a key was recorded before
            self._office.contests[self.address] = Contest(now_s + CONTESTED_S)
        again: list[Request] = []
        for request in turn.requests:
            if request.answered:
                continue
            match verdict.judge(error, turn, request, rerun=self.function.rerun, now_s=now_s):
                case verdict.GiveUp(error=reason):
                    request.answer(Response(error=reason))
                case verdict.RunAgain(how=how):
                    request.attempt += 1
                    request.deaths += isinstance(error, ProcessDied)
                    request.alone = request.alone or how is verdict.How.ALONE
                    if how is verdict.How.IN_HALVES:
                        self.most = max(1, len(turn.requests) // 2)
                    again.append(request)
        # In front of what came meanwhile, in their old order.
        self.queue.extendleft(reversed(again))
        self._office.on_failure(turn, error)


class PostOffice:
    """All mailboxes of a node, and how many requests live in them."""

    def __init__(
        self,
        store: Store,
        pools: Mapping[str, Pool],
        functions: Mapping[str, Function],
        limits: Limits,
        on_failure: Callable[[Turn, Exception], None],
        after: Callable[[float, Callable[[], None]], None],
    ):
        self.store = store
        self.limits = limits
        self.on_failure = on_failure
        self.after = after  #: calls something when so many seconds have passed
        self.live: set[Request] = set()
        self.contests: dict[Address, Contest] = {}
        self.refusals = {"entity": 0, "function": 0, "node": 0}  #: by the queue that was full
        self._pools = pools
        self._functions = functions
        self._mailboxes: dict[Address, Mailbox] = {}
        self._live_of_function: dict[str, int] = dict.fromkeys(functions, 0)
        self._live_keys: dict[tuple[Address, str], int] = {}  #: Idempotency-Keys in flight

    def post(self, request: Request) -> None:
        """Queue a request for its entity. Raises RequestRefused (`queue_full`) at a limit."""
        address = request.address
        name = address.function
        queues = self.limits.queue
        if len(self.live) >= queues.node:
            raise self._full("node", f"this node holds {queues.node} requests")
        if self._live_of_function[name] >= queues.function:
            raise self._full("function", f"function {name} holds {queues.function} requests on this node")
        mailbox = None if address.key is None else self._mailboxes.get(address)
        if mailbox is None:
            mailbox = Mailbox(self, address, self._functions[name], self._pools[name])
            if address.key is not None:
                self._mailboxes[address] = mailbox
        elif len(mailbox.queue) >= queues.entity:
            raise self._full("entity", f"{queues.entity} requests wait for this entity")
        if request.idempotency is not None:
            self._note_key(request, request.idempotency)
        self.live.add(request)
        self._live_of_function[name] += 1
        request.leave = self._count_out
        mailbox.put(request)

    def _note_key(self, request: Request, idempotency: Idempotency) -> None:
        place = request.address, idempotency.id
        others = self._live_keys.get(place, 0)
        if others:
            if not idempotency.waits:
                raise RequestRefused(
                    Code.KEY_IN_FLIGHT, "a request with this Idempotency-Key is under way", retry_after_s=1
                )
            request.repeats = True
        self._live_keys[place] = others + 1

    def note_win(self, turn: Turn) -> None:
        """A turn was committed while some entity, perhaps this one, is contested."""
        contest = self.contests.get(turn.address)
        if contest is not None:
            now_s = perf_counter()
            contest.free_s = now_s + min(now_s - turn.begun_s, LONGEST_YIELD_S)

    def _count_out(self, request: Request) -> None:
        self.live.discard(request)
        self._live_of_function[request.address.function] -= 1
        if request.idempotency is not None:
            place = request.address, request.idempotency.id
            others = self._live_keys.pop(place) - 1
            if others:
                self._live_keys[place] = others

    def deploy(self, function: Function, pool: Pool) -> None:
        """It has new code or a new config: its mailboxes use that from their next turn on."""
        self._live_of_function.setdefault(function.name, 0)
        for mailbox in self._mailboxes.values():
            if mailbox.address.function == function.name:
                mailbox.function, mailbox.pool = function, pool

    def live_of(self, function: str) -> int:
        """Requests of one function that wait or run."""
        return self._live_of_function[function]

    def forget(self, mailbox: Mailbox) -> None:
        """An idle mailbox leaves; the next request makes a new one."""
        if self._mailboxes.get(mailbox.address) is mailbox:
            del self._mailboxes[mailbox.address]

    def give_up(self) -> int:
        """Answer every request now, as honestly as can be; how many there were."""
        left = list(self.live)
        for request in left:
            request.answer(Response(error=verdict.cut_short(request.turn)))
        return len(left)

    def sweep(self, now_s: float) -> None:
        """Answer every request whose deadline passed, wherever it is."""
        for address in [each for each, contest in self.contests.items() if contest.until_s <= now_s]:
            del self.contests[address]
        late = [request for request in self.live if request.deadline_s <= now_s]
        crowded: dict[Mailbox, None] = {}
        for request in late:
            turn = request.turn
            if turn is not None and verdict.leaves_it_to_the_function_timeout(
                request, self._pools[request.address.function].begun_s(turn)
            ):
                continue
            mailbox = self._mailboxes.get(request.address)
            if turn is None and mailbox is not None:
                crowded[mailbox] = None
                request.answer(Response(error=verdict.expired_behind(mailbox.turn)))
            else:
                request.answer(Response(error=verdict.expired(turn)))
        for mailbox in crowded:
            mailbox.drop_answered()

    def _full(self, queue: str, what: str) -> RequestRefused:
        self.refusals[queue] += 1
        return RequestRefused(Code.QUEUE_FULL, f"{what} (limits.queue.{queue}); try again", retry_after_s=1)


def _repeats_one_of(request: Request, requests: Sequence[Request]) -> bool:
    """Equal keys never share a turn: the second one must see what the first one left."""
    asked = request.idempotency
    return asked is not None and any(
        other.idempotency is not None and other.idempotency.id == asked.id for other in requests
    )
