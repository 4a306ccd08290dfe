"""Every model of tests/faults/history as a function; the function's name says which: counter-py, ..."""

import os

from shim import Refused, handler, serve

OPENING = [100, 100, 100, 100]


@handler(default=True, reads_only=True)
def read(ctx, _message):
    if ctx.exists:
        return ctx.state
    model = ctx.function.split("-")[0]
    if model == "life":
        raise Refused("absent", status=404)
    return {"register": None, "counter": 0, "journal": [], "bank": OPENING}[model]


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
    ctx.state = value


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


@handler
def draw(_ctx, _message):
    return os.urandom(8).hex()


def there(ctx):
    if not ctx.exists:
        raise Refused("absent", status=404)
    return ctx.state


if __name__ == "__main__":
    serve()
