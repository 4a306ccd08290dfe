"""The straight line: one turn, six steps, one screen.

A turn is one pass of one entity: one state, one or more requests, one commit. `store` and `runtime` are
arguments, so a test walks a turn with plain values. Nothing here awaits trio: each real wait parks the
turn at a gate (gate.py). A step that fails raises; the mailbox asks the verdict what becomes of the
requests. Until step 5 is sent nothing has happened, so a turn may be run again.
"""

from __future__ import annotations

from collections.abc import Mapping
from time import perf_counter
from typing import Protocol

from inversion.errors import Abandoned, RetryAsked
from inversion.messages import Answer, MessageIn, MessageOut, Recorded, Response, State, Stored, Turn
from inversion.protocol.verdict import key_reused, retry_asked, version_mismatch


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
    if not turn.requests:
        return  # each had been answered before: its key was known
    out = refuse_unmet(turn, state)
    if out is None:  # nearly always
        sent = await send_message_in(turn, runtime, state)  # 3  request + state, to a process
        out = await receive_message_out(turn, sent)  # 4  response + new state, from it
    stored = await store_state(turn, store, state, out)  # 5  one commit for the whole turn
    send_response(turn, stored)  # 6


def receive_request(turn: Turn) -> None:
    for request in turn.requests:
        request.turn = turn
    turn.marks.append(perf_counter())


async def load_state(turn: Turn, store: Store) -> State:
    state = await store.load_state(turn)
    turn.marks.append(perf_counter())
    if state.records:
        replay(turn, state.records)
    return state


def replay(turn: Turn, records: Mapping[str, Recorded]) -> None:
    """Give those whose key has a recorded answer that answer again, whatever has happened since."""
    for request in tuple(turn.requests):
        asked = request.idempotency
        recorded = None if asked is None else records.get(asked.id)
        if asked is None or recorded is None:
            continue
        turn.requests.remove(request)
        request.turn = None
        if recorded.hash != asked.hash:
            request.answer(Response(error=key_reused()))
            continue
        answer = recorded.answer
        request.answer(
            Response(
                b"null" if answer.response is None else answer.response,
                recorded.content_type,
                recorded.version if turn.address.key is not None else None,
                answer.refusal,
                answer.error,
                replayed=True,
                elsewhere=answer.elsewhere,
            )
        )


def refuse_unmet(turn: Turn, state: State) -> MessageOut | None:
    """The answer to a request whose condition does not hold. Step 5 sees to it that it is not outdated."""
    condition = turn.requests[0].condition  # who has one is alone in its turn
    if condition is None or condition.holds(state):
        return None
    turn.marks += (perf_counter(),) * 2  # the function is not asked
    return MessageOut([Answer(refusal=version_mismatch(state.version))])


async def send_message_in(turn: Turn, runtime: Runtime, state: State) -> Sent:
    if turn.abandoned:  # what expired in a queue is never sent
        raise Abandoned
    sent = await runtime.send_message_in(MessageIn.of(turn, state))
    turn.marks.append(perf_counter())
    return sent


async def receive_message_out(turn: Turn, sent: Sent) -> MessageOut:
    out = await sent.receive_message_out()
    if asking := retry_asked(turn.requests, out):
        for request in asking:
            request.retries += 1
        raise RetryAsked(out.answers[0].error)
    turn.marks.append(perf_counter())
    return out


async def store_state(turn: Turn, store: Store, state: State, out: MessageOut) -> Stored:
    if turn.abandoned:  # a 504 has gone out and said `not_applied`: keep that promise
        raise Abandoned
    stored = await store.store_state(turn, state, out)
    turn.marks.append(perf_counter())
    return stored


def send_response(turn: Turn, stored: Stored) -> None:
    for request, answer, version in zip(turn.requests, stored.answers, stored.versions, strict=True):
        request.answer(
            Response(
                b"null" if answer.response is None else answer.response,
                stored.content_type,
                version,
                answer.refusal,
                answer.error,
                turn.marks,
                False,
                answer.elsewhere,
            )
        )
