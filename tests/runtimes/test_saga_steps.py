"""Order, payment and shipping, each spoken to by hand; then all three with messages carried between them.

The carrier here is the naive one: a list of messages, one after the other, in one thread.
"""

from __future__ import annotations

import json
import random
import tomllib
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from hand_host import ABSENT, RUNTIMES, HandHost, message_in, playing

from inversion.config import Limits
from inversion.effects import Send
from inversion.messages import Address
from inversion.protocol.effects import read_effects

with (RUNTIMES / "inversion.toml").open("rb") as opened:
    FUNCTIONS = tomllib.load(opened)["functions"]

NODE = pytest.mark.toolchain("node")
BASH = pytest.mark.toolchain("bash", "jq")
GOOD = {"sku": "tea", "qty": 2, "cents": 900, "card": "4111"}
PAYING = {**GOOD, "status": "paying"}
SHIPPING = {**GOOD, "status": "shipping"}
REFUNDING = {**GOOD, "status": "refunding", "reason": "out_of_stock"}
NO = {"error": {"code": "out_of_stock", "message": "", "status": 409}}
YES = {"response": {}}


@asynccontextmanager
async def running(function: str) -> AsyncIterator[HandHost]:
    async with playing(FUNCTIONS[function]["command"]) as runtime:
        await runtime.hello()
        yield runtime


async def reply(runtime: HandHost, handler: str, message: object, state: object) -> dict[str, Any]:
    frame = message_in("r.1", handler, message, state)
    frame["ctx"]["reply_to"] = "m.1"
    await runtime.send(frame)
    return await runtime.frame()


# -- each by itself --------------------------------------------------------------------------------------


async def test_an_order_that_is_placed_asks_for_its_payment() -> None:
    async with running("order") as order:
        answer = await order.ask("place", GOOD)
        assert answer["response"] == {"status": "paying"}
        assert answer["state"] == PAYING
        assert answer["effects"] == [
            {
                "send": {
                    "key": "k",
                    "message": {"card": "4111", "cents": 900},
                    "function": "payment",
                    "handler": "charge",
                    "reply_to": "charged",
                }
            }
        ]


@pytest.mark.parametrize(
    ("handler", "before", "message", "status", "sent"),
    [
        (
            "charged",
            PAYING,
            YES,
            "shipping",
            ("shipping", "tea", "ship", {"order": "k", "qty": 2}, "shipped"),
        ),
        ("charged", PAYING, NO, "cancelled", None),
        ("shipped", SHIPPING, YES, "shipped", None),
        ("shipped", SHIPPING, NO, "refunding", ("payment", "k", "refund", None, "refunded")),
        ("refunded", REFUNDING, YES, "cancelled", None),
        ("refunded", REFUNDING, NO, "stuck", None),
    ],
)
async def test_a_reply_takes_an_order_one_step_on_or_back(
    handler: str, before: object, message: object, status: str, sent: tuple[object, ...] | None
) -> None:
    async with running("order") as order:
        answer = await reply(order, handler, message, before)
        assert answer["state"]["status"] == status
        effects = [
            (
                effect["send"]["function"],
                effect["send"]["key"],
                effect["send"]["handler"],
                effect["send"]["message"],
                effect["send"]["reply_to"],
            )
            for effect in answer.get("effects", ())
        ]
        assert effects == ([] if sent is None else [sent])


async def test_an_order_refuses_what_is_none_and_replies_that_nobody_sent() -> None:
    async with running("order") as order:
        assert (await order.ask("place", GOOD, PAYING))["error"]["code"] == "placed_before"
        for bad in (
            None,
            {},
            {**GOOD, "qty": 0},
            {**GOOD, "qty": True},
            {**GOOD, "cents": 0.5},
            {**GOOD, "sku": ""},
        ):
            assert (await order.ask("place", bad))["error"]["code"] == "bad_order"
        forged = await order.ask("charged", YES, PAYING)
        assert forged["error"]["status"] == 403
        assert "effects" not in forged
        assert (await reply(order, "charged", YES, SHIPPING))["error"]["code"] == "not_awaited"
        assert (await reply(order, "charged", YES, ABSENT))["error"]["code"] == "not_awaited"
        assert (await order.ask("show"))["error"]["status"] == 404


@NODE
async def test_a_payment_is_charged_once_and_refunded_once() -> None:
    charged = {"card": "4111", "cents": 900, "status": "charged"}
    async with running("payment") as payment:
        assert await payment.ask("charge", {"card": "99994111", "cents": 900}) == {
            "response": {"charged": 900},
            "state": charged,
        }
        for message, state, code in [
            ({"card": "41110000", "cents": 900}, ABSENT, "declined"),
            ({"card": "4111", "cents": 900}, charged, "charged_before"),
            ({"card": "4111", "cents": 0}, ABSENT, "bad_charge"),
            (None, ABSENT, "bad_charge"),
        ]:
            assert (await payment.ask("charge", message, state))["error"]["code"] == code
        assert await payment.ask("refund", None, charged) == {
            "response": {"refunded": 900},
            "state": {**charged, "status": "refunded"},
        }
        for state in (ABSENT, {**charged, "status": "refunded"}):
            assert (await payment.ask("refund", None, state))["error"]["code"] == "nothing_to_refund"


