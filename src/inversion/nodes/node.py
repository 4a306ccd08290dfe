"""The process of one node among several: as any node, behind a parent's doors."""

from __future__ import annotations

import contextlib
import socket
from typing import Final

import attrs
import trio

from inversion import app
from inversion.http.server import Listener
from inversion.nodes.charge import LIFELINE, Charge, Word, packed
from inversion.nodes.handover import HandedOver, inherited
from inversion.observe import logs
from inversion.opening import StartError
from inversion.reload.reloader import Origin

#: The parent has nothing else to do than to listen; more than the pipe holds is said by many functions only.
_SAY_S: Final = 10.0

_log = logs.get_logger("nodes")


async def serve(charge: Charge, control: socket.socket, reload: Origin | None) -> bool:
    """Run until a signal drains it, as app.serve, or until the parent is gone. Raises StartError."""
    doors = [Listener(inherited(list(charge.listening))), Listener([HandedOver(control.dup())])]
    options = attrs.evolve(charge.options, doors=doors, reload=reload)
    failure: StartError | None = None
    drained = False

    def say(word: Word) -> None:
        control.settimeout(_SAY_S)
        with contextlib.suppress(OSError):  # the parent is gone, which ends us anyway
            control.sendall(packed(word))

    async with trio.open_nursery() as nursery:
        nursery.start_soon(_end_with_the_parent, nursery.cancel_scope)
        try:
            drained = await app.serve(
                charge.config, options, lambda started: say(Word(started.functions, started.hellos))
            )
        except StartError as error:
            failure = error
            say(Word(failure=str(error)))
        nursery.cancel_scope.cancel()
    if failure is not None:
        raise failure
    return drained


async def _end_with_the_parent(scope: trio.CancelScope) -> None:
    await trio.lowlevel.wait_readable(LIFELINE)  # nothing is written after the charge: it is the end
    _log.error("the parent of this node is gone: ending at once")
    scope.cancel()
