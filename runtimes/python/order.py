"""An order that is paid by a card, then shipped. If one of them fails, what was done before is undone.

    order.place -> payment.charge -> order.charged -> shipping.ship -> order.shipped
                   declined: cancelled                out of stock: payment.refund -> order.refunded

The others are node/payment.js and bash/shipping.sh; `inversion dev runtimes` runs all three. A message is
consumed once, with the state and the messages it leaves: no handler asks whether it has run before.
"""

from shim import Refused, handler, serve


@handler
def place(ctx, message):
    if ctx.exists:
        raise Refused("placed_before", f"there is an order {ctx.key}", status=409)
    order = checked(message)
    ctx.state = {**order, "status": "paying"}
    ctx.send(
        "payment", ctx.key, "charge", {"card": order["card"], "cents": order["cents"]}, reply_to="charged"
    )
    return {"status": "paying"}


@handler
def charged(ctx, reply):
    order = awaiting(ctx, "paying")
    if "error" in reply:
        order.update(status="cancelled", reason=reply["error"]["code"])
        return
    order["status"] = "shipping"
    ctx.send("shipping", order["sku"], "ship", {"order": ctx.key, "qty": order["qty"]}, reply_to="shipped")


@handler
def shipped(ctx, reply):
    order = awaiting(ctx, "shipping")
    if "error" in reply:
        order.update(status="refunding", reason=reply["error"]["code"])
        ctx.send("payment", ctx.key, "refund", reply_to="refunded")
        return
    order["status"] = "shipped"


@handler
def refunded(ctx, reply):
    order = awaiting(ctx, "refunding")
    order["status"] = "cancelled" if "response" in reply else "stuck"  # then somebody has to look at it


@handler(default=True, reads_only=True)
def show(ctx, message):
    if not ctx.exists:
        raise Refused("no_order", f"there is no order {ctx.key}", status=404)
    return ctx.state


def awaiting(ctx, status):
    """The order, if it waits for this reply. A caller who says that it was paid has no `reply_to`."""
    if ctx.reply_to is None:
        raise Refused("no_reply", "this handler takes replies, not calls", status=403)
    if not ctx.exists or ctx.state["status"] != status:
        raise Refused("not_awaited", f"the order is not {status}", status=409)
    return ctx.state


def checked(message):
    fields = {"sku": str, "qty": int, "cents": int, "card": str}
    if not isinstance(message, dict) or any(
        type(message.get(name)) is not kind for name, kind in fields.items()
    ):
        raise Refused(
            "bad_order", 'the message is {"sku": "...", "qty": 1, "cents": 900, "card": "..."}', status=422
        )
    if message["qty"] < 1 or message["cents"] < 1 or not message["sku"]:
        raise Refused("bad_order", "qty and cents are at least 1, and there is a sku", status=422)
    return {name: message[name] for name in fields}


if __name__ == "__main__":
    serve()
