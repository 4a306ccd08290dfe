"""One call in `exec` mode: a process for programs that know nothing of us.

    in    the body on stdin, the context in INVERSION_*, the old state to be read from fd 3
    out   stdout is the response, what is written to fd 4 the new state: nothing keeps the old one,
          JSON is put, one empty line deletes
    end   exit status 0; another one stores nothing and is 502, or what `exit` in the config maps it to

A call is a few registered pipes, no task. After a death it is never run again: nobody knows what a program
that knows nothing of us had done by then.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping

import attrs

from inversion import json_text
from inversion.config import Function, Limits
from inversion.errors import Code, FunctionError, Overrun, RequestRefused, RuntimeBroken
from inversion.messages import Answer, Change, MessageIn, MessageOut
from inversion.processes.child import (
    Child,
    Exit,
    Recipe,
    open_pipe,
    raise_file,
    read_left,
    read_some,
    write_some,
)
from inversion.processes.flight import Flight
from inversion.processes.log_lines import TAIL_BYTES, LogLine
from inversion.protocol import cron
from inversion.watch import WRITABLE, Watch


class _Part:
    """What is read from one pipe until the exit, up to a limit."""

    __slots__ = ("_left_bytes", "chunks", "file", "overrun")

    def __init__(self, file: int, limit_bytes: int, overrun: tuple[Code, str]) -> None:
        self.file = file
        self.overrun = overrun  #: the code and the sentence for too much
        self.chunks: list[bytes] = []
        self._left_bytes = limit_bytes

    def add(self, data: bytes) -> bool:
        """False: that was too much."""
        self._left_bytes -= len(data)
        if self._left_bytes < 0:
            return False
        self.chunks.append(data)
        return True

    @property
    def whole(self) -> bytes:
        return self.chunks[0] if len(self.chunks) == 1 else b"".join(self.chunks)


class ExecCall:
    """One process that answers one message."""

    def __init__(
        self,
        function: Function,
        limits: Limits,
        message: MessageIn,
        recipe: Recipe,
        watch: Watch,
        log_line: LogLine,
        ended: Callable[[ExecCall], None],
    ) -> None:
        """Start it; `ended` is called when it is reaped. Raises OSError when there are no files left."""
        self.flight = Flight(message)
        self._function = function
        self._ended = ended
        self._watch = watch
        self._settled = False
        self.crashed = False  #: it ended with a status that the config does not map
        self._writing = False
        old_state = _old_state(message)
        opened = [old_state]
        try:
            opened += open_pipe()
            _, new_state, written_to = opened
            arguments = message.turn.requests[0].arguments
            self.child = Child(
                attrs.evolve(recipe, command=(*recipe.command, *arguments)) if arguments else recipe,
                watch,
                log_line,
                self._exited,
                env={**recipe.env, **_context(message)},
                files=((old_state, 3), (written_to, 4)),
            )
        except OSError:
            for file in opened:
                os.close(file)
            raise
        os.close(old_state)
        os.close(written_to)
        os.set_blocking(new_state, False)
        self._response = _Part(
            self.child.stdout,
            limits.response_bytes,
            (
                Code.RESPONSE_TOO_LARGE,
                f"the response has more than limits.response = {limits.response_bytes} bytes",
            ),
        )
        self._state = _Part(
            new_state,
            limits.state_bytes,
            (Code.STATE_TOO_LARGE, f"the new state has more than limits.state = {limits.state_bytes} bytes"),
        )
        watch.add(self._response.file, self._read_response)
        watch.add(self._state.file, self._read_state)
        self._unsent = memoryview(message.turn.requests[0].body)
        self._write_body()

    def sweep(self, now_s: float) -> None:
        """Time has passed: the function's timeout, and the grace after it."""
        self.child.sweep(now_s)
        timeout_s = self._function.timeout_s
        if not self._settled and now_s - self.child.started_s >= timeout_s:
            self.child.terminate(now_s)
            detail = f"no answer within its timeout of {timeout_s:g} seconds"
            self._settle(self._broken(Code.FUNCTION_TIMEOUT, detail))

    def _write_body(self) -> None:
        written = write_some(self.child.stdin, self._unsent)
        if written is None or written == len(self._unsent):
            self.child.close_stdin()  # a program that does not want its input is free not to read it
            return
        self._unsent = self._unsent[written:]
        if not self._writing:
            self._writing = True
            self._watch.add(self.child.stdin, self._write_body, WRITABLE)

    def _read_response(self) -> None:
        self._read(self._response)

    def _read_state(self) -> None:
        self._read(self._state)

    def _read(self, part: _Part) -> None:
        data = read_some(part.file)
        if data:
            self._take(part, data)
        elif data is not None:
            self._watch.remove(part.file)

    def _take(self, part: _Part, data: bytes) -> None:
        if not self._settled and not part.add(data):
            self.child.kill()
            code, detail = part.overrun
            self._settle(Overrun(code, self._sentence(detail)))

    def _exited(self) -> None:
        """The process is reaped; what it had written before counts."""
        for part in (self._response, self._state):
            if left := read_left(part.file):
                self._take(part, left)
        self._watch.close_file(self._state.file)
        self.child.close()
        self._ended(self)
        if not self._settled:
            failure = self.child.failure
            if failure is None:
                self._settle(self._outcome())
            else:
                wait_s = 1 if failure.is_shortage else 5
                self._settle(RuntimeBroken(Code.NO_RUNTIME, failure.sentence, retry_after_s=wait_s))

    def _settle(self, result: MessageOut | RuntimeBroken) -> None:
        self._settled = True
        self.flight.settle(result)

    def _outcome(self) -> MessageOut | RuntimeBroken:
        exit_ = self.child.exit
        assert exit_ is not None
        if exit_.status != 0:
            return self._failure(exit_)
        try:
            return self._message_out()
        except RuntimeBroken as broken:
            return broken.with_traceback(None)  # its frames hold all that was written

    def _failure(self, exit_: Exit) -> MessageOut | RuntimeBroken:
        """A status that the config maps is the function's answer; any other is a crash."""
        status = None if exit_.status is None else self._function.exit.get(exit_.status)
        if status is None or exit_.status is None:
            extra = {**exit_.extra, "stderr": self.child.stderr.tail}
            detail = self._sentence(f"its process ended with {exit_}")
            self.crashed = True
            return RuntimeBroken(Code.FUNCTION_CRASHED, detail, extra=extra)
        said = self.child.stderr.tail or self._response.whole[-TAIL_BYTES:].decode(errors="replace").strip()
        details = b'{"exit_status":%d}' % exit_.status
        error = FunctionError("function_error", said or f"{exit_}", status, details=details, retry=False)
        return MessageOut([Answer(error=error)])

    def _message_out(self) -> MessageOut:
        response = self._response.whole
        content_type = self._function.output
        if content_type == "json":
            content_type = "application/json"
            response = self._json(response, 'stdout (output = "json")')
        change, state = self._new_state()
        changed = change is not Change.KEEP
        return MessageOut([Answer(response, None, changed)], change, state, content_type)

    def _new_state(self) -> tuple[Change, bytes | None]:
        written = self._state.whole
        if not written:
            return Change.KEEP, None
        if self.flight.message.turn.address.key is None:
            raise self._broken(Code.PROTOCOL_ERROR, "it wrote a state (fd 4) in a stateless call")
        if written in (b"\n", b"\r\n"):
            return Change.DELETE, None
        return Change.PUT, self._json(written, "the new state (fd 4)")

    def _json(self, text: bytes, what: str) -> bytes:
        try:
            return json_text.check(text.strip())
        except RequestRefused as refusal:
            raise self._broken(Code.PROTOCOL_ERROR, f"{what}: {refusal.detail}") from None

    def _broken(self, code: Code, detail: str) -> RuntimeBroken:
        return RuntimeBroken(code, self._sentence(detail), extra={"stderr": self.child.stderr.tail})

    def _sentence(self, what: str) -> str:
        return f"function {self._function.name}: {what}"


