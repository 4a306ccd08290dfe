"""How a node takes leave of its clients: what was begun is answered, what comes is refused in words.

`answer_all` lets the calls that were accepted come to their end, hears idle clients for a moment more and
closes the doors. At the limit it gives up what is left: as honestly as can be, and returns False.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import trio

from inversion.calls import Calls
from inversion.http.server import Server
from inversion.mailbox import PostOffice
from inversion.observe import logs
from inversion.state.store import PostgresStore

#: How often to look whether the last call was answered.
_LOOK_S: Final = 0.02
#: Idle clients are heard for so long: a request that is on its way gets its 503, not a reset.
_LAST_ORDERS_S: Final = 1.0
#: After the limit: to take the answers that have just been given.
_HURRY_S: Final = 0.5

_log = logs.get_logger("node")


async def answer_all(
    calls: Calls,
    office: PostOffice,
    store: PostgresStore,
    servers: Sequence[Server],
    doors_closed: trio.Event,
    limit_s: float,
) -> bool:
    """Refuse what comes, answer what was accepted, close the doors; whether nothing had to be given up."""

    def owed() -> bool:
        """Somebody is to get an answer. Of a live request the client may be gone; its deadline bounds it."""
        return bool(office.live) or any(server.answering for server in servers)

    async def close_doors() -> None:
        for server in servers:
            server.close()
        await doors_closed.wait()

    calls.draining = True
    for server in servers:
        server.drain()
    last_orders_s = trio.current_time() + _LAST_ORDERS_S
    with trio.move_on_after(limit_s):
        while (  # noqa: ASYNC110 (several things to wait for, and none is worth an event of its own)
            owed() or (trio.current_time() < last_orders_s and servers[0].counters.connections_open)
        ):
            await trio.sleep(_LOOK_S)
        await close_doors()
    given_up = owed()
    if given_up:
        _log.error("the drain took too long", limit_s=limit_s, calls_given_up=office.give_up())
        store.dismiss_readers()
    with trio.move_on_after(_HURRY_S):
        await close_doors()
    return not given_up
