"""The straight line: one turn, six steps, one screen.

A turn is one pass of one entity: one state, one or more requests, one commit. `store` and `runtime` are
arguments, so a test walks a turn with plain values. Nothing here awaits trio: each real wait parks the
turn at a gate (gate.py). A step that fails raises; the mailbox asks the verdict what becomes of the
requests. Until step 5 is sent nothing has happened, so a turn may be run again.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Final, Protocol

from inversion.errors import Abandoned, RetryAsked
from inversion.messages import MessageIn, MessageOut, Request, Response, State, Step, Stored, Turn
from inversion.protocol.verdict import retry_asked

_TIMED_STEPS: Final = tuple(Step)[:-1]  #: the last one ends after the response that tells of it


class Store(Protocol):
    async def load_state(self, turn: Turn) -> State: ...

    async def store_state(self, turn: Turn, state: State, out: MessageOut) -> Stored: ...


class Sent(Protocol):
    async def receive_message_out(self) -> MessageOut: ...


class Runtime(Protocol):
    async def send_message_in(self, message: MessageIn) -> Sent: ...


async def transition(turn: Turn, store: Store, runtime: Runtime) -> None:
    """Take one turn through the six steps. Raises what the failing step raised; see `Turn.step`."""
    receive_request(turn)  # 1  its requests are in
    state = await load_state(turn, store)  # 2  returns at once when cached
    sent = await send_message_in(turn, runtime, state)  # 3  request + state, to a process
    out = await receive_message_out(turn, sent)  # 4  response + new state, from it
    stored = await store_state(turn, store, state, out)  # 5  one commit for the whole turn
    send_response(turn, stored)  # 6


def receive_request(turn: Turn) -> None:
    for request in turn.requests:
        request.turn = turn
    _next(turn, Step.LOAD_STATE)


async def load_state(turn: Turn, store: Store) -> State:
    state = await store.load_state(turn)
    _next(turn, Step.SEND_MESSAGE_IN)
    return state


async def send_message_in(turn: Turn, runtime: Runtime, state: State) -> Sent:
    sent = await runtime.send_message_in(MessageIn(turn, state))
    _next(turn, Step.RECEIVE_MESSAGE_OUT)
    return sent


async def receive_message_out(turn: Turn, sent: Sent) -> MessageOut:
    out = await sent.receive_message_out()
    if asking := retry_asked(turn.requests, out):
        for request in asking:
            request.retries += 1
        raise RetryAsked
    _next(turn, Step.STORE_STATE)
    return out


async def store_state(turn: Turn, store: Store, state: State, out: MessageOut) -> Stored:
    if turn.abandoned:  # a 504 has gone out and said `not_applied`: keep that promise
        raise Abandoned
    stored = await store.store_state(turn, state, out)
    _next(turn, Step.SEND_RESPONSE)
    return stored


def send_response(turn: Turn, stored: Stored) -> None:
    timings = _timings(turn)
    for request, response in zip(turn.requests, _responses(turn.requests, stored, timings), strict=True):
        request.answer(response)


def _next(turn: Turn, step: Step) -> None:
    turn.marks.append(perf_counter())
    turn.step = step


def _timings(turn: Turn) -> Sequence[tuple[Step, float]]:
    """Seconds each of the first five steps took; the first counts from when the turn began."""
    begin = turn.begun_s
    timings = []
    for step, end in zip(_TIMED_STEPS, turn.marks, strict=True):
        timings.append((step, end - begin))
        begin = end
    return timings


def _responses(
    requests: Sequence[Request], stored: Stored, timings: Sequence[tuple[Step, float]]
) -> Sequence[Response]:
    return [
        Response(
            body=b"null" if answer.response is None else answer.response,
            content_type=stored.content_type,
            version=version,
            function_error=answer.error,
            timings=timings,
        )
        for answer, version in zip(stored.answers, stored.versions, strict=True)
    ]
