"""What a turn consumes and what it causes: messages and timers, as rows.

One `Consequences` goes with a commit, all or nothing. Immediate messages are born leased by this node where
it has room for them (`Births`): after the commit it runs them without a claim. What has a name or a time is
a timer of the sender's; what is published is one message to its topic. A message whose answer is an error is
consumed too: the error goes to whoever asked for the answer, else the message becomes a dead letter.
A `forward` is a message that takes over what is owed to whoever asked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Protocol, assert_never

from inversion import json_text, last_words
from inversion.effects import Cancel, Forward, Http, Publish, Send, Subscribe, Unsubscribe
from inversion.errors import Code, EffectsRefused, Outrun
from inversion.ids import new_id, new_turn_id
from inversion.messages import Address, Answer, Delivery, Receipt, Turn
from inversion.names import HTTP, NO_KEY, TOPIC
from inversion.protocol.effects import UNNAMED, Placed, fold
from inversion.protocol.outgoing import message_of
from inversion.state.consequence_rows import Birth, Consequences, Span, Subscribing, Touched, Winding

#: What a row costs beside its body: a thousand small ones are no small statement.
_ROW_BYTES: Final = 500
_BEFORE_ALL: Final = -1
#: A chain of forwards that is longer is a circle.
MAX_HOPS: Final = 16
#: Behind the place of what is forwarded; an answer has at most a thousand effects, so there is room.
_FORWARDED_BITS: Final = 40
#: Why a message is a dead letter though its function answered.
UNASKED: Final = "its answer is an error, and no reply_to asks for it"
_OUTSIDE: Final = Address(HTTP, None)
#: Makes a NamedTuple without its own __new__, a Python call that costs more than all the rest.
_new: Final = tuple.__new__


class Births(Protocol):
    """Who runs what is born here."""

    @property
    def node(self) -> bytes:
        """The owner of what is leased: 16 bytes."""

    def admits(self, function: str) -> bool:
        """Whether a message to it may be born leased by this node."""

    def born(self, deliveries: Sequence[Delivery]) -> None:
        """They were committed, leased by this node."""

    def stir(self) -> None:
        """Something that is due was committed without a lease."""


def versions_with(turn: Turn, version: int, answers: Sequence[Answer]) -> list[int]:
    """The version after each message: one of its own where it changed the state, sent or owes something."""
    versions = []
    for place, request in enumerate(turn.requests):
        answer, delivery = answers[place], request.delivery
        if answer.changed or answer.effects or (delivery is not None and delivery.reply_to is not None):
            version += 1
        versions.append(version)
    return versions


def consequences_of(
    turn: Turn, answers: Sequence[Answer], versions: Sequence[int], births: Births | None, content_type: str
) -> Consequences:
    """What the turn consumes and causes. Raises Outrun or EffectsRefused."""
    made = Consequences()
    _consume(made, turn, answers)
    address = turn.address
    effects = [answer.effects for answer in answers]
    for placed in fold(effects) if any(effects) else ():
        if type(placed.effect) is Forward:
            cause = turn.requests[placed.answer].delivery
            answers[placed.answer].elsewhere = _forward(made, address, placed.effect, cause, births)
        else:
            _carry_out(made, address, placed, versions[placed.answer], births)
    for place, request in enumerate(turn.requests):
        delivery, answer = request.delivery, answers[place]
        if delivery is not None and delivery.reply_to is not None and answer.elsewhere is None:
            _reply(made, delivery, address, answer, versions[place], births, content_type)
    return made


def _consume(made: Consequences, turn: Turn, answers: Sequence[Answer]) -> None:
    before: dict[str, Span] = {}
    for number, request in enumerate(turn.requests):
        delivery, answer = request.delivery, answers[number]
        if delivery is None:
            continue
        made.consumed += 1
        sender = delivery.sender
        version, seq = delivery.sender_version, delivery.seq
        if delivery.timer is not None:
            function, _, key = sender.partition("/")
            if turn.address == (function, key) and _withdrawn(delivery.timer, answers[:number]):
                raise Outrun
            row = function.encode(), key.encode(), delivery.timer.encode()
            made.touched[row] = Touched(*row, delivery.id.encode(), True)
        elif delivery.target.key is None:
            # of these none waits for another
            made.spans.append(Span(sender.encode(), version, seq, version, seq))
        else:
            last = before.get(sender)
            if last is None:
                span = _new(Span, (sender.encode(), _BEFORE_ALL, _BEFORE_ALL, version, seq))
            elif (last.last_version, last.last_seq) < (version, seq):
                span = Span(last.sender, last.last_version, last.last_seq + 1, version, seq)
            else:
                raise Outrun  # they came in the wrong order
            before[sender] = span
            made.spans.append(span)
        if answer.error is not None and delivery.reply_to is None and not delivery.outside:
            made.buried.append((delivery.id.encode(), last_words.of_answer(answer.error, UNASKED)))


def _withdrawn(timer: str, answers: Sequence[Answer]) -> bool:
    """One of these answers of its sender, earlier in the turn, has cancelled or replaced it."""
    return any(
        isinstance(effect, Send | Cancel) and effect.name == timer
        for answer in answers
        for effect in answer.effects
    )


def _carry_out(
    made: Consequences, sender: Address, placed: Placed, version: int, births: Births | None
) -> None:
    if sender.key is None:
        raise EffectsRefused(Code.PROTOCOL_ERROR, "a call without a key has no effects; nothing was stored")
    match placed.effect:
        case Send() as send if send.name is None and send.delay_ms is None and send.at is None:
            delivery = Delivery(
                Address(send.function, send.key),
                f"{sender.function}/{sender.key}",
                version,
                placed.place,
                new_id(),
                send.handler,
                send.message,
                None,
                send.reply_to,
            )
            _bear(made, delivery, births)
        case Http() as http:
            origin = f"{sender.function}/{sender.key}"
            body, reply_to = message_of(http), http.reply_to
            delivery = Delivery(
                _OUTSIDE,
                origin,
                version,
                placed.place,
                new_id(),
                http.method,
                body,
                reply_to=reply_to,
            )
            _bear(made, delivery, births)
        case Send() as send:
            _wind(made, sender, send)
        case Cancel(name):
            _touch(made, sender, name.encode(), deletes=True)
        case Publish(topic, message):
            origin = f"{sender.function}/{sender.key}"
            target = Address(TOPIC, topic)
            _bear(
                made,
                Delivery(target, origin, version, placed.place, new_id(), "publish", message),
                births,
            )
        case Subscribe(topic, handler):
            _subscribe(made, topic, handler.encode())
        case Unsubscribe(topic):
            _subscribe(made, topic, None)
        case Forward():
            raise AssertionError("see consequences_of")
        case never:
            assert_never(never)


def _forward(
    made: Consequences, address: Address, effect: Forward, cause: Delivery | None, births: Births | None
) -> Receipt:
    """The obligation to answer moves on: where the answer will be."""
    if address.key is None:
        raise EffectsRefused(Code.PROTOCOL_ERROR, "a call without a key has no effects; nothing was stored")
    target = Address(effect.function, effect.key)
    hops = 1 if cause is None else cause.hops + 1
    if hops > MAX_HOPS:
        raise EffectsRefused(
            Code.TOO_MANY_HOPS, f"it was forwarded {MAX_HOPS} times, and would be again; nothing was stored"
        )
    if cause is None or cause.outside:
        id_ = new_id()
        delivery = Delivery(target, f"-/{id_}", 0, 0, id_, effect.handler, effect.message, hops=hops)
    else:
        # Its sender waits for the answer to the message it sent: that goes on under its id, in its order.
        delivery = Delivery(
            target,
            cause.sender,
            cause.sender_version,
            _seq_of_forwarded(cause.seq),
            cause.id,
            effect.handler,
            effect.message,
            reply_to=cause.reply_to,
            hops=hops,
        )
    _bear(made, delivery, births)
    return Receipt(target, delivery.id)


def _seq_of_forwarded(seq: int) -> int:
    """In the place of the one that is forwarded, and never that of another: two subscribers to a topic may
    forward to the same entity, and two timers have no place at all."""
    place = seq >> _FORWARDED_BITS or seq + 1  # above 0: what was forwarded before is known by it
    return place << _FORWARDED_BITS | int.from_bytes(new_turn_id()[-5:], "big")


def _bear(made: Consequences, delivery: Delivery, births: Births | None) -> None:
    leased = births is not None and births.admits(delivery.target.function)
    function, key = delivery.target
    row = (
        function.encode(),
        (key or NO_KEY).encode(),
        delivery.sender.encode(),
        delivery.sender_version,
        delivery.seq,
        delivery.id.encode(),
        delivery.handler.encode(),
        delivery.body,
        None if delivery.reply_to is None else delivery.reply_to.encode(),
        None if delivery.answers is None else delivery.answers.encode(),
        delivery.hops,
        births.node if leased and births is not None else None,
    )
    made.births.append(_new(Birth, row))
    made.weight_bytes += len(delivery.body) + _ROW_BYTES
    if leased:
        made.leased.append(delivery)
    else:
        made.due = True


def _wind(made: Consequences, sender: Address, send: Send) -> None:
    id_ = new_id()
    name = (UNNAMED + id_ if send.name is None else send.name).encode()
    if send.name is not None:
        _touch(made, sender, name, deletes=False)
    made.windings.append(
        Winding(
            sender.function.encode(),
            (sender.key or NO_KEY).encode(),
            name,
            id_.encode(),
            send.function.encode(),
            (send.key or NO_KEY).encode(),
            send.handler.encode(),
            send.message,
            None if send.reply_to is None else send.reply_to.encode(),
            0,
            send.delay_ms or 0,
            None if send.at is None else send.at.encode(),
        )
    )
    made.weight_bytes += len(send.message) + _ROW_BYTES
    made.due = made.due or (send.at is None and not send.delay_ms)


def _touch(made: Consequences, sender: Address, name: bytes, *, deletes: bool) -> None:
    """The timer of that name goes, or is replaced; perhaps it is the one that is just consumed."""
    row = sender.function.encode(), (sender.key or NO_KEY).encode(), name
    made.weight_bytes += _ROW_BYTES
    consumed = made.touched.get(row)
    made.touched[row] = Touched(*row, None if consumed is None else consumed.id, deletes)


def _subscribe(made: Consequences, topic: str, handler: bytes | None) -> None:
    made.subscribing.append(Subscribing(topic.encode(), handler))
    made.weight_bytes += _ROW_BYTES


def _reply(
    made: Consequences,
    asked: Delivery,
    address: Address,
    answer: Answer,
    version: int,
    births: Births | None,
    content_type: str,
) -> None:
    function, _, key = asked.sender.partition("/")
    id_ = new_id()
    sender = f"~/{id_}" if address.key is None else f"{address.function}/{address.key}"
    delivery = Delivery(
        Address(function, key),
        sender,
        version,
        len(answer.effects),
        id_,
        asked.reply_to or "",
        reply_body(answer, content_type),
        answers=asked.id,
    )
    _bear(made, delivery, births)


def reply_body(answer: Answer, content_type: str) -> bytes:
    """What the handler named by `reply_to` gets."""
    if answer.error is not None:
        return b'{"error":%b}' % json_text.encode_error(answer.error)
    response = b"null" if answer.response is None else answer.response
    if content_type != "application/json":
        response = json_text.quote(response.decode(errors="replace"))
    return b'{"response":%b}' % response
