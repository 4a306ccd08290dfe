"""Some nodes, one database, and a scheduler with a seed: what happens next is drawn, nothing is timed.

Everything that waits stands in `Actions`: answers of functions, statements under way, put-off calls, pauses.
A fault is another way in which a drawn action may end. The nodes are the real ones from the mailbox to the
resolver; the functions, the database and the clock are not there.
"""

from __future__ import annotations

import copy
import random
from collections import Counter
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any

import attrs
import orjson
from model_database import Database, ModelRows, Row

from inversion import mailbox
from inversion.calls import request_hash
from inversion.config import Function, Limits, Queues
from inversion.errors import FunctionError, Outcome
from inversion.gate import Gate, Walk
from inversion.mailbox import PostOffice
from inversion.messages import (
    Address,
    Answer,
    Change,
    Idempotency,
    MessageIn,
    MessageOut,
    Request,
    Response,
    Turn,
)
from inversion.state import committer, sql
from inversion.state import store as store_module
from inversion.state.committer import Committer
from inversion.state.dialing import ConnectionLost
from inversion.state.loader import Loader
from inversion.state.postgres import StatementFailed

FUNCTION = "journal"
NEVER_S = 1e12
STATELESS = ""  #: in place of an entity's key
#: Thirty calls take a few hundred.
MOST_STEPS = 20_000
#: Of the draws: a slow node is overtaken several times while it finds out what became of a commit.
SLOW_SHARE = 0.08
#: What the mailboxes take a step for.
STEP_S = 0.000_1
#: After a key that was not new; so short that later ones are taken for new again.
LOOKS_S = 20 * STEP_S
_COMMITS = (sql.COMMIT, sql.COMMIT_ONE, sql.COMMIT_KEYED, sql.COMMIT_KEYED_EACH, sql.COMMIT_KEYED_NEW)


class Actions:
    """What may happen next, in the order it was born; `draw` takes any, but rarely one of a slow node."""

    def __init__(self, dice: random.Random) -> None:
        self._dice = dice
        self._waiting: list[Callable[[], None]] = []
        self._of_slow: list[Callable[[], None]] = []

    def __len__(self) -> int:
        return len(self._waiting) + len(self._of_slow)

    def add(self, action: Callable[[], None], *, slow: bool = False) -> None:
        (self._of_slow if slow else self._waiting).append(action)

    def draw(self) -> None:
        waiting, rest = self._waiting, self._of_slow
        if not waiting or (rest and self._dice.random() < SLOW_SHARE):
            waiting = rest
        waiting.pop(self._dice.randrange(len(waiting)))()


@attrs.define(eq=False)
class Op:
    """One call of a client, as it was answered."""

    key: str
    token: str
    once: str | None
    handler: str
    began: int = 0  #: steps of the world
    ended: int = 0
    outcome: str | None = None  #: None: its node died before it answered
    version: int | None = None
    value: Any = None
    refused: bool = False  #: by the function


class SimWatch:
    """The face of Watch that the store uses."""

    def __init__(self, world: World, node: Node) -> None:
        self._world, self._node = world, node

    def later(self, call: Callable[[], None]) -> None:
        self._world.do(self._node, call)


class SimBridge:
    """Pauses and reconnects: they end when they are drawn."""

    def __init__(self, world: World, node: Node) -> None:
        self._world, self._node = world, node

    async def run(self, function: Callable[..., Awaitable[Any]], *args: object) -> Any:
        gate: Gate[None, None] = Gate()
        self._world.do(self._node, lambda: gate.take(1)[0].resume(None))
        await gate.wait(None)
        lane = getattr(function, "__self__", None)
        return lane.opened() if isinstance(lane, SimLane) else None


class SimLane:
    """A Lane whose connections are the model's."""

    def __init__(self, world: World, node: Node) -> None:
        self._world, self._node = world, node
        self._connection: SimConnection | None = None

    async def connected(self, bridge: SimBridge) -> SimConnection:
        if self._connection is None or self._connection.closed:
            connection: SimConnection = await bridge.run(self.opened)  # type: ignore[arg-type]
            return connection
        return self._connection

    def opened(self) -> SimConnection:
        self._connection = SimConnection(self._world, self._node)
        return self._connection

    async def gather(self, gate: Any, most: int) -> Any:
        return await gate.gather(most)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.closed = True

    close_if_dead = close


