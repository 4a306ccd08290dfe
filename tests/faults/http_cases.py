"""What one case of the corpus is: bytes from a client, and what must come of them.

`raw` is sent as it is; behind it comes a well-formed call, unless the client hangs up. A case that is
refused has status 4xx, closes the connection, and lets the application see nothing, least of all what
stands behind it. A case that is accepted lets the application see exactly `bodies`, and then the call behind
it if the connection is kept.
"""

from __future__ import annotations

from collections.abc import Callable

import attrs

#: A path of a call that would be answered: only the framing can be what is refused.
CALL = b"/v1/call/cart/k"
#: What most cases begin with.
HEAD = b"POST " + CALL + b" HTTP/1.1\r\nHost: a\r\n"


@attrs.frozen
class Case:
    name: str
    raw: bytes
    why: str  #: the rule, with its section; RFC 9112 unless it says otherwise
    statuses: tuple[int, ...]  #: of the answers to `raw`, in order
    bodies: tuple[bytes, ...] = ()  #: of the calls that the application sees
    keeps: bool = False  #: the connection is usable afterwards
    hangs_up: bool = False  #: the client ends its side behind `raw`
    head_only: bool = False  #: the first answer is to a HEAD


def refuses(name: str, raw: bytes, why: str, status: int = 400) -> Case:
    """The client is told, and the connection closed."""
    return Case(name, raw, why, (status,))


def accepts(name: str, raw: bytes, why: str, *bodies: bytes, keeps: bool = True) -> Case:
    """One call, or as many as there are bodies; each answered 200."""
    seen = bodies or (b"",)
    return Case(name, raw, why, (200,) * len(seen), seen, keeps)


def declines(name: str, raw: bytes, why: str, status: int = 400) -> Case:
    """A whole request, framed well, that asks for what there is not: 4xx, and the connection is kept."""
    return Case(name, raw, why, (status,), keeps=True)


def breaks_off(name: str, raw: bytes, why: str, *statuses: int, bodies: tuple[bytes, ...] = ()) -> Case:
    """The client ends its side in the middle of something."""
    return Case(name, raw, why, statuses, bodies, hangs_up=True)


def with_lines(*lines: bytes, body: bytes = b"", start: bytes = HEAD) -> bytes:
    """A call with extra field lines."""
    return start + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body


def chunked(rest: bytes) -> bytes:
    """A call whose chunked body is `rest`."""
    return with_lines(b"Transfer-Encoding: chunked", body=rest)


Table = Callable[[], list[Case]]
