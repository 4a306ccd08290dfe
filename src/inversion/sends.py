"""Admission of messages from outside: makes one of a request and waits until it is durable.

What can be refused without storing anything is refused here.
"""

from __future__ import annotations

import hashlib
from time import perf_counter
from typing import Final

import attrs

from inversion.calls import Calls
from inversion.config import Function
from inversion.errors import Code, RequestRefused
from inversion.ids import new_id
from inversion.messages import Address, Delivery, Receipt, Response
from inversion.state.outputs import Outputs
from inversion.state.sending import Sender, Sending

#: How long a send may take: what waits longer for the database is told so.
_TIMEOUT_S: Final = 30.0


@attrs.frozen(slots=True)
class When:
    """When a message is to be delivered; without either at once."""

    delay_ms: int | None = None
    at: str | None = None  #: RFC 3339


NOW: Final = When()


class Sends:
    """What the front door and the admin door ask about messages from outside."""

    def __init__(self, calls: Calls, sender: Sender, outputs: Outputs) -> None:
        self._calls = calls
        self._sender = sender
        self._outputs = outputs

    async def send(
        self,
        function: Function,
        key: str | None,
        handler: str,
        body: bytes,
        *,
        once: str | None = None,
        when: When = NOW,
        timeout_s: float | None = None,
    ) -> Receipt:
        """Store a message; where its answer will be. Raises InversionError."""
        deadline_s = perf_counter() + (_TIMEOUT_S if timeout_s is None else min(timeout_s, _TIMEOUT_S))
        body = self._calls.admit(function, handler, body)
        if 0 in body:
            raise RequestRefused(Code.BAD_JSON, "a message is JSON, without a raw NUL")
        target = Address(function.name, key)
        id_ = new_id()
        delivery = Delivery(target, f"-/{id_}", 0, 0, id_, handler, body)
        hash_ = hashlib.sha256(b"%b\0%b\0%b" % (handler.encode(), repr(when).encode(), body)).digest()
        at = None if when.at is None else when.at.encode()
        return Receipt(
            target, await self._sender.send(Sending(delivery, hash_, deadline_s, once, when.delay_ms, at))
        )

    async def output(self, receipt: Receipt, wait_s: float) -> Response | None:
        """The answer, waited for; None: it is still to come. Raises RequestRefused (`no_output`)."""
        return await self._outputs.find(receipt, perf_counter() + wait_s)

    async def withdraw(self, receipt: Receipt) -> None:
        """Not to be delivered. Raises RequestRefused if it was, or is not known."""
        await self._outputs.withdraw(receipt)