@BASH
async def test_shipping_gives_no_more_than_there_is() -> None:
    async with running("shipping") as shipping:
        stocked = {"stock": 5, "shipped": {}}
        assert await shipping.ask("restock", 5) == {"response": stocked, "state": stocked}
        assert (await shipping.ask("restock", 2, stocked))["state"]["stock"] == 7
        assert await shipping.ask("ship", {"order": 'o"1', "qty": 3}, stocked) == {
            "response": {"shipped": 3},
            "state": {"stock": 2, "shipped": {'o"1': 3}},
        }
        for message, state, code in [
            ({"order": "o1", "qty": 6}, stocked, "out_of_stock"),
            ({"order": "o1", "qty": 1}, ABSENT, "out_of_stock"),
            ({"order": "o1", "qty": 0}, stocked, "bad_shipment"),
            ({"order": 1, "qty": 1}, stocked, "bad_shipment"),
            ({"qty": 1}, stocked, "bad_shipment"),
            ("o1", stocked, "bad_shipment"),
        ]:
            answer = await shipping.ask("ship", message, state)
            assert answer["error"]["code"] == code, message
            assert "state" not in answer
        for qty in (0, -1, 1.5, "1", None, "a[$(touch pwned)]"):
            assert (await shipping.ask("restock", qty, stocked))["error"]["code"] == "bad_quantity"


# -- together --------------------------------------------------------------------------------------------


class Carrier:
    """Holds the states, takes what an answer sends to where it goes, and its reply back."""

    def __init__(self, runtimes: Mapping[str, HandHost]) -> None:
        self._runtimes = runtimes
        self._count = 0
        self.states: dict[Address, Any] = {}
        self.under_way: list[tuple[Address, str, object, Address | None, str | None, str | None]] = []

    async def call(self, function: str, key: str, handler: str, message: object) -> Any:
        return await self._run(Address(function, key), handler, message, None)

    async def carry(self, chance: random.Random) -> None:
        """One message, whichever."""
        target, handler, message, sender, reply_to, answers = self.under_way.pop(
            chance.randrange(len(self.under_way))
        )
        answer = await self._run(target, handler, message, answers)
        if sender is not None and reply_to is not None:
            kind = "error" if "error" in answer else "response"
            self.under_way.append((sender, reply_to, {kind: answer.get(kind)}, None, None, "m.1"))

    async def _run(
        self, target: Address, handler: str, message: object, answers: str | None
    ) -> dict[str, Any]:
        self._count += 1
        runtime = self._runtimes[target.function]
        frame = message_in(
            f"{self._count}.1", handler, message, self.states.get(target, ABSENT), key=target.key
        )
        frame["ctx"] |= {"function": target.function, "reply_to": answers}
        await runtime.send(frame)
        answer = await runtime.frame()
        if "state" in answer:
            self.states[target] = answer["state"]
        effects = json.dumps(answer.get("effects", [])).encode()
        for effect in read_effects(effects, target, Limits()):
            assert isinstance(effect, Send)
            to = Address(effect.function, effect.key)
            body = json.loads(effect.message)
            self.under_way.append((to, effect.handler, body, target, effect.reply_to, None))
        return answer


@NODE
@BASH
@pytest.mark.parametrize("seed", range(3))
async def test_orders_end_consistent_in_whatever_order_messages_come(seed: int) -> None:
    chance = random.Random(seed)
    async with AsyncExitStack() as stack:
        names = ("order", "payment", "shipping")
        carrier = Carrier({name: await stack.enter_async_context(running(name)) for name in names})
        await carrier.call("shipping", "tea", "restock", 10)
        for number in range(12):
            card = "41110000" if number % 4 == 0 else "4111"
            message = {"sku": "tea", "qty": chance.randint(1, 3), "cents": 100 + number, "card": card}
            await carrier.call("order", f"o{number}", "place", message)
        while carrier.under_way:
            await carrier.carry(chance)
    ended = check_consistent(carrier.states, 10)
    assert ended == {"shipped", "cancelled"}


def check_consistent(states: Mapping[Address, Any], stocked: int) -> set[str]:
    """Every order ended; who was shipped to has paid, and nobody else has. The statuses there are."""
    stock = states[Address("shipping", "tea")]
    assert stock["stock"] + sum(stock["shipped"].values()) == stocked
    assert stock["stock"] >= 0
    ended = set()
    for address, order in states.items():
        if address.function != "order":
            continue
        payment = states.get(Address("payment", address.key), {"status": None})
        found = (order["status"], payment["status"], stock["shipped"].get(address.key))
        declined = order["card"].endswith("0000")
        assert found in {
            ("shipped", "charged", order["qty"]),
            ("cancelled", None if declined else "refunded", None),
        }, address
        ended.add(order["status"])
    return ended