def _context(message: MessageIn) -> Mapping[str, str]:
    """ctx of protocol.md as environment; what a stateless call has not, is not set."""
    request = message.turn.requests[0]
    env = {
        "INVERSION_ID": message.id,
        "INVERSION_FUNCTION": request.address.function,
        "INVERSION_HANDLER": request.handler,
        "INVERSION_ATTEMPT": str(request.attempt),
        "INVERSION_NOW": request.now,
        "INVERSION_DEADLINE": request.deadline,
        "INVERSION_SEED": request.seed,
        "INVERSION_CONTENT_TYPE": request.content_type,
    }
    if request.address.key is not None:
        env["INVERSION_KEY"] = request.address.key
        env["INVERSION_VERSION"] = str(message.state.version)
    if request.trace is not None:
        env["INVERSION_TRACE"] = request.trace
    if (delivery := request.delivery) is not None and delivery.sender.startswith(cron.SENDER):
        schedule, instant = cron.meta_of(delivery.sender, delivery.sender_version)
        env["INVERSION_CRON"] = schedule
        env["INVERSION_SCHEDULED"] = instant
    return env


def _old_state(message: MessageIn) -> int:
    """A file to read the state from. None there is: /dev/null, which reads like an empty one."""
    value = message.state.value
    if value is None or message.turn.address.key is None:
        return raise_file(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC))
    file = raise_file(os.memfd_create("inversion-state", os.MFD_CLOEXEC))
    os.write(file, value)
    os.lseek(file, 0, os.SEEK_SET)
    return file
