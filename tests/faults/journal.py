"""A function that keeps the token of every call, in order: what was applied can be read off its state."""

import sys
import time

from shim import handler, serve


@handler(default=True)
def add(ctx, token):
    state = ctx.state or {"tokens": []}
    state["tokens"].append(token)
    ctx.state = state
    return len(state["tokens"])


@handler
def add_slowly(ctx, message):
    print("begun", flush=True, file=sys.stderr)
    time.sleep(message["s"])
    return add(ctx, message["token"])


if __name__ == "__main__":
    serve()
