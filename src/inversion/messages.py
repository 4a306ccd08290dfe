"""The nouns of one transition, in the order of the six steps.

Address -> Request -> State -> MessageIn -> MessageOut -> Stored -> Response. A `Turn` carries them: one
pass of one entity, with one state, one or more requests and one commit.
JSON is held as the sender's bytes, checked once (json_text) and never rewritten.
Times are seconds of a monotonic clock unless a name says otherwise.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import Enum
from typing import Final, NamedTuple

import attrs

from inversion.effects import Effect
from inversion.errors import FunctionError, InversionError
from inversion.protocol import schedules


class Step(Enum):
    """The six steps; their names are function names, log events and Server-Timing columns."""

    RECEIVE_REQUEST = "receive_request"
    LOAD_STATE = "load_state"
    SEND_MESSAGE_IN = "send_message_in"
    RECEIVE_MESSAGE_OUT = "receive_message_out"
    STORE_STATE = "store_state"
    SEND_RESPONSE = "send_response"


_STEPS: Final = tuple(Step)


class Address(NamedTuple):
    """One entity, or a function without a key: then the call is stateless.

    A tuple, for it is hashed and compared several times a request.
    """

    function: str
    key: str | None


class Receipt(NamedTuple):
    """Where the answer to a message from outside is found: as an output of its target."""

    target: Address
    id: str


@attrs.frozen(slots=True)
class Condition:
    """What must be true of the state before a call: If-Match or If-None-Match."""

    versions: tuple[int, ...] = ()  #: one of these, if there are any
    exists: bool | None = None  #: whether there must be a state at all; None: either will do

    def holds(self, state: State) -> bool:
        if self.versions and state.version not in self.versions:
            return False
        return self.exists is None or self.exists is (state.value is not None)


@attrs.define(slots=True)
class Idempotency:
    """What makes a repeat of a request known: the caller's key, and what it asked for."""

    id: str  #: "c:" and the Idempotency-Key: unique within its entity
    hash: bytes = b""  #: of what it asks for: calls.request_hash, set when it is admitted
    waits: bool = True  #: for the answer while the first one runs; else it is refused


@attrs.define(slots=True, eq=False)  # not frozen: that would cost three times as much to make
class Delivery:
    """A message that this node holds for a while: what the commit of its turn consumes, all of it or none."""

    target: Address
    sender: str  #: function/key of an entity; "-/id": sent from outside; "~/id": the answer of no entity
    sender_version: int  #: with `seq` the order of what one sender sends to one entity
    seq: int
    id: str
    handler: str
    body: bytes
    timer: str | None = None  #: its name among the sender's timers: then it has no order
    reply_to: str | None = None  #: the sender's handler that gets the answer
    answers: str | None = None  #: it is the answer to the message with this id
    hops: int = 0  #: how often it was forwarded
    attempt: int = 1  #: with the node's own id the token of the lease
    failures: int = 0
    age_ms: int = 0  #: when it was claimed

    @property
    def outside(self) -> bool:
        """Sent by nobody who could get an answer: the answer is kept for whoever asks."""
        sender = self.sender
        if sender[:2] == "-/":
            return True
        # a timer that came by /v1/send is of an entity without a key
        return sender[-2:] == "/-" and sender.partition("/")[2] == "-"


@attrs.define(slots=True, eq=False)
class Request:
    """One caller waiting for one answer. Mutable only in what the mailbox counts."""

    id: str
    address: Address
    handler: str
    body: bytes  #: lines: checked JSON without raw CR or LF; exec: the bytes as they came
    content_type: str
    received_s: float
    deadline_s: float
    caller_timeout_s: float | None  #: what `Inversion-Timeout` asked for
    now: str  #: RFC 3339, the same for all attempts
    deadline: str  #: RFC 3339: `deadline_s` as the function is told it
    seed: str  #: the same for all attempts
    trace: str | None  #: W3C traceparent
    respond: Callable[[Response], None]  #: called exactly once, through `answer`
    leave: Callable[[Request], None] | None = None  #: called before that: it is counted out
    attempt: int = 1
    deaths: int = 0  #: processes that ended while they held this request
    retries: int = 0  #: times the function asked to be run again
    alone: bool = False  #: after a death it runs with nothing else in its process
    idempotency: Idempotency | None = None
    condition: Condition | None = None  #: then it is alone in its turn
    arguments: tuple[str, ...] = ()  #: exec: behind those of the command
    delivery: Delivery | None = None  #: nobody called: it is a message, consumed by the commit of its turn
    repeats: bool = False  #: its key was in flight when it came: look for the first one's answer
    turn: Turn | None = None  #: None while it waits in the mailbox
    answered: bool = False

    def answer(self, response: Response) -> None:
        """Give the caller its answer; a second one is dropped (the deadline may have come first)."""
        if not self.answered:
            self.answered = True
            if self.leave is not None:
                self.leave(self)
            self.respond(response)


