"""Messages and timers: who has them, what the commit of their turn says of them, when they are due."""

from __future__ import annotations

import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import attrs
from tests.faults.campaign.seeded.switch import put, rewrite

from inversion.delivery.dispatcher import Dispatcher
from inversion.effects import Send
from inversion.messages import Address, Turn
from inversion.state import consequences, outbox, sql
from inversion.state.consequence_rows import Consequences, Span

_COMMITS: Final = ("COMMIT_MESSAGES", "COMMIT_PLAIN_MESSAGES")
_CLAIMS: Final = (
    "    UPDATE inversion.message AS x\n"
    "       SET owner = $3::uuid, attempt = x.attempt + 1,"
    " due_at = now() + $4::int8 * interval '1 millisecond'\n"
    "      FROM judged AS j\n"
    "     WHERE "
)
_ID, _OWNER, _ATTEMPT = " AND x.id = c.id", "x.owner = ", " AND x.attempt = c.attempt"


def outbox_deleted_before_delivery() -> None:
    """A message is deleted when a node takes it, not in the commit of its turn."""
    put(Dispatcher, "admits", lambda self, function: False)
    rewrite(
        "CLAIM_MESSAGES",
        _CLAIMS,
        by="    DELETE FROM inversion.message AS x\n     USING judged AS j\n     WHERE $4::int8 > 0 AND ",
    )
    consume = consequences._consume

    def consume_timers(made: Consequences, turn: Turn, *rest: Any) -> None:
        consume(made, turn, *rest)
        made.spans.clear()
        made.consumed = sum(
            each.delivery is not None and each.delivery.timer is not None for each in turn.requests
        )

    put(consequences, "_consume", consume_timers)


def lease_without_fencing() -> None:
    """Who had a message once renews it or gives it back, whoever has it and whatever it is now."""
    for name, owner in (("RENEW_MESSAGES", 7), ("PUT_OFF_MESSAGES", 10)):
        rewrite(name, _ATTEMPT)
        rewrite(name, f"{_OWNER}${owner}::uuid", by=f"${owner}::uuid IS NOT NULL")
    for name, owner in (("RENEW_TIMERS", 6), ("PUT_OFF_TIMERS", 9)):
        rewrite(name, _ID + _ATTEMPT)
        rewrite(name, f"{_OWNER}${owner}::uuid", by=f"${owner}::uuid IS NOT NULL")


def turn_without_its_message() -> None:
    """A turn is applied though its message has been consumed meanwhile."""
    for name in _COMMITS:
        for turn in ("m", "s"):
            complete = f"(({turn}.turn, {turn}.needs) IN (SELECT c.turn, c.needs FROM complete AS c)) IS TRUE"
            rewrite(name, complete, by="true")
        rewrite(
            name, "((l.turn, l.needs) IN (SELECT c.turn, c.needs FROM complete AS c)) IS NOT TRUE", by="false"
        )


def messages_only_counted() -> None:
    """A turn that lost one of its messages and had one too many is applied: only their number is compared."""
    for name in _COMMITS:
        rewrite(name, "\n    HAVING bool_and(l.expected)")


def polled_past_the_last_seen() -> None:
    """A node looks for messages with a higher id than the highest it has seen."""
    rewrite("CLAIM_MESSAGES", "AND m.due_at <= now()\n", by="AND m.due_at <= now() AND m.id > $6::text\n")
    newest: dict[outbox.Outbox, bytes] = {}
    original = outbox.Outbox._claim

    async def claim(
        self: outbox.Outbox, statement: sql.Statement, functions: bytes, rooms: Sequence[int], *more: bytes
    ) -> Any:
        if statement is not sql.CLAIM_MESSAGES:
            return await original(self, statement, functions, rooms)
        last = newest.get(self, b"")
        found = await original(self, statement, functions, rooms, *more, last)
        newest[self] = max([last, *(found.value(row, 5) or b"" for row in range(found.count))])
        return found

    put(outbox.Outbox, "_claim", claim)


def timer_by_the_clock_of_the_node() -> None:
    """When a timer is due is a time of the sender's node, not of the database."""
    original = consequences._wind

    def wind(made: Consequences, sender: Address, send: Send, *rest: Any) -> None:
        if send.delay_ms is not None:
            due = datetime.fromtimestamp(time.time(), UTC) + timedelta(milliseconds=send.delay_ms)
            send = attrs.evolve(send, delay_ms=None, at=due.isoformat())
        original(made, sender, send, *rest)

    put(consequences, "_wind", wind)


def effects_of_a_turn_that_was_not_applied() -> None:
    """What a turn sends is kept though its version check failed."""
    for name in _COMMITS:
        rewrite(name, "(b.turn IN (SELECT done.turn FROM done)) IS TRUE", by="true")
    rewrite("COMMIT_MESSAGES", "(w.turn IN (SELECT done.turn FROM done)) IS TRUE", by="true")


def message_kept_after_its_turn() -> None:
    """A message is not deleted in the commit of its turn."""
    for name in _COMMITS:
        rewrite(
            name,
            "DELETE FROM inversion.message AS x\n     USING spent AS s\n     WHERE ",
            by="DELETE FROM inversion.message AS x\n     USING spent AS s\n     WHERE false AND ",
        )


def pairs_out_of_order() -> None:
    """A message is taken and consumed though an earlier one of its pair waits."""
    rewrite("CLAIM_MESSAGES", "ON b.ours IS NOT TRUE", by="ON false AND b.ours IS NOT TRUE")
    original = consequences._consume

    def consume(made: Consequences, turn: Turn, answers: Any) -> None:
        for request, answer in zip(turn.requests, answers, strict=True):
            part, alone = Consequences(), attrs.evolve(turn, requests=[request])
            original(part, alone, [answer])
            made.consumed += part.consumed
            made.touched |= part.touched
            made.buried += part.buried
            made.spans += [
                Span(each.sender, each.last_version, each.last_seq, each.last_version, each.last_seq)
                for each in part.spans
            ]

    put(consequences, "_consume", consume)


def cancel_spares_what_is_claimed() -> None:
    """A timer that a node has taken rings though it is cancelled before that."""
    rewrite(
        "COMMIT_MESSAGES", "r.deletes = 1 AND", by="r.deletes = 1 AND (r.consumed OR r.owner IS NULL) AND"
    )


def replaced_timer_keeps_its_id() -> None:
    """Who has taken a timer consumes what it was replaced by."""
    rewrite("COMMIT_MESSAGES", "SET id = excluded.id, target", by="SET target")


def withdrawn_in_its_turn_and_rings() -> None:
    """A timer rings in the turn in which it was withdrawn before."""
    put(consequences, "_withdrawn", lambda timer, answers: False)


BUGS: Final = (
    outbox_deleted_before_delivery,
    lease_without_fencing,
    turn_without_its_message,
    messages_only_counted,
    polled_past_the_last_seen,
    timer_by_the_clock_of_the_node,
    effects_of_a_turn_that_was_not_applied,
    message_kept_after_its_turn,
    pairs_out_of_order,
    cancel_spares_what_is_claimed,
    replaced_timer_keeps_its_id,
    withdrawn_in_its_turn_and_rings,
)
