"""One attempt at an outgoing request: look the name up once, connect to what may be reached, ask, hear.

Only addresses that the allow-list let pass are connected to, as literals: nothing is looked up twice. No
proxy, no redirect, no connection is used again. One time limit from the look-up to the last byte.
"""

from __future__ import annotations

import os
import ssl
from collections.abc import Sequence
from typing import Final

import trio

from inversion.protocol.destination import AllowList, IPAddress, Refused, Url
from inversion.protocol.outgoing import Ending, Exchange, Failed, Outbound, Reply

#: One address of several gets no more of the time: a dead IPv6 must not cost the attempt.
_CONNECT_S: Final = 5.0
#: Heard at once: what the loop parses without a pause.
_PIECE_BYTES: Final = 16 << 10


class Way:
    """How requests leave this node."""

    def __init__(self, allow: AllowList, timeout_s: float, body_bytes: int) -> None:
        self._allow = allow
        self._timeout_s = timeout_s
        self._body_bytes = body_bytes
        self._trust: ssl.SSLContext | None = None  #: made when the first https comes: it takes a while

    async def ask(self, outbound: Outbound) -> Reply:
        """One attempt, to its end. Raises Failed."""
        exchange = Exchange(outbound, self._body_bytes)
        request = exchange.request()
        with trio.move_on_after(self._timeout_s):
            try:
                stream = await self._reach(outbound)
            except Refused as refusal:
                raise Failed(Ending.REFUSED, str(refusal)) from None
            try:
                return await _converse(stream, request, exchange, outbound.shown)
            finally:
                await trio.aclose_forcefully(stream)
        raise Failed(
            Ending.TIMED_OUT, f"{outbound.shown} took more than {self._timeout_s:g} s (http.timeout)"
        )

    async def _reach(self, outbound: Outbound) -> trio.abc.Stream:
        """A connection, with TLS where the URL says so. Raises Refused and Failed."""
        url = outbound.url
        self._allow.check(url)
        found: Sequence[str] = ()
        if url.address is None:
            try:
                looked_up = await trio.socket.getaddrinfo(url.host, url.port, type=trio.socket.SOCK_STREAM)
            except (OSError, UnicodeError) as fault:
                raise _unreachable(outbound, f"its name: {_words(fault)}") from None
            found = [str(each[4][0]) for each in looked_up]
        stream = await _connect(outbound, self._allow.choose(url, found))
        if not url.secure:
            return stream
        if self._trust is None:
            self._trust = await trio.to_thread.run_sync(ssl.create_default_context)
        secured = trio.SSLStream(stream, self._trust, server_hostname=url.host, https_compatible=True)
        try:
            await secured.do_handshake()
        except BaseException as fault:
            await trio.aclose_forcefully(stream)
            if isinstance(fault, trio.BrokenResourceError | ssl.SSLError):
                raise _unreachable(outbound, f"TLS: {_words(fault.__cause__ or fault)}") from None
            raise
        return secured


async def _connect(outbound: Outbound, addresses: Sequence[IPAddress]) -> trio.SocketStream:
    why = ""
    for address in addresses:
        try:
            return await _connect_to(address, outbound.url)
        except OSError as fault:
            why = f"{address}: {_words(fault)}"
        except trio.TooSlowError:
            why = f"{address}: no answer within {_CONNECT_S:g} s"
    raise _unreachable(outbound, why)


async def _connect_to(address: IPAddress, url: Url) -> trio.SocketStream:
    family = trio.socket.AF_INET if address.version == 4 else trio.socket.AF_INET6
    file = trio.socket.socket(family, trio.socket.SOCK_STREAM)
    try:
        with trio.fail_after(_CONNECT_S):
            await file.connect((str(address), url.port))
        return trio.SocketStream(file)
    except BaseException:
        file.close()
        raise


async def _converse(stream: trio.abc.Stream, request: bytes, exchange: Exchange, shown: str) -> Reply:
    """Send and hear at once: who refuses a body may answer before it has taken it. Raises Failed."""
    outcome: Reply | Failed | None = None
    async with trio.open_nursery() as nursery:
        nursery.start_soon(_send, stream, request)
        try:
            while outcome is None:
                outcome = exchange.receive(bytes(await stream.receive_some(_PIECE_BYTES)))
        except trio.BrokenResourceError as fault:
            outcome = Failed(
                Ending.TORN, f"{shown}: the connection broke: {_words(fault.__cause__ or fault)}"
            )
        except Failed as failed:
            outcome = failed
        nursery.cancel_scope.cancel()
    try:
        if isinstance(outcome, Failed):
            raise outcome
        assert outcome is not None
        return outcome
    finally:
        outcome = None  # an error whose traceback holds itself would wait for the collector


async def _send(stream: trio.abc.Stream, request: bytes) -> None:
    try:
        await stream.send_all(request)
    except trio.BrokenResourceError:
        return  # an answer may have come nevertheless


def _unreachable(outbound: Outbound, why: str) -> Failed:
    return Failed(Ending.UNREACHABLE, f"{outbound.shown} cannot be reached: {why}")


def _words(fault: BaseException) -> str:
    """The reason alone."""
    if isinstance(fault, ssl.SSLCertVerificationError):
        return fault.verify_message
    if isinstance(fault, ssl.SSLError) and fault.reason:
        return fault.reason.lower().replace("_", " ")
    if isinstance(fault, OSError) and fault.errno is not None and fault.errno > 0:
        return os.strerror(fault.errno)  # trio's words repeat the address
    return (fault.strerror if isinstance(fault, OSError) else None) or str(fault) or type(fault).__name__
