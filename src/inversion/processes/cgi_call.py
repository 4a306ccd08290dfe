"""One request to a CGI program: its process, and what flows between it and its client.

    client -> stdin    the next piece is taken when the program has taken the last
    stdout -> client   the next piece is read when the client has taken the last

So a body of any length costs two pieces of memory. The answer ends with the process: its exit says whether
it is whole. A client that leaves takes its process group along. Nothing is ever run again. No task: the
calls of the watch, and a walk that waits for the head of the answer, then for its end.
"""

from __future__ import annotations

import select
from collections.abc import Callable, Mapping
from time import perf_counter
from typing import Final

from inversion.config import Crash, Function
from inversion.errors import Code, InversionError, RequestRefused, RuntimeBroken
from inversion.processes.cgi_client import Client, ClientGone, Framing, Pending
from inversion.processes.child import Child, Recipe, read_left, read_some, widen_pipe, write_some
from inversion.processes.log_lines import LogLine
from inversion.protocol.cgi import AnswerHead, BadAnswer, HeadReader
from inversion.watch import READABLE, WRITABLE, Watch

#: A client that closed its sending side has left: most that do so have closed the other side too.
_LEFT: Final = select.EPOLLRDHUP
#: A client is waited for as long as the function's timeout in all, and a second more for each KiB that it
#: sends or takes: a byte now and then does not keep a process for ever.
_CLIENT_BYTES_PER_S: Final = 1 << 10
_NOTHING: Final = memoryview(b"")


