"""A shopping cart. `inversion dev runtimes/python/cart.py`"""

from shim import Refused, handler, serve

MAX_PER_ITEM = 100  # more than a household buys: the shop says "out of stock" before it is


def items_of(ctx):
    return ctx.state["items"] if ctx.exists else []


def find(items, sku):
    return next((item for item in items if item["sku"] == sku), None)


@handler
def add(ctx, message):
    sku, qty = sku_of(message), message.get("qty", 1)
    if type(qty) is not int or qty < 1:
        raise Refused("bad_quantity", "qty is a whole number, at least 1", status=422)
    items = items_of(ctx)
    item = find(items, sku)
    held = item["qty"] if item else 0
    if held + qty > MAX_PER_ITEM:
        details = {"sku": sku, "left": MAX_PER_ITEM - held}
        raise Refused("out_of_stock", f"not enough {sku} left", status=409, details=details)
    if item:
        item["qty"] += qty
    else:
        items.append({"sku": sku, "qty": qty})
    ctx.state = {"items": items}
    return {"items": len(items)}


@handler
def remove(ctx, message):
    sku, items = sku_of(message), items_of(ctx)
    if not find(items, sku):
        raise Refused("not_in_cart", f"there is no {sku} in the cart", status=404)
    left = [item for item in items if item["sku"] != sku]
    ctx.state = {"items": left}
    return {"items": len(left)}


@handler(default=True, reads_only=True)
def show(ctx, message):
    return {"items": items_of(ctx)}


@handler
def checkout(ctx, message):
    items = items_of(ctx)
    if not items:
        raise Refused("cart_empty", "there is nothing to check out", status=409)
    ctx.delete()
    return {"ordered": items}


def sku_of(message):
    sku = message.get("sku") if isinstance(message, dict) else None
    if not isinstance(sku, str) or not sku:
        raise Refused("bad_sku", 'the message is {"sku": "...", "qty": 1}', status=422)
    return sku


if __name__ == "__main__":
    serve()
