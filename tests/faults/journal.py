"""A function that keeps the token of every call, in order: what was applied can be read off its state.

RUNS names a file that is told of every run, whether or not it comes to be applied.
"""

import os
import sys
import time

from shim import handler, serve

RUNS = os.environ.get("RUNS")


@handler(default=True)
def add(ctx, token):
    if RUNS:
        with open(RUNS, "a") as runs:
            runs.write(f"{token}\n")
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
