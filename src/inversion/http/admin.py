"""The admin door: health, metrics, functions, messages, and every ingress route with states readable.

On TCP the Host must be an IP literal, localhost or a configured name (a web page that rebinds its own name
to 127.0.0.1 is kept out), a foreign Origin is refused, and all but /livez, /readyz and /metrics needs the
bearer token; without a configured token nothing else answers. The unix socket is 0600: who can open it
needs no token.
"""

from __future__ import annotations

import hmac
import ipaddress
from collections.abc import Callable, Collection, Sequence
from hashlib import sha256
from typing import Final

import attrs

from inversion import ids, json_text
from inversion.errors import Code, InversionError, RequestRefused
from inversion.http.asked import MethodRefused
from inversion.http.framing import HttpRequest
from inversion.http.letters import LetterDesk
from inversion.http.routes import Calls, Ingress
from inversion.http.sending import Sends
from inversion.http.service import HttpResponse
from inversion.messages import Hello
from inversion.observe.metrics import CONTENT_TYPE as METRICS_TYPE

_FIELDS: Final = (
    b"Content-Type: %b\r\nCache-Control: no-store\r\nInversion-Id: %b\r\nInversion-Outcome: %b\r\n"
)
_JSON: Final = b"application/json"
_MESSAGES: Final = b"/v1/messages/"
_OPEN_PATHS: Final = frozenset((b"/livez", b"/readyz", b"/metrics"))


@attrs.frozen(slots=True)
class FunctionReport:
    """What GET /v1/functions says of one function."""

    name: str
    mode: str
    problem: str | None  #: why it cannot run
    processes: int  #: alive now
    hello: Hello | None  #: None: nothing was said yet


@attrs.frozen(slots=True)
class Sources:
    """Where the admin door's answers come from; each is asked anew for every request."""

    not_ready: Callable[[], Sequence[str]]  #: reasons, in words; none: ready
    metrics: Callable[[], bytes]
    functions: Callable[[], Sequence[FunctionReport]]


class Doorkeeper:
    """Who may ask what at the admin door: on TCP (`trusted` False), or on the unix socket."""

    def __init__(self, token: str | None, *, trusted: bool, hosts: Collection[str] = ()) -> None:
        self._token_hash = sha256(token.encode()).digest() if token else None
        self._trusted = trusted
        self._hosts = frozenset(host.lower() for host in hosts) | {"localhost"}

    def check(self, request: HttpRequest) -> None:
        """Raises RequestRefused."""
        if not self._trusted:
            self._check_host(request)
        self._check_origin(request)
        if not self._trusted and request.path not in _OPEN_PATHS:
            self._check_token(request)

    def _check_host(self, request: HttpRequest) -> None:
        host = _without_port(request.fields.get(b"host", b"").decode("latin-1"))
        if host.lower() not in self._hosts and not _is_ip(host):
            raise RequestRefused(
                Code.BAD_HOST, "the admin port answers to an IP address, localhost and configured names only"
            )

    def _check_origin(self, request: HttpRequest) -> None:
        origin = request.fields.get(b"origin")
        if origin is None:
            return
        _scheme, found, authority = origin.lower().partition(b"://")
        if not found or authority != request.fields.get(b"host", b"").lower():
            raise RequestRefused(Code.BAD_ORIGIN, "the admin door takes no requests from other sites' pages")

    def _check_token(self, request: HttpRequest) -> None:
        if self._token_hash is None:
            raise RequestRefused(
                Code.UNAUTHENTICATED, "no admin token is configured, so only the unix socket answers this"
            )
        scheme, _, given = request.fields.get(b"authorization", b"").partition(b" ")
        matches = hmac.compare_digest(sha256(given.strip()).digest(), self._token_hash)
        if scheme.lower() != b"bearer" or not matches:
            raise RequestRefused(
                Code.UNAUTHENTICATED, "this needs the admin token: Authorization: Bearer ..."
            )


class Admin:
    """The application behind port 9080 (`trusted` False) and the unix socket (`trusted` True)."""

    def __init__(
        self,
        calls: Calls,
        sources: Sources,
        sends: Sends | None = None,
        *,
        desk: LetterDesk | None = None,
        token: str | None,
        trusted: bool = False,
        hosts: Collection[str] = (),
        tally: Callable[[Code], None] = lambda code: None,
    ) -> None:
        self._ingress = Ingress(calls, sends, read_state=True, tally=tally)
        self._sources = sources
        self._desk = desk
        self._keeper = Doorkeeper(token, trusted=trusted, hosts=hosts)

    async def answer(self, request: HttpRequest) -> HttpResponse:
        """One request, one answer; every failure is an InversionError."""
        self._keeper.check(request)
        match request.path:
            case b"/livez":
                return answer_live(request)
            case b"/readyz":
                return answer_ready(request, self._sources.not_ready())
            case b"/metrics":
                return answer_metrics(request, self._sources.metrics())
            case b"/v1/functions":
                reports = [_described(report) for report in self._sources.functions()]
                return _answer(request, 200, {"functions": reports})
            case path if self._desk is not None and (path + b"/").startswith(_MESSAGES):
                return await self._desk.answer(request)
            case _:
                return await self._ingress.answer(request)

    def refuse(self, error: InversionError) -> HttpResponse:
        """An error that no call produced."""
        return self._ingress.refuse(error)


def answer_live(request: HttpRequest) -> HttpResponse:
    """The process is there."""
    return _answer(request, 200, {"live": True})


def answer_ready(request: HttpRequest, reasons: Sequence[str]) -> HttpResponse:
    """Ready, unless there are reasons not to be."""
    return _answer(request, 503 if reasons else 200, {"ready": not reasons, "reasons": list(reasons)})


def answer_metrics(request: HttpRequest, text: bytes) -> HttpResponse:
    """For Prometheus."""
    _only_get(request)
    return HttpResponse(200, _fields(METRICS_TYPE.encode("ascii"), 200), text)


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.partition(":")[0]


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _only_get(request: HttpRequest) -> None:
    if request.method not in (b"GET", b"HEAD"):
        raise MethodRefused("this is read with GET", b"GET, HEAD")


def _answer(request: HttpRequest, status: int, value: object) -> HttpResponse:
    _only_get(request)
    return HttpResponse(status, _fields(_JSON, status), json_text.encode(value))


def _fields(content_type: bytes, status: int) -> bytes:
    outcome = b"applied" if status == 200 else b"not_applied"
    return _FIELDS % (content_type, ids.new_id().encode("ascii"), outcome)


def _described(report: FunctionReport) -> dict[str, object]:
    hello = report.hello
    return {
        "name": report.name,
        "mode": report.mode,
        "problem": report.problem,
        "processes": report.processes,
        "hello": None
        if hello is None
        else {
            "runtime": hello.runtime,
            "protocol": hello.protocol,
            "pipeline": hello.pipeline,
            "batch": hello.batch,
            "handlers": None if hello.handlers is None else sorted(hello.handlers),
        },
    }
