"""Answers of messages from outside: looked up and waited for; messages withdrawn. One trio task.

Who waits is looked up again after 5 ms, later after 50 ms, all together in one statement; `hint` (this node
has just committed something) hurries it, no more. A forwarded answer is followed to where it will be.
The connection is opened when the first question comes.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from time import perf_counter
from typing import Final

import attrs
import trio

from inversion import json_text
from inversion.errors import Code, InversionError, RequestRefused, StoreUnavailable
from inversion.gate import Gate, Walk
from inversion.messages import Address, Receipt, Response
from inversion.names import NO_KEY
from inversion.state import arrays, rows, sql
from inversion.state.dialing import ConnectionLost, Settings, UnfitServer
from inversion.state.lane import Backoff, Knocking
from inversion.state.postgres import Connection, Rows, StatementFailed, refused
from inversion.state.rows import ELSEWHERE

#: Looked up with one statement.
_MOST: Final = 256
#: Between two looks for the same answer: from the first to the longest.
_FIRST_S: Final = 0.005
_LONGEST_S: Final = 0.05
#: After a look it rests so long for each that waits: ten thousand must not take the database for themselves.
_REST_S: Final = 0.000_005
#: When the node drains those who wait have so much longer: most answers are on their way.
_FAREWELL_S: Final = 2.0
#: A question that the database does not answer is given up so long after its deadline.
_PATIENCE_S: Final = 1.0
#: Of a record that no turn wrote: a dead letter.
_NO_TURN: Final = bytes(16)
_CODES: Final = {code.wire: code for code in Code}
_TOLD: Final = ("code", "message")


@attrs.define(slots=True, eq=False)
class Question:
    """Somebody wants an answer, or a message withdrawn."""

    receipt: Receipt
    deadline_s: float  #: perf_counter: until then it is waited for
    withdraws: bool = False
    forwarded: bool = False
    next_s: float = 0.0
    pause_s: float = _FIRST_S
    asked_s: float = attrs.field(factory=perf_counter)


QuestionWalk = Walk[Question, Response | None]


class _Desk(Gate[Question, Response | None]):
    """Where walks wait with their questions."""

    def __init__(self) -> None:
        super().__init__()
        self.asking: dict[QuestionWalk, Question] = {}
        self.wake = trio.Event()

    def park(self, walk: QuestionWalk) -> None:
        self.asking[walk] = walk.item
        self.wake.set()

    def leave(self, walk: QuestionWalk, question: Question, with_: Response | Exception | None) -> None:
        """It goes on, unless it has left already and waits elsewhere, or for something else."""
        if self.asking.get(walk) is not question:
            return
        del self.asking[walk]
        if isinstance(with_, Exception):
            walk.throw(with_)
        else:
            walk.resume(with_)


class Outputs:
    """Of one node. `run` it as a task; the rest is for walks and the node's sweep."""

    def __init__(self, conninfo: str, knocking: Knocking) -> None:
        self._conninfo = conninfo
        self._knocking = knocking
        self._connection: Connection | None = None
        self._desk = _Desk()
        self._hints: set[Receipt] = set()
        self._last_orders_s = inf

    async def find(self, receipt: Receipt, deadline_s: float = 0.0) -> Response | None:
        """The answer, waited for until then; None: it is still to come.

        Raises RequestRefused (`no_output`) for what nobody knows of, and StoreUnavailable.
        """
        return await self._desk.wait(Question(receipt, deadline_s))

    async def withdraw(self, receipt: Receipt) -> None:
        """A message is not to be delivered. Raises RequestRefused if it was, or is not known."""
        await self._desk.wait(Question(receipt, perf_counter() + Settings().reply_timeout_s, withdraws=True))

    def hint(self, target: Address, id_: str) -> None:
        """It may be there now."""
        if self._desk.asking:
            self._hints.add(Receipt(target, id_))
            self._desk.wake.set()

    def drain(self) -> None:
        """Nobody waits for much longer."""
        self._last_orders_s = perf_counter() + _FAREWELL_S

    def sweep(self, now_s: float) -> None:
        """Let go of those whom the database keeps waiting for too long."""
        late_s = now_s - _PATIENCE_S
        for walk, question in list(self._desk.asking.items()):
            if max(question.deadline_s, question.asked_s) < late_s:
                self._desk.leave(walk, question, StoreUnavailable("the database did not answer in time"))

    async def run(self) -> None:
        """Serve until cancelled."""
        backoff = Backoff()
        try:
            while True:
                await self._rest()
                due = self._due(perf_counter())
                if not due:
                    continue
                try:
                    connection = await self._connected()
                    for first in range(0, len(due), _MOST):
                        await self._look(connection, due[first : first + _MOST])
                    backoff.reset()
                except ConnectionLost:
                    await backoff.pause()
                await trio.sleep(len(self._desk.asking) * _REST_S)
        finally:
            if self._connection is not None:
                self._connection.close()

    async def _rest(self) -> None:
        """Until somebody is due."""
        desk = self._desk
        desk.wake = trio.Event()
        next_s = min((question.next_s for question in desk.asking.values()), default=inf)
        if not self._hints:
            with trio.move_on_after(max(0.0, next_s - perf_counter())):
                await desk.wake.wait()
        await trio.lowlevel.checkpoint()

    def _due(self, now_s: float) -> list[tuple[QuestionWalk, Question]]:
        hints, self._hints = self._hints, set()
        return [
            (walk, question)
            for walk, question in self._desk.asking.items()
            if question.next_s <= now_s or question.receipt in hints
        ]

    async def _connected(self) -> Connection:
        if self._connection is not None and self._connection.alive():
            return self._connection
        while True:
            await self._knocking.turn()
            try:
                self._connection = await Connection.open(self._conninfo, Settings())
            except (ConnectionLost, StatementFailed, UnfitServer) as failure:
                self._knocking.failed(failure, "no database")
            else:
                self._knocking.succeeded()
                return self._connection

    async def _look(self, connection: Connection, asking: Sequence[tuple[QuestionWalk, Question]]) -> None:
        for walk, question in asking:
            if question.withdraws:
                await self._withdraw(connection, walk, question)
        targets = [question.receipt.target for _, question in asking]
        try:
            found = await connection.execute(
                sql.OUTPUTS,
                [
                    arrays.texts([function.encode() for function, _ in targets]),
                    arrays.texts([(key or NO_KEY).encode() for _, key in targets]),
                    arrays.texts([question.receipt.id.encode() for _, question in asking]),
                ],
            )
        except StatementFailed as failure:
            for walk, question in asking:
                self._desk.leave(walk, question, refused("to look for the answer", failure))
            return
        now_s = perf_counter()
        for row, place in enumerate(rows.places(found)):
            walk, question = asking[place]
            self._settle(walk, question, found, row, now_s)

    async def _withdraw(self, connection: Connection, walk: QuestionWalk, question: Question) -> None:
        target, id_ = question.receipt
        try:
            gone = await connection.execute(
                sql.WITHDRAW, [target.function.encode(), (target.key or NO_KEY).encode(), id_.encode()]
            )
        except StatementFailed as failure:
            self._desk.leave(walk, question, refused("to withdraw the message", failure))
        else:
            if gone.count and not gone.warned:
                self._desk.leave(walk, question, None)

    def _settle(self, walk: QuestionWalk, question: Question, found: Rows, row: int, now_s: float) -> None:
        """What the database says of one question."""
        state = int.from_bytes(found.value(row, 1) or b"", "big")
        if question.withdraws:
            self._desk.leave(walk, question, _withdrawn(state))
            return
        match state:
            case 0:
                answer = _answer(found, row)
                if answer.elsewhere is None:
                    self._desk.leave(walk, question, answer)
                else:
                    question.receipt, question.forwarded = answer.elsewhere, True
                    self._desk.wake.set()
            case 1 if now_s < min(question.deadline_s, self._last_orders_s):
                question.next_s = min(now_s + question.pause_s, question.deadline_s)
                question.pause_s = min(question.pause_s * 1.5, _LONGEST_S)
            case 1:
                self._desk.leave(walk, question, None)
            case _:
                self._desk.leave(walk, question, _unknown(question, withdrawn=state == 2))


