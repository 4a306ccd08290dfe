"""The interpreter of the conformance kit (runtimes/conformance/interpreter.md): a message says what to do."""

import copy
import os
import sys
import time

from shim import Refused, handler, serve


def interpret(ctx, message):
    response = None
    for command in message:
        ((name, value),) = command.items()
        if name in ("reply", "reply_state", "reply_ctx", "add", "unwritable"):
            response = SAYS[name](ctx, value)
        else:
            DOES[name](ctx, value)
    return response


def add(ctx, amount):
    ctx.state = (ctx.state if ctx.exists else 0) + amount
    return ctx.state


def reply_ctx(ctx, field):
    return getattr(ctx, field)


def put(ctx, value):
    ctx.state = value


def fail(ctx, error):
    raise Refused(**{"code": "failed", "status": 500, **error})


def throw(ctx, text):
    raise RuntimeError(text)


def ask(ctx, effect):
    ((operation, fields),) = effect.items()
    ctx._ask(operation, dict(fields))


SAYS = {
    "reply": lambda ctx, value: value,
    "reply_state": lambda ctx, _: {"state": copy.deepcopy(ctx.state)} if ctx.exists else {},
    "reply_ctx": reply_ctx,
    "add": add,
    "unwritable": lambda ctx, _: float("nan"),
}
DOES = {
    "put": put,
    "delete": lambda ctx, _: ctx.delete(),
    "set": lambda ctx, fields: ctx.state.update(fields),
    "effect": ask,
    "fail": fail,
    "throw": throw,
    "print": lambda ctx, text: print(text),
    "log": lambda ctx, text: print(text, file=sys.stderr),
    "sleep": lambda ctx, ms: time.sleep(ms / 1000),
    "exit": lambda ctx, status: os._exit(status),
}

handler(interpret, name="run", default=True)
handler(interpret, name="look", reads_only=True)

if __name__ == "__main__":
    serve()
