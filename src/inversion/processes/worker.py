"""One process and one conversation: frames out in gathered writes, many answers per read.

The worker is the roster's `Seat` and keeps it true. It ends in one of three ways: it is told to leave
(`leave`), it breaks a rule or takes too long (its flights are settled at once, the process gets TERM, then
KILL), or it exits by itself. Each time `Host.left` comes last, once, when the process is reaped.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from time import perf_counter
from typing import Final, Protocol

from inversion.config import Channel, Function, HelloRule, Limits
from inversion.errors import Code, ProcessDied, RuntimeBroken
from inversion.messages import SILENT, Hello, MessageIn, Turn
from inversion.processes.child import (
    READ_BYTES,
    Child,
    Recipe,
    open_pipe,
    read_left,
    read_some,
    widen_pipe,
    write_some,
)
from inversion.processes.flight import Flight
from inversion.processes.log_lines import LogLine, LogLines
from inversion.processes.noise import ANSWER_S, PASS_S, LogPipe, Noise
from inversion.protocol.conversation import Answered, Conversation, Life, Said, Stray
from inversion.protocol.roster import Seat
from inversion.watch import WRITABLE, Watch

#: After that a process that may say hello is taken for silent.
HELLO_S: Final = 10.0
#: A process that closed a pipe of the conversation has this long to exit.
CLOSED_S: Final = 1.0
#: Read at a time from a process that is not known yet: more while nothing but frames comes, less after a
#: read of lines that are none and took too long.
_FIRST_READ_BYTES: Final = 16 << 10
_NOISY_READ_BYTES: Final = 64 << 10
_LEAST_READ_BYTES: Final = 128
#: Lines that are no frames, of what a process left behind: more would take tens of milliseconds.
_LAST_LINES: Final = 4_096


class Host(Protocol):
    """What a worker tells its pool."""

    def spoke(self, worker: Worker, hello: Hello) -> None:
        """Its first frame has come."""

    def freed(self, worker: Worker) -> None:
        """It has room again."""

    def left(self, worker: Worker) -> None:
        """Its process is gone, its flights are settled."""


class Worker(Seat):
    """A process that serves one function."""

    def __init__(
        self, host: Host, function: Function, recipe: Recipe, limits: Limits, watch: Watch, log_line: LogLine
    ) -> None:
        """Have the process started. Raises OSError when there are no files or processes left."""
        super().__init__(idle_since_s=perf_counter())
        self._host = host
        self._function = function
        self._watch = watch
        self._conversation = Conversation(function, limits)
        self._flights: dict[str, Flight] = {}
        self._outbox: list[bytes] = []
        self._unsent: memoryview | None = None  # the rest of a write that did not fit into the pipe
        self._flush_due = False
        self._end_by_s: float | None = None
        self._end = "its process is still there"
        self._busy_since_s = 0.0
        self._read_bytes = _FIRST_READ_BYTES
        self.dismissed = False  #: it was told to leave
        self.overdue = False  #: its required hello did not come in time
        self.probe = False  #: it was started to see whether its function works again
        self.answered = 0
        self.strays = 0
        self._log_pipe: LogPipe | None = None  # of stdout, when frames come on fd 3
        self._stdout = LogLines(function.name, "stdout", log_line)
        self.child = self._start(recipe, log_line)
        self._learn()

    def _start(self, recipe: Recipe, log_line: LogLine) -> Child:
        if self._function.channel is Channel.STDIO:
            child = Child(recipe, self._watch, log_line, self._exited)
            self._frames = child.stdout
        else:
            with ExitStack() as undo:
                self._frames, theirs = open_pipe()
                undo.callback(os.close, self._frames)
                try:
                    child = Child(recipe, self._watch, log_line, self._exited, files=[(theirs, 3)])
                finally:
                    os.close(theirs)
                undo.pop_all()
            os.set_blocking(self._frames, False)
            self._log_pipe = LogPipe(self._watch, child.stdout, self._stdout)
        widen_pipe(child.stdin)
        widen_pipe(self._frames)
        self._noise = Noise(self._watch, self._frames)
        self._watch.add(self._frames, self._read)
        return child

    # -- messages out ------------------------------------------------------------------------------------

    def send(self, message: MessageIn) -> Flight:
        """Take a message. An idle process gets it at once, a busy one with what else gathers in this pass."""
        flight = Flight(message)
        self._flights[message.id] = flight
        self._outbox.append(self._conversation.send(message))
        self.exclusive = message.exclusive
        self.in_flight += 1
        if self.in_flight == 1:
            self.head_began_s = self._busy_since_s = perf_counter()
            if not (self._flush_due or self._watch.in_round):
                self._flush()
                return flight
        if not self._flush_due:
            self._flush_due = True
            self._watch.later(self._flush)
        return flight

    def _flush(self) -> None:
        self._flush_due = False
        if self.child.stdin < 0:
            self._outbox.clear()
            return
        if self._unsent is None:
            if not self._outbox:
                return
            data = self._outbox[0] if len(self._outbox) == 1 else b"".join(self._outbox)
            self._outbox.clear()
            self._unsent = memoryview(data)
        written = write_some(self.child.stdin, self._unsent)
        if written is None:
            self._input_closed()
        elif written == len(self._unsent):
            self._unsent = None
            if self._outbox:
                self._flush()
        else:
            # The pipe is full. `_flush_due` keeps `send` from trying again before there is room.
            self._unsent = self._unsent[written:]
            self._flush_due = True
            self._watch.remove(self.child.stdin)
            self._watch.add(self.child.stdin, self._room_again, WRITABLE)

    def _room_again(self) -> None:
        self._watch.remove(self.child.stdin)
        self._flush()

    def _input_closed(self) -> None:
        """It reads no more; what it has answered already may still come."""
        self._outbox.clear()
        self._unsent = None
        self.child.close_stdin()
        self._must_end_soon()

    # -- answers in --------------------------------------------------------------------------------------

    def _read(self) -> None:
        now_s = perf_counter()  # reading is the most of what a long line costs
        data = read_some(self._frames, self._read_bytes)
        if data:
            if len(data) == self._read_bytes:  # there is more
                self._read_bytes = min(2 * len(data), _NOISY_READ_BYTES if self.strays else READ_BYTES)
            self._hear(data, now_s)
        elif data is not None:
            self._watch.remove(self._frames)
            self._must_end_soon()

    def _hear(self, data: bytes, now_s: float) -> None:
        conversation = self._conversation
        was_hello = conversation.hello
        head = next(iter(self._flights), None)
        events = conversation.receive(data)
        settled: list[tuple[Flight, Answered]] = []
        said = False
        strays = self.strays
        broken: str | None = None
        for event in events:
            if isinstance(event, Answered):
                settled.append((self._flights.pop(event.id), event))
            elif isinstance(event, Stray):
                self._stray(event.lines, now_s)
            elif isinstance(event, Said):
                said = True
            else:
                broken = event.reason
        if self.strays != strays or (not events and conversation.is_wasted):
            self._pay(len(data), perf_counter() - now_s, answered=bool(settled))
        if said and self._flights:
            # It could not begin before it was up: starting is not counted as work.
            self.head_began_s = self._busy_since_s = now_s
        if settled:
            self._note_answers(len(settled), head, now_s)
            if self.strays:
                self._noise.left_s += len(settled) * ANSWER_S
        if conversation.hello is not was_hello and conversation.hello is not None:
            self._learn()
            self._host.spoke(self, conversation.hello)
        for flight, answered in settled:
            if isinstance(answered.result, RuntimeBroken):
                flight.settle(self._with_name(answered.result))
            else:
                flight.settle(answered.result)
        if broken is not None:
            self._break(Code.PROTOCOL_ERROR, broken)
        if settled or conversation.hello is not was_hello:
            self._host.freed(self)

    def _note_answers(self, answers: int, head: str | None, now_s: float) -> None:
        self.answered += answers
        self.in_flight = left = len(self._flights)
        self.served(answers, now_s - self._busy_since_s)
        self._busy_since_s = now_s
        if head not in self._flights:
            self.head_began_s = now_s
        if not left:
            self.exclusive = False
            self.idle_since_s = now_s

    def _pay(self, data_bytes: int, took_s: float, *, answered: bool) -> None:
        """It was noise: such a pass has to be short. One that brought an answer is paid for by that."""
        if not answered:
            self._noise.spend(took_s)
        if took_s > PASS_S:
            self._read_bytes = max(int(data_bytes * PASS_S / took_s), _LEAST_READ_BYTES)

    def _stray(self, lines: Sequence[bytes], now_s: float) -> None:
        first = not self.strays
        self.strays += len(lines)
        self._stdout.lines(lines, now_s)
        if first:
            self._note('the above is no frame: kept as a log line; channel = "fd3" keeps them apart')

    def _learn(self) -> None:
        """Tell the planner what is known of the process."""
        hello = self._conversation.hello
        self.limit = self._conversation.depth
        if hello is not None:
            self.batch = hello.batch
            self.spoken = True
        self.plan_depth()

    # -- its end -----------------------------------------------------------------------------------------

    def leave(self, now_s: float) -> None:
        """No more messages; stdin is closed, and what does not leave is ended."""
        self.leaving = self.dismissed = True
        self._conversation.leave()
        self.child.send_off(now_s)

    def sweep(self, now_s: float) -> None:
        """Time has passed: hello, timeout, farewell."""
        self.child.sweep(now_s)
        self._noise.sweep(now_s, self._read)
        self._stdout.sweep(now_s)
        if self._log_pipe is not None:
            self._log_pipe.sweep(now_s)
        if self.life is Life.GONE:
            return
        if self._end_by_s is not None and now_s >= self._end_by_s:
            self._break(Code.FUNCTION_CRASHED, "it closed its end of a pipe and did not exit")
            self.child.kill()
        elif self.in_flight and now_s - self.head_began_s >= self._function.timeout_s:
            self._time_out()
        elif not self.spoken and now_s - self.child.started_s >= HELLO_S:
            if self._function.hello is HelloRule.REQUIRED:
                self.overdue = True
                self._break(Code.PROTOCOL_ERROR, f"it did not say hello within {HELLO_S:g} seconds")
            else:
                self.spoken = True
                self._host.spoke(self, SILENT)

    def begun_s(self, turn: Turn) -> float | None:
        """When the process could begin this turn; None: it is not the oldest here."""
        head = next(iter(self._flights.values()), None)
        return self.head_began_s if head is not None and head.message.turn is turn else None

    @property
    def life(self) -> Life:
        return self._conversation.life

    @property
    def hello(self) -> Hello | None:
        return self._conversation.hello

    def how_it_ended(self) -> RuntimeBroken:
        """For messages that waited for a process which is gone before it could take any."""
        extra = {
            "stderr": self.child.stderr.tail,
            **({} if self.child.exit is None else self.child.exit.extra),
        }
        return RuntimeBroken(Code.FUNCTION_CRASHED, self._sentence(self._end), extra=extra)

    def _time_out(self) -> None:
        oldest = self._flights.pop(next(iter(self._flights)))
        detail = self._sentence(f"no answer within its timeout of {self._function.timeout_s:g} seconds")
        error = RuntimeBroken(Code.FUNCTION_TIMEOUT, detail, extra={"stderr": self.child.stderr.tail})
        self._break(Code.FUNCTION_CRASHED, "its process was ended because another message took too long")
        oldest.settle(error)

    def _break(self, code: Code, reason: str) -> None:
        """Its process has to go. Nothing it says from now on counts; it is drained until it is gone."""
        self.leaving = True
        self._end = reason
        self._conversation.end()
        self._outbox.clear()
        self._unsent = None
        self.child.terminate(perf_counter())
        self._lose_flights(code, {})

    def _lose_flights(self, code: Code, extra: Mapping[str, object]) -> None:
        flights = list(self._flights.values())
        self._flights.clear()
        self.in_flight = 0
        for flight in flights:
            extra = {**extra, "stderr": self.child.stderr.tail}
            flight.settle(ProcessDied(code, self._sentence(self._end), extra=extra))

    def _refuse_flights(self, problem: str) -> None:
        """It never ran."""
        flights = list(self._flights.values())
        self._flights.clear()
        self.in_flight = 0
        for flight in flights:
            flight.settle(RuntimeBroken(Code.NO_RUNTIME, problem))

    def _must_end_soon(self) -> None:
        self.leaving = True
        if self._end_by_s is None:
            self._end_by_s = perf_counter() + CLOSED_S

    def _exited(self) -> None:
        """The process is reaped. What it had written before counts."""
        self.leaving = True
        exit_ = self.child.exit
        assert exit_ is not None
        if left := read_left(self._frames):
            self._hear_the_rest(left)
        self._noise.stop()
        if self.life is not Life.GONE:
            self._end = f"its process ended with {exit_}"
        if torn_bytes := self._conversation.end():
            self._note(f"{torn_bytes} bytes without a newline at its end were thrown away")
        if self._function.channel is Channel.FD3:
            self._watch.close_file(self._frames)
            if self._log_pipe is not None:
                self._log_pipe.stop()
            if self.child.stdout >= 0 and (printed := read_left(self.child.stdout)):
                self._stdout.feed(printed, perf_counter())
        self._stdout.end()
        self.child.close()
        if self.child.failure is None:
            self._lose_flights(Code.FUNCTION_CRASHED, exit_.extra)
        else:
            self._refuse_flights(self.child.failure.sentence)
        self._host.left(self)

    def _hear_the_rest(self, left: bytes) -> None:
        """What it had written before counts. Of a flood that would hold up the loop, only the beginning."""
        strays = self.strays
        for at in range(0, len(left), _NOISY_READ_BYTES):
            if self.strays - strays > _LAST_LINES:
                self._note(f"{len(left) - at} bytes that it had written before its end were not read")
                return
            self._hear(left[at : at + _NOISY_READ_BYTES], perf_counter())

    def _note(self, text: str) -> None:
        self._stdout.lines([f"[{text}]".encode()], perf_counter())

    def _sentence(self, what: str) -> str:
        return f"function {self._function.name}: {what}"

    def _with_name(self, error: RuntimeBroken) -> RuntimeBroken:
        return type(error)(error.code, self._sentence(error.detail), extra=error.extra)