def _answer(found: Rows, row: int) -> Response:
    """A recorded answer."""
    turn = found.value(row, 2)
    version = int.from_bytes(found.value(row, 3) or b"", "big") or None
    status = int.from_bytes(found.value(row, 4) or b"", "big")
    kind, body = (found.value(row, 5) or b"").decode(), found.value(row, 6) or b""
    if status == 200:
        return Response(body, kind, version)
    if status == ELSEWHERE:
        return Response(elsewhere=rows.receipt_of(body))
    said = json_text.decode_error(body, status)
    if turn == _NO_TURN and said.code in _CODES:
        more = json_text.plain_object(body) or {}
        more = {name: value for name, value in more.items() if name not in _TOLD}
        return Response(error=InversionError(_CODES[said.code], said.message, extra=more))
    return Response(version=version, function_error=said)


def _withdrawn(state: int) -> Exception | None:
    """Nothing was found that could be withdrawn; why."""
    match state:
        case 0:
            return RequestRefused(Code.TOO_LATE, "it was delivered: its output has the answer")
        case 1:
            return InversionError(Code.CONTENDED, "it was just being stored; try again", retry_after_s=1)
        case 2:
            return None  # by an earlier request
        case _:
            return _no_output("nothing was sent under this id, or longer ago than retention.keys")


def _unknown(question: Question, *, withdrawn: bool) -> InversionError:
    if withdrawn:
        return _no_output("this send was withdrawn before it was delivered")
    if question.forwarded:
        return _no_output("it was forwarded to a message that is not there any more")
    return _no_output("nothing was sent under this id, or its answer is older than retention.outputs")


def _no_output(detail: str) -> RequestRefused:
    return RequestRefused(Code.NO_OUTPUT, detail)