class SimConnection:
    """A connection whose statements end as the world draws it."""

    pooler = False

    def __init__(self, world: World, node: Node) -> None:
        self._world, self._node = world, node
        self._gate: Gate[None, ModelRows] = Gate()
        self.closed = False

    def alive(self) -> bool:
        return not self.closed

    async def execute(self, statement: sql.Statement, parameters: Any) -> ModelRows:
        if self.closed:
            raise ConnectionLost("closed", sent=False)
        self._world.do(self._node, lambda: self._end(statement, parameters))
        return await self._gate.wait(None)

    def _end(self, statement: sql.Statement, parameters: Any) -> None:
        world = self._world
        (walk,) = self._gate.take(1)
        commits = statement in _COMMITS
        match world.fault("statement", commits):
            case "never sent":
                self._lose(walk, sent=False)
            case "lost before the server saw it":
                self._lose(walk, sent=True)
            case "lost after the server did it":
                world.database.ended(statement, parameters)
                self._lose(walk, sent=True)
            case "delayed in the network":
                world.actions.add(lambda: void(world.database.ended(statement, parameters)))
                self._lose(walk, sent=True)
            case "a warning":  # no standby has it: it may be lost with the primary
                database = world.database if world.dice.random() < 0.5 else copy.deepcopy(world.database)
                _tell(walk, database.ended(statement, parameters), warned=True)
            case "a locked row":
                walk.throw(StatementFailed("55P03", "canceling statement due to lock timeout"))
            case _:
                _tell(walk, world.database.ended(statement, parameters))

    def _lose(self, walk: Walk[None, ModelRows], *, sent: bool) -> None:
        self.closed = True
        walk.throw(ConnectionLost("lost", sent=sent))


def _tell(walk: Walk[None, ModelRows], ended: list[Row] | StatementFailed, *, warned: bool = False) -> None:
    if isinstance(ended, StatementFailed):
        walk.throw(ended)
    else:
        walk.resume(ModelRows(ended, warned=warned))


class SimSent:
    def __init__(self, gate: Gate[None, MessageOut]) -> None:
        self._gate = gate

    async def receive_message_out(self) -> MessageOut:
        return await self._gate.wait(None)


class SimRuntime:
    """A journal: `add` appends its token, `read` looks, `odd` appends to an odd number, else refuses.
    `pure` is a stateless call whose every run has another answer."""

    batch = 4

    def __init__(self, world: World, node: Node) -> None:
        self._world, self._node = world, node

    async def send_message_in(self, message: MessageIn) -> SimSent:
        gate: Gate[None, MessageOut] = Gate()
        out = journal(message, self._world.step)
        self._world.do(self._node, lambda: gate.take(1)[0].resume(out))
        return SimSent(gate)

    def begun_s(self, turn: Turn) -> float | None:
        return None


def journal(message: MessageIn, step: int) -> MessageOut:
    tokens = [] if message.state.value is None else orjson.loads(message.state.value)
    answers = []
    for request in message.turn.requests:
        if request.handler == "pure":
            answers.append(Answer(orjson.dumps(step)))  # each run has another
            continue
        if request.handler == "odd" and len(tokens) % 2 == 0:
            answers.append(Answer(error=FunctionError("even", "", 409, None, retry=False)))
            continue
        if request.handler != "read":
            tokens.append(orjson.loads(request.body))
        answers.append(Answer(orjson.dumps(tokens), changed=request.handler != "read"))
    changed = any(answer.changed for answer in answers)
    return MessageOut(
        answers, Change.PUT if changed else Change.KEEP, orjson.dumps(tokens) if changed else None
    )


class Node:
    """The real mailboxes and the real store, without trio."""

    def __init__(self, world: World) -> None:
        self.dead = False
        self.slow = world.slow and not world.nodes
        store_module.Lane = lambda *_, **__: SimLane(world, self)  # type: ignore[assignment,misc]
        self.store = store_module.PostgresStore("", Limits(), SimWatch(world, self))  # type: ignore[arg-type]
        bridge: Any = SimBridge(world, self)
        self._gatherers = store_module._Gatherers()
        for lane in self.store._load_lanes:
            self._gatherers.start(Loader(lane, self.store._loads, self.store._counters).run(bridge))
        for lane in self.store._commit_lanes:
            committer = Committer(lane, self.store._commits, self.store._resolver, self.store._counters)
            self._gatherers.start(committer.run(bridge))
        self._gatherers.start(self.store._resolver.run(bridge))
        function = Function(name=FUNCTION, command=("true",), folder=Path())
        limits = Limits(queue=Queues(entity=1_000, function=1_000, node=1_000))
        self.office = PostOffice(
            self.store,
            {FUNCTION: SimRuntime(world, self)},
            {FUNCTION: function},
            limits,
            lambda turn, error: world.failed(error),
            lambda _, call: world.do(self, call),
        )

    def sweep(self) -> None:
        self.office.sweep(0.0)
        self.store._loads.withdraw(lambda item: item.forsaken, store_module.Abandoned)
        self.store._commits.withdraw(lambda item: item.forsaken, store_module.Abandoned)
        self.store._resolver.sweep()

    def close(self) -> None:
        self.dead = True
        self._gatherers.close()