@attrs.frozen(slots=True, eq=False)
class Recorded:
    """The answer that an earlier request with the same key was given."""

    hash: bytes
    turn: bytes  #: that gave it
    version: int
    answer: Answer
    content_type: str


class State(NamedTuple):
    """What the store holds for an entity. `value` None: there is none (never stored, or deleted)."""

    value: bytes | None
    version: int
    turn: bytes | None  #: 16 bytes: the turn that wrote it; None: never stored
    fresh: bool = False  #: read from the database during this turn: no further check is due
    records: Mapping[str, Recorded] | None = None  #: by Idempotency.id, when it was read


#: What a stateless call runs on.
NO_STATE = State(value=None, version=0, turn=None, fresh=True)


@attrs.define(slots=True, eq=False)
class Turn:
    """One pass of one entity on this node. `step` tells where a failure happened."""

    address: Address
    requests: list[Request]
    begun_s: float
    looks: bool = False  #: into the database although the state is cached: a member repeats a key, or the
    #: entity is contested
    marks: list[float] = attrs.field(factory=list)  #: when each finished step ended
    commit_sent: bool = False  #: from here on the outcome is not ours to decide

    @property
    def step(self) -> Step:
        """Where it is: the first step that is not finished."""
        return _STEPS[len(self.marks)]

    @property
    def abandoned(self) -> bool:
        """A member was answered already (its deadline passed)."""
        for request in self.requests:  # noqa: SIM110 (twice a turn: the generator would cost the most)
            if request.answered:
                return True
        return False

    @property
    def forsaken(self) -> bool:
        """Nobody waits for this turn any more."""
        return all(request.answered for request in self.requests)


@attrs.define(slots=True, eq=False)
class MessageIn:
    """What goes to a runtime: the requests of a turn and the state they start from."""

    turn: Turn
    state: State
    id: str  #: request id + "." + attempt (protocol.md): unique among what is in flight

    @classmethod
    def of(cls, turn: Turn, state: State) -> MessageIn:
        first = turn.requests[0]
        return cls(turn, state, f"{first.id}.{first.attempt}")

    @property
    def exclusive(self) -> bool:
        """Runs with nothing else in its process: it was there when a process died."""
        return self.turn.requests[0].alone


class Change(Enum):
    """What message-out does to the state: absent, null and deleted are three things."""

    KEEP = "keep"
    PUT = "put"
    DELETE = "delete"


@attrs.define(slots=True, eq=False)
class Answer:
    """The answer to one request of a turn."""

    response: bytes | None = None  #: raw JSON (lines) or bytes (exec); None: `null` was meant
    error: FunctionError | None = None
    changed: bool = False  #: this message put or deleted the state: a version of its own
    refusal: InversionError | None = None  #: ours: its condition did not hold, the function was not asked
    effects: Sequence[Effect] = ()  #: carried out when, and only if, the turn is committed
    elsewhere: Receipt | None = None  #: forwarded: the answer will be found there


@attrs.define(slots=True, eq=False)
class MessageOut:
    """What came back from a runtime: an answer for each request, and one change of state."""

    answers: Sequence[Answer]
    change: Change = Change.KEEP
    state: bytes | None = None  #: raw JSON when `change` is PUT
    content_type: str = "application/json"


@attrs.define(slots=True, eq=False)
class Stored:
    """What step 5 made sure of: the answers may go out, each with the version after its message."""

    answers: Sequence[Answer]
    versions: Sequence[int | None]  #: one for each answer; None: the call was stateless
    content_type: str = "application/json"


@attrs.define(slots=True, eq=False)
class Response:
    """What a caller gets. Exactly one of `error`, `function_error` or a body with status 200."""

    body: bytes = b""
    content_type: str = "application/json"
    version: int | None = None
    error: InversionError | None = None
    function_error: FunctionError | None = None
    marks: Sequence[float] = ()  #: when each of the turn's finished steps ended, in their order
    replayed: bool = False  #: it is the recorded answer to an earlier request with the same key
    elsewhere: Receipt | None = None  #: the answer comes from there; with an error: it may still come


@attrs.frozen(slots=True)
class Handler:
    """A handler that a runtime declared in its hello."""

    name: str
    reads_only: bool = False


@attrs.frozen(slots=True)
class Hello:
    """What a runtime said of itself in its first line; a silent one is `SILENT`."""

    protocol: int = 1
    runtime: str = ""
    pipeline: int = 1  #: frames it takes before it answers
    batch: int = 1  #: messages it takes in one frame
    cancel: bool = False
    integers: int = 64  #: 53: larger integers are refused before they reach it
    handlers: Mapping[str, Handler] | None = None  #: None: it did not say, any name goes
    cron: schedules.Read = schedules.NONE
    readers: frozenset[str] = attrs.field(init=False)  #: handlers that must not change the state

    @readers.default
    def _find_readers(self) -> frozenset[str]:
        handlers = (self.handlers or {}).values()
        return frozenset(handler.name for handler in handlers if handler.reads_only)


#: A program that knows nothing of us: one frame at a time, any handler.
SILENT = Hello()
