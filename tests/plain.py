"""Plain values to walk a turn with: a store and a runtime that answer at once or at a gate."""

from __future__ import annotations

from time import perf_counter

from inversion.gate import Gate
from inversion.messages import (
    Address,
    Answer,
    Change,
    MessageIn,
    MessageOut,
    Request,
    Response,
    State,
    Stored,
    Turn,
)


def a_request(key: str | None = "k", body: bytes = b"1", *, in_s: float = 30.0, n: int = 1) -> Request:
    now_s = perf_counter()
    answers: list[Response] = []
    request = Request(
        id=f"r{n}",
        address=Address("counter", key),
        handler="add",
        body=body,
        content_type="application/json",
        received_s=now_s,
        deadline_s=now_s + in_s,
        caller_timeout_s=None,
        now="2026-11-24T00:00:00.000Z",
        deadline="2026-11-24T00:00:30.000Z",
        seed="00",
        trace=None,
        respond=answers.append,
    )
    got[request.id] = answers
    return request


#: Responses by request id, filled by `a_request`'s `respond`.
got: dict[str, list[Response]] = {}


def a_turn(*requests: Request) -> Turn:
    return Turn(requests[0].address, list(requests), perf_counter())


class PlainStore:
    """Keeps one state; each step raises what `fail` holds for it."""

    def __init__(self) -> None:
        self.state = State(value=b'{"count":1}', version=1, turn=b"t" * 16)
        self.fail: dict[str, Exception] = {}
        self.commits: list[MessageOut] = []

    async def load_state(self, turn: Turn) -> State:
        if "load_state" in self.fail:
            raise self.fail["load_state"]
        return self.state

    async def store_state(self, turn: Turn, state: State, out: MessageOut) -> Stored:
        if "store_state" in self.fail:
            raise self.fail["store_state"]
        self.commits.append(out)
        versions = []
        version = state.version
        for answer in out.answers:
            version += answer.changed
            versions.append(version)
        return Stored(answers=out.answers, versions=versions)


class PlainSent:
    def __init__(self, runtime: PlainRuntime, message: MessageIn):
        self._runtime = runtime
        self._message = message

    async def receive_message_out(self) -> MessageOut:
        runtime = self._runtime
        if runtime.errors:
            error = runtime.errors.pop(0)
            if error is not None:
                raise error
        if runtime.gate is not None:
            return await runtime.gate.wait(self._message)
        if runtime.outs:
            return runtime.outs.pop(0)
        return MessageOut([Answer(b"2", changed=True)] * len(self._message.turn.requests), Change.PUT, b"2")


class PlainRuntime:
    """Answers every message with 2; `errors` and `outs` are used up first; a gate makes it wait."""

    def __init__(self, batch: int = 1) -> None:
        self.batch = batch
        self.gate: Gate[MessageIn, MessageOut] | None = None
        self.errors: list[Exception | None] = []
        self.outs: list[MessageOut] = []
        self.seen: list[MessageIn] = []
        self.refuses: Exception | None = None

    async def send_message_in(self, message: MessageIn) -> PlainSent:
        if self.refuses is not None:
            raise self.refuses
        self.seen.append(message)
        return PlainSent(self, message)

    def begun_s(self, turn: Turn) -> float | None:
        return None