class World:
    """One run. Use it as a context manager; `run` draws until everybody was answered."""

    def __init__(
        self, seed: int, *, nodes: int = 2, keys: int = 2, fault_rate: float = 0.12, slow: bool = False
    ) -> None:
        self.dice = random.Random(seed)
        self.actions = Actions(self.dice)
        self.database = Database()
        self.fault_rate = fault_rate
        self.fired: Counter[str] = Counter()
        self.step = 0
        self.ops: list[Op] = []
        self.keys = [f"k{number}" for number in range(keys)]
        self._lane, self._clock = store_module.Lane, mailbox.perf_counter
        self._looks_s = committer._LOOKS_S
        mailbox.perf_counter = committer.perf_counter = lambda: self.step * STEP_S
        committer._LOOKS_S = LOOKS_S  # type: ignore[misc]
        self.slow = slow  #: the first node is
        self.nodes: list[Node] = []
        for _ in range(nodes):
            self.nodes.append(Node(self))
        self._errors: list[Exception] = []

    def __enter__(self) -> World:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for node in self.nodes:
            node.close()
        store_module.Lane, mailbox.perf_counter = self._lane, self._clock  # type: ignore[misc]
        committer.perf_counter, committer._LOOKS_S = self._clock, self._looks_s  # type: ignore[misc]

    def do(self, node: Node, call: Callable[[], None]) -> None:
        """Let it happen some time, unless its node is dead by then."""
        self.actions.add(lambda: None if node.dead else call(), slow=node.slow)

    def fault(self, what: str, commits: bool) -> str | None:
        if self.dice.random() >= self.fault_rate:
            return None
        kinds = ["never sent", "lost before the server saw it", "a locked row"]
        if commits:
            kinds += ["lost after the server did it", "delayed in the network", "a warning"]
        drawn = self.dice.choice(kinds)
        self.fired[drawn] += 1
        return drawn

    def failed(self, error: Exception) -> None:
        self.fired[type(error).__name__] += 1

    def run(self, ops: int) -> None:
        """So many calls, then no more faults until everybody has an answer."""
        due = ops
        while due or len(self.actions):
            self.step += 1
            assert self.step < MOST_STEPS, "it does not come to an end"
            if not due:
                self.fault_rate = 0.0
            if due and (not len(self.actions) or self.dice.random() < 0.3):
                self._call()
                due -= 1
            elif due and self.dice.random() < self.fault_rate / 20:
                self._restart(self.dice.choice(self.nodes))
            elif due and self.dice.random() < self.fault_rate / 5:
                self._pass_a_deadline()
            else:
                self.actions.draw()

    def _call(self) -> None:
        keyed = [op for op in self.ops if op.once is not None]
        untold = [op for op in keyed if op.outcome in (None, "unknown")]
        again = untold if self.dice.random() < 0.5 else keyed if self.dice.random() < 0.1 else []
        if again:  # a client that was not told and asks again, or a repeat by somebody in between
            first = self.dice.choice(again)
            self.post(Op(first.key, first.token, first.once, first.handler))
            return
        number = len(self.ops)
        if self.dice.random() < 0.1:
            self.post(Op(STATELESS, f"t{number}", f"once{number}", "pure"))
            return
        once = f"once{number}" if self.dice.random() < 0.4 else None
        handler = self.dice.choice(("add", "add", "read", "odd"))
        self.post(Op(self.dice.choice(self.keys), f"t{number}", once, handler))

    def post(self, op: Op) -> None:
        self.ops.append(op)
        op.began = self.step
        body, handler = orjson.dumps(op.token), op.handler
        request = Request(
            f"r{len(self.ops)}",
            Address(FUNCTION, op.key or None),
            handler,
            body,
            "application/json",
            0.0,
            NEVER_S,
            None,
            "",
            "",
            "",
            None,
            lambda response: answered(op, response, self.step),
        )
        if op.once is not None:
            request.idempotency = Idempotency(f"c:{op.once}", request_hash(handler, None, body))
        self.dice.choice(self.nodes).office.post(request)

    def _pass_a_deadline(self) -> None:
        node = self.dice.choice(self.nodes)
        live = sorted(node.office.live, key=lambda request: request.id)
        if live:
            self.fired["a deadline passed"] += 1
            self.dice.choice(live).deadline_s = -1.0
            node.sweep()

    def _restart(self, node: Node) -> None:
        self.fired["a node was killed"] += 1
        node.close()
        self.nodes[self.nodes.index(node)] = Node(self)


def answered(op: Op, response: Response, step: int) -> None:
    assert op.outcome is None, "a second answer"
    op.ended, op.version = step, response.version
    if response.error is not None:
        op.outcome = response.error.outcome.value
    elif response.function_error is not None:
        op.outcome, op.refused = Outcome.NOT_APPLIED.value, True
    else:
        op.outcome, op.value = Outcome.APPLIED.value, orjson.loads(response.body)


def void(_: object) -> None:
    """For a result that nobody is left to hear."""
