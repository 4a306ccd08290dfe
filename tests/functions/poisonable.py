"""A counter over the shim, so that one frame holds many messages; `poison` kills.

`add` answers with its attempt, slowly enough for others to gather. PYTHONPATH has the shim.
"""

import os
import sys
import time

from shim import handler, serve


@handler
def add(ctx, message):
    time.sleep(0.002)
    ctx.state = (ctx.state or 0) + 1
    return ctx.attempt


@handler
def poison(ctx, message):
    print("it was poison", file=sys.stderr, flush=True)
    os._exit(3)


serve()
