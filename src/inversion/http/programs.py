"""ANY /v1/http/{fn}/...: CGI programs behind the front door (RFC 3875).

A request goes on as it came: method, path behind the function's name, query, fields, body. What the program
says of its answer is checked (protocol/cgi.py); a local redirect is a GET of another CGI program of this
node, ten at most. Nothing is stored, nothing is ever run again.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from time import perf_counter
from typing import Final, Protocol

from inversion import __version__, config, ids
from inversion.config import Mode
from inversion.errors import Code, InversionError, Outcome, RequestRefused, RuntimeBroken
from inversion.http.asked import draining, function_name
from inversion.http.framing import HttpRequest
from inversion.http.lending import Lent, Takeover, take_over
from inversion.http.problem import problem
from inversion.http.service import HttpResponse
from inversion.observe.metrics import FunctionCounters
from inversion.processes.cgi_call import CgiCall
from inversion.processes.cgi_mode import CgiPool
from inversion.protocol.cgi import MAX_HOPS, AnswerHead, Asked, variables

PREFIX: Final = b"/v1/http/"
_SOFTWARE: Final = f"inversion/{__version__}"
_FIELDS: Final = b"%bInversion-Id: %b\r\n"


class Calls(Protocol):
    """What is asked of calls.py."""

    @property
    def draining(self) -> bool: ...

    def function(self, name: str) -> config.Function: ...


class Programs:
    """The CGI programs of a node."""

    def __init__(
        self,
        calls: Calls,
        pools: Mapping[str, object],
        counters: Mapping[str, FunctionCounters],
        tally: Callable[[Code], None],
    ) -> None:
        self._calls = calls
        self._pools = pools
        self._counters = counters
        self._tally = tally

    def answer(self, request: HttpRequest, segments: Sequence[bytes]) -> Takeover:
        """Raises RequestRefused for what no program is asked for."""
        if self._calls.draining and not request.early:
            raise draining()
        name = self._program(segments[3] if len(segments) > 3 else b"")
        path = request.path[len(PREFIX) + len(name) :]
        return take_over(partial(self._talk, request, name, path, request.query))

    def _program(self, segment: bytes) -> str:
        function = self._calls.function(function_name(segment))
        if function.mode is not Mode.CGI:
            raise RequestRefused(
                Code.BAD_REQUEST,
                f'{function.name} is no CGI program (mode = "{function.mode.value}"): it is called at '
                f"/v1/call/{function.name}",
            )
        return function.name

    async def _talk(
        self, request: HttpRequest, name: str, path: bytes, query: bytes | None, lent: Lent
    ) -> HttpResponse | None:
        begun_s = perf_counter()
        id_ = ids.new_id()
        counted = self._counters[name]
        outcome = Outcome.UNKNOWN
        try:
            call, head = await self._follow(request, name, path, query, lent, id_)
            fields = _FIELDS % (head.fields, id_.encode("ascii"))
            has_body = head.has_body(request.method)
            call.forward(*lent.begin(head.status, head.reason, fields, has_body=has_body, length=head.length))
            lent.whole = await call.end.wait()
            if lent.whole:
                outcome = Outcome.APPLIED
        except InversionError as error:
            self._tally(error.code)
            outcome = error.outcome
            return problem(error, id_)
        finally:
            lent.ended = _nothing
            counted.answered(outcome, perf_counter() - begun_s)
        return None

    async def _follow(
        self, request: HttpRequest, name: str, path: bytes, query: bytes | None, lent: Lent, id_: str
    ) -> tuple[CgiCall, AnswerHead]:
        """The program that answers, after local redirects."""
        method, length, fields = request.method, lent.length, request.fields
        client, server = lent.client, lent.server
        takes_body = not lent.body_done
        for _ in range(MAX_HOPS + 1):
            script = PREFIX + name.encode("ascii")
            asked = Asked(
                method, script, path, query, fields, length, request.old, client=client, server=server
            )
            env = variables(asked, _SOFTWARE)
            env["INVERSION_ID"] = id_
            env["INVERSION_FUNCTION"] = name
            pool = self._pools[name]
            assert isinstance(pool, CgiPool)
            call = await pool.begin(env, lent, takes_body=takes_body)
            lent.ended = call.abandon
            head = await call.head.wait()
            if head.local is None:
                return call, head
            path, question, found = head.local.partition(b"?")
            query = found if question else None
            name, path = self._local(name, path)
            method = b"HEAD" if method == b"HEAD" else b"GET"
            length, takes_body = None, False
            fields = {name: value for name, value in fields.items() if not name.startswith(b"content-")}
        detail = f"function {name}: more than {MAX_HOPS} local redirects (a Location that is a path)"
        raise RuntimeBroken(Code.TOO_MANY_HOPS, detail)

    def _local(self, name: str, target: bytes) -> tuple[str, bytes]:
        """Where a local redirect leads: function and path behind its name."""
        try:
            if not target.startswith(PREFIX):
                raise RequestRefused(Code.BAD_REQUEST, "only paths of CGI programs are served like this")
            other = self._program(target.split(b"/")[3])
        except RequestRefused as refusal:
            shown = target[:200].decode("utf-8", "replace")
            raise RuntimeBroken(
                Code.PROTOCOL_ERROR,
                f"function {name}: it redirects locally to {shown}: {refusal.detail}; a Location begins with "
                "SCRIPT_NAME, or is a whole URL, or comes with `Status: 302 Found` for the client to follow",
            ) from None
        return other, target[len(PREFIX) + len(other) :]


def _nothing() -> None:
    """Nobody has to be told any more."""
