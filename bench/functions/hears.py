"""Entities that hear what is published, and one that publishes."""
# mypy: ignore-errors

from shim import handler, serve


@handler
def say(ctx, message):
    ctx.publish(message, 1)


@handler
def hear(ctx, message):
    state = ctx.state or {"count": 0}
    state["count"] += message
    ctx.state = state


if __name__ == "__main__":
    serve()