class CgiCall:
    """See the module. `head`, `forward`, `end`; or only `head`, when that fails or leads elsewhere."""

    def __init__(
        self,
        function: Function,
        env: Mapping[str, str],
        client: Client,
        takes_body: bool,
        recipe: Recipe,
        watch: Watch,
        log_line: LogLine,
        ended: Callable[[CgiCall], None],
    ) -> None:
        """Start it; `ended` is called when it is reaped. Raises OSError when there are no files left."""
        self._function = function
        self._client = client
        self._watch = watch
        self._log_line = log_line
        self._ended = ended
        self.crashed = False
        self.timed_out = False
        self.told_to_end = False
        self.child = Child(
            recipe,
            watch,
            log_line,
            self._exited,
            env={"SCRIPT_FILENAME": recipe.program, **recipe.env, **env},
        )
        self.head: Pending[AnswerHead] = Pending()
        self.end: Pending[bool] = Pending()  #: whether the client was told all
        self._reader = HeadReader()
        self._local: AnswerHead | None = None
        self._framing: Framing | None = None
        self._in = _NOTHING  #: taken from the client, not yet by the program
        self._writing = False
        self._hungry = takes_body  #: the client may send
        self._out = _NOTHING  #: taken from the program, not yet by the client
        self._reading = True
        self._drained = False  #: nothing more comes from the program
        self._last_said = False
        self._talking = True  #: with the client
        self._moved_s = self._swept_s = perf_counter()
        self._moved_bytes = 0
        self._waited_s = 0.0  #: for the client, in all
        self._interest = READABLE
        watch.add(self.child.stdout, self._read)
        watch.add(client.file, self._client_ready, self._interest)
        if takes_body:
            self._take_body()
        else:
            self.child.close_stdin()
            self._look_at_client()

    def forward(self, head: bytes, framing: Framing) -> None:
        """The head as the client gets it; from now on the body follows by itself."""
        self._framing = framing
        self._out = memoryview(head + framing.frame(self._reader.rest))
        self._reader.rest = b""
        self._send()

    def abandon(self) -> None:
        """The client has left: so does the process."""
        self._hang_up(ClientGone())

    def sweep(self, now_s: float) -> None:
        """Time has passed."""
        self.child.sweep(now_s)
        timeout_s = self._function.timeout_s
        for_client = self._talking and (bool(self._out) or self._hungry)
        if for_client:
            self._waited_s += now_s - self._swept_s
        self._swept_s = now_s
        if self._waited_s > timeout_s + self._moved_bytes / _CLIENT_BYTES_PER_S:
            self._too_slow()
        elif now_s - self._moved_s > timeout_s:
            self._moved_s = now_s  # the grace is the child's
            if for_client:
                self._too_slow()
            else:
                self.timed_out = self._talking
                detail = (
                    f"function {self._function.name}: no output within its timeout of {timeout_s:g} seconds"
                )
                extra = {"stderr": self.child.stderr.tail}
                self._terminate(now_s)
                self._hang_up(RuntimeBroken(Code.FUNCTION_TIMEOUT, detail, extra=extra))

    def _too_slow(self) -> None:
        self._waited_s = 0.0
        self._hang_up(RequestRefused(Code.SLOW_REQUEST, "the body of the request took too long to arrive"))

    # -- from the client to the program ------------------------------------------------------------------

    def _client_ready(self) -> None:
        if self._out:
            self._send()
        if not self._talking:
            return
        if self._hungry:
            self._take_body()
        elif self._client.left():
            self.abandon()

    def _take_body(self) -> None:
        try:
            data = self._client.receive()
        except (ClientGone, RequestRefused) as error:
            self._hang_up(error)
            return
        if data:
            self._moved(len(data))
            self._in = memoryview(data)
        self._feed()

    def _feed(self) -> None:
        """Write what the program takes. One that reads no more is free to."""
        if self._in:
            written = write_some(self.child.stdin, self._in)
            if written is None:
                self._in, self._hungry = _NOTHING, False
                self._close_stdin()
                return
            if written:
                self._moved(0)
                self._in = self._in[written:]
        if self._in:
            self._hungry = False
            if not self._writing:
                self._writing = True
                widen_pipe(self.child.stdin)
                self._watch.add(self.child.stdin, self._feed, WRITABLE)
        elif self._client.body_done:
            self._hungry = False
            self._close_stdin()
            return
        else:
            self._hungry = True
            if self._writing:
                self._writing = False
                self._watch.remove(self.child.stdin)
        self._look_at_client()

    def _close_stdin(self) -> None:
        self.child.close_stdin()
        self._look_at_client()

    def _look_at_client(self) -> None:
        """What is of interest of the socket just now."""
        if not self._talking:
            return
        what = _LEFT
        if self._hungry:
            what |= READABLE
        if self._out:
            what |= WRITABLE
        if what != self._interest:
            self._interest = what
            self._watch.change(self._client.file, what)

    # -- from the program to the client ------------------------------------------------------------------

    def _read(self) -> None:
        data = read_some(self.child.stdout)
        if data:
            self._moved(0)
            self._take(data)
        elif data is not None:
            self._pause()
            self._drained = True  # closed; what it comes to is told by its exit

    def _take(self, data: bytes) -> None:
        if not self._talking or self._local is not None:
            return
        if self._framing is None:
            self._read_head(data)
            return
        framed = self._framing.frame(data)
        self._out = memoryview(bytes(self._out) + framed if self._out else framed)
        self._send()

    def _read_head(self, data: bytes) -> None:
        try:
            head = self._reader.feed(data)
        except BadAnswer as bad:
            self._hang_up(self._broken(Code.PROTOCOL_ERROR, f"it {bad}"))
            return
        if head is None:
            return
        if head.local is not None:
            self._local = head  # it counts when the process has ended well
        elif self.child.exit is None or not self._has_crashed():
            self._pause()
            self.head.settle(head)

    def _send(self) -> None:
        """As much as the client takes, then whatever is next."""
        framing = self._framing
        assert framing is not None
        try:
            while True:
                if self._out:
                    sent = self._client.send(self._out)
                    if sent:
                        self._moved(sent)
                    self._out = self._out[sent:]
                    if self._out:
                        self._pause()
                        break
                if framing.complete or self._last_said:
                    self._finish(True)
                    break
                if self.child.exit is None:
                    self._resume()
                    break
                last = None if self.crashed else framing.end()
                if last is None:
                    self._tell_cut()
                    self._finish(False)
                    break
                self._last_said = True
                self._out = memoryview(last)
        except ClientGone:
            self.abandon()
            return
        self._look_at_client()

    def _pause(self) -> None:
        if self._reading:
            self._reading = False
            self._watch.remove(self.child.stdout)

    def _resume(self) -> None:
        if not self._reading and not self._drained:
            self._reading = True
            self._watch.add(self.child.stdout, self._read)

    # -- the end -----------------------------------------------------------------------------------------

    def _exited(self) -> None:
        """The process is reaped; what it had written before counts."""
        failure = self.child.failure
        self.crashed = failure is None and self._has_crashed()
        left = read_left(self.child.stdout)
        self._drained, self._reading = True, False
        self.child.close()
        self._ended(self)
        if failure is not None:
            wait_s = 1 if failure.is_shortage else 5
            self._hang_up(RuntimeBroken(Code.NO_RUNTIME, failure.sentence, retry_after_s=wait_s))
            return
        self._hungry, self._in = False, _NOTHING
        if left:
            self._take(left)
        if not self._talking:
            return
        if self._framing is not None:
            if not self._out:
                self._send()
        elif self.crashed:
            assert self.child.exit is not None
            detail = f"its process ended with {self.child.exit}"
            self._hang_up(self._broken(Code.FUNCTION_CRASHED, detail, self.child.exit.extra))
        elif self._local is not None:
            self._stop_talking()
            self.head.settle(self._local)
        else:
            said = (
                "before its header lines were complete"
                if self._reader.begun
                else "without having printed anything"
            )
            self._hang_up(self._broken(Code.PROTOCOL_ERROR, f"its process ended well, {said}"))

    def _has_crashed(self) -> bool:
        exit_ = self.child.exit
        assert exit_ is not None
        return exit_.status is None or (exit_.status != 0 and self._function.crash is Crash.STATUS)

    def _finish(self, whole: bool) -> None:
        """The client is done with; the process may live on for a while, unheard."""
        self._stop_talking()
        self._resume()
        self.end.settle(whole)

    def _hang_up(self, error: InversionError | ClientGone) -> None:
        """It failed. Where the head of the answer is on its way, the answer is cut."""
        if not self._talking:
            return
        self._stop_talking()
        self._in = self._out = _NOTHING
        self.child.close_stdin()
        if self.child.exit is None:
            self._terminate(perf_counter())
            self._resume()
        if self.head.settled:
            if isinstance(error, RuntimeBroken):
                self._tell_cut(error.detail)
            self.end.settle(False)
        else:
            self.head.settle(error)

    def _terminate(self, now_s: float) -> None:
        self.told_to_end = True
        self.child.terminate(now_s)

    def _stop_talking(self) -> None:
        self._talking = False
        self._hungry = False
        self._watch.remove(self._client.file)

    def _tell_cut(self, why: str | None = None) -> None:
        """Nobody else can be told: the head of the answer is gone."""
        why = why or f"its process ended with {self.child.exit}, or printed less than its Content-Length"
        self._log_line(self._function.name, "stderr", f"[the answer was cut after a part of it: {why}]")

    def _moved(self, client_bytes: int) -> None:
        self._moved_s = perf_counter()
        self._moved_bytes += client_bytes

    def _broken(self, code: Code, detail: str, extra: Mapping[str, object] | None = None) -> RuntimeBroken:
        extra = {**(extra or {}), "stderr": self.child.stderr.tail}
        return RuntimeBroken(code, f"function {self._function.name}: {detail}", extra=extra)
