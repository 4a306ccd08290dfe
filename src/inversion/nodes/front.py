"""The admin door of several nodes: the parent's own health, all nodes' metrics, the rest from one node.

Each question goes to a node that has just said it is ready, so a node that is stopped or away is asked
nothing. When none is ready one that answers at all may say what is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import trio

from inversion import json_text
from inversion.errors import Code, InversionError, RequestRefused
from inversion.gate import Bridge
from inversion.http.admin import Doorkeeper, answer_live, answer_metrics, answer_ready
from inversion.http.framing import HttpRequest
from inversion.http.problem import problem
from inversion.http.service import HttpResponse
from inversion.nodes.asking import get
from inversion.nodes.member import Member, NodeGone
from inversion.observe.merging import family, merged

#: A node that is well answers within milliseconds; whoever asks the parent waits for five seconds.
_PATIENCE_S: Final = 2.0
_OK: Final = 200


class Front:
    """The application of the parent's admin port (`trusted` False) and unix socket (`trusted` True)."""

    def __init__(
        self,
        members: Sequence[Member],
        keeper: Doorkeeper,
        bridge: Bridge,
        draining: Callable[[], bool],
    ) -> None:
        self._members = members
        self._keeper = keeper
        self._bridge = bridge
        self._draining = draining

    async def answer(self, request: HttpRequest) -> HttpResponse:
        """One request, one answer; every failure is an InversionError."""
        self._keeper.check(request)
        match request.path:
            case b"/livez":
                return answer_live(request)
            case b"/readyz":
                return answer_ready(request, await self._bridge.run(self._not_ready))
            case b"/metrics":
                return answer_metrics(request, await self._bridge.run(self._metrics))
            case _:
                return await self._bridge.run(self._pass_on, request)

    def refuse(self, error: InversionError) -> HttpResponse:
        """An error that no call produced."""
        return problem(error)

    async def _not_ready(self) -> Sequence[str]:
        if self._draining():
            return ["draining"]
        member, answer = await self._first_ready()
        if member is None:
            return ["no node answers"]
        return [] if answer.status == _OK else _reasons(answer)

    async def _pass_on(self, request: HttpRequest) -> HttpResponse:
        member, _ = await self._first_ready()
        try:
            if member is None:
                raise NodeGone
            return await member.ask(request)
        except NodeGone:
            raise RequestRefused(Code.NO_RUNTIME, "no node answers; try again", retry_after_s=1) from None

    async def _metrics(self) -> bytes:
        answers = await self._ask_all(get(b"/metrics"))
        answering = {member.number for member, _ in answers}
        up = {_label(member): float(member.number in answering) for member in self._members}
        restarts = {_label(member): float(max(0, member.starts - 1)) for member in self._members}
        own = family("inversion_node_up", "gauge", "1 while this node answers.", up)
        own += family("inversion_node_restarts_total", "counter", "Times it was started again.", restarts)
        pages = {member.number: answer.body.decode() for member, answer in answers if answer.status == _OK}
        return merged(dict(sorted(pages.items())), own).encode()

    async def _first_ready(self) -> tuple[Member, HttpResponse] | tuple[None, HttpResponse]:
        """Who says first that it is ready; else one that answers; else nobody."""
        found = await self._ask_all(get(b"/readyz"), until=_OK)
        for member, answer in found:
            if answer.status == _OK:
                return member, answer
        return found[0] if found else (None, _NO_ANSWER)

    async def _ask_all(
        self, request: HttpRequest, until: int | None = None
    ) -> list[tuple[Member, HttpResponse]]:
        """The answers that came in time, in their order; none after the first with status `until`."""
        found: list[tuple[Member, HttpResponse]] = []
        with trio.move_on_after(_PATIENCE_S):
            async with trio.open_nursery() as nursery:

                async def ask_one(member: Member) -> None:
                    try:
                        answer = await member.ask(request)
                    except (NodeGone, InversionError):
                        return
                    found.append((member, answer))
                    if answer.status == until:
                        nursery.cancel_scope.cancel()

                for member in self._members:
                    nursery.start_soon(ask_one, member)
        return found


_NO_ANSWER: Final = HttpResponse(503, b"", b"")


def _label(member: Member) -> str:
    return f'{{node="{member.number}"}}'


def _reasons(answer: HttpResponse) -> Sequence[str]:
    reasons = (json_text.plain_object(answer.body) or {}).get("reasons")
    return [str(reason) for reason in reasons] if isinstance(reasons, list) else ["no node is ready"]
