"""A counter: the smallest function with a state. `inversion dev runtimes/python/counter.py`"""

from shim import Refused, handler, serve


@handler(default=True)
def add(ctx, message):
    amount = 1 if message is None else message
    if type(amount) is not int:
        raise Refused("bad_amount", "add takes a whole number", status=422)
    state = ctx.state or {"count": 0}
    state["count"] += amount
    ctx.state = state
    return state["count"]


@handler(reads_only=True)
def get(ctx, message):
    return ctx.state["count"] if ctx.exists else 0


@handler
def reset(ctx, message):
    ctx.delete()
    return 0


if __name__ == "__main__":
    serve()
