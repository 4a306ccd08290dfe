"""Every model of tests/faults/history as a function; the function's name says which: counter-py, ..."""

import os

from shim import Refused, handler, serve

OPENING = [100, 100, 100, 100]


@handler(default=True, reads_only=True)
def read(ctx, _message):
    if ctx.exists:
        return ctx.state
    empty = {"register": None, "counter": 0, "journal": [], "bank": OPENING}
    return empty[model(ctx)] if model(ctx) in empty else there(ctx)


@handler
def write(ctx, value):
    ctx.state = value


@handler
def cas(ctx, message):
    if ctx.state != message["from"]:
        return False
    ctx.state = message["to"]
    return True


@handler
def add(ctx, amount):
    ctx.state = (ctx.state or 0) + amount
    return ctx.state


@handler
def append(ctx, token):
    ctx.state = [*(ctx.state or []), token]
    return len(ctx.state)


@handler
def transfer(ctx, message):
    balances = list(ctx.state or OPENING)
    if balances[message["from"]] < message["amount"]:
        raise Refused("insufficient", status=409)
    balances[message["from"]] -= message["amount"]
    balances[message["to"]] += message["amount"]
    ctx.state = balances
    return [balances[message["from"]], balances[message["to"]]]


@handler
def create(ctx, value):
    if ctx.exists:
        raise Refused("exists", status=409)
    ctx.state = {"value": value, "sum": 0, "items": []} if model(ctx) == "program" else value


@handler
def replace(ctx, value):
    before = there(ctx)
    ctx.state = value
    return before


@handler
def delete(ctx, _message):
    before = there(ctx)
    ctx.delete()
    return before


@handler(name="set")
def set_value(ctx, value):
    ctx.state = {**there(ctx), "value": value}
    return value


@handler
def swap(ctx, message):
    state = there(ctx)
    if state["value"] != message["from"]:
        return False
    ctx.state = {**state, "value": message["to"]}
    return True


@handler(name="sum")
def sum_up(ctx, amount):
    state = there(ctx)
    ctx.state = {**state, "sum": state["sum"] + amount}
    return ctx.state["sum"]


@handler
def push(ctx, item):
    state = there(ctx)
    ctx.state = {**state, "items": [*state["items"], item]}
    return len(ctx.state["items"])


@handler
def draw(_ctx, _message):
    return os.urandom(8).hex()


def model(ctx):
    return ctx.function.split("-")[0]


def there(ctx):
    if not ctx.exists:
        raise Refused("absent", status=404)
    return ctx.state


if __name__ == "__main__":
    serve()
