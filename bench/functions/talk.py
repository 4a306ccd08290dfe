"""Entities that send: `tell` sends one message to a counter, `ball` plays with its neighbour for a while."""
# mypy: ignore-errors

from shim import handler, serve


@handler
def tell(ctx, message):
    state = ctx.state or {"count": 0}
    state["count"] += 1
    ctx.state = state
    ctx.send("talk", "heard-" + ctx.key, "hear", 1)
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


if __name__ == "__main__":
    serve()
