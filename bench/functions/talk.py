"""Entities that send: `tell` one message to a counter, `report` to one of ten for all, `ball` plays with its
neighbour for a while, `stamp` sends the time, and `stamped` keeps how long ago that was."""
# mypy: ignore-errors

import time

from shim import handler, serve


@handler
def tell(ctx, message):
    state = ctx.state or {"count": 0}
    state["count"] += 1
    ctx.state = state
    ctx.send("talk", "heard-" + ctx.key, "hear", 1)
    return state["count"]


@handler
def report(ctx, message):
    state = ctx.state or {"count": 0}
    state["count"] += 1
    ctx.state = state
    ctx.send("talk", "desk-" + ctx.key[-1], "hear", 1)
    return state["count"]


@handler
def hear(ctx, message):
    state = ctx.state or {"count": 0}
    state["count"] += 1
    ctx.state = state


@handler
def ball(ctx, message):
    state = ctx.state or {"count": 0}
    state["count"] += 1
    ctx.state = state
    name, _, side = ctx.key.partition("-")
    if message > 0:
        ctx.send("talk", name + ("-b" if side == "a" else "-a"), "ball", message - 1)


@handler
def stamp(ctx, message):
    ctx.state = (ctx.state or 0) + 1
    ctx.send("talk", message, "stamped", time.time())


@handler
def stamped(ctx, message):
    passed_s = time.time() - message
    ctx.state = [*(ctx.state or ()), passed_s]


if __name__ == "__main__":
    serve()
