"""inversion for Python, in one file: copy it beside your function. Standard library only, Python 3.8+.

    from shim import handler, serve

    @handler(default=True)
    def add(ctx, message):
        ctx.state = (ctx.state or 0) + message
        return ctx.state

    if __name__ == "__main__":
        serve()

A handler is `function(ctx, message) -> response`. What it leaves in `ctx.state` is stored before the
answer goes out; if it raises, nothing is. print() goes to the log. What it asks for (`ctx.send`,
`ctx.cancel`, `ctx.forward`, `ctx.publish`, `ctx.subscribe`, `ctx.unsubscribe`, `ctx.http`) is done when,
and only if, its answer is stored. The wire is in runtimes/README.md.
"""

from __future__ import annotations

import json
import os
import random
import sys
import traceback
from datetime import datetime, timedelta

__all__ = ["Context", "Refused", "handler", "serve"]

_ABSENT = object()  # there is no state: not the same as a state that is null
_STALE = object()  # a handler had its hands on the value: read it again from the text
_KEEP = object()


class Refused(Exception):
    """The answer is an error, and the state stays as it was. `status` is 400 to 499, else 500.
    With `retry` the host runs the message again, a few times, before the caller sees the error."""

    def __init__(self, code: str, message: str = "", status: int = 400, details=None, retry: bool = False):
        super().__init__(code, message)
        error = {"code": code, "message": message, "status": status, "details": details, "retry": retry}
        self.error = {name: value for name, value in error.items() if value not in (None, False)}


class Context:
    """Who is called, when, and on which state."""

    def __init__(self, call, reads_only, stored):
        self._call, self._reads_only, self._stored = call, reads_only, stored
        self._value, self._assigned, self._random, self._effects = _STALE, False, None, []

    @property
    def state(self):
        """The entity's state, None when there is none (see `exists`). Change it in place, assign it
        (None too: then the state is null), or `del ctx.state`."""
        if self._value is _STALE:
            self._value = self._stored.take()
        return None if self._value is _ABSENT else self._value

    @state.setter
    def state(self, value):
        self._assign(value)

    @state.deleter
    def state(self):
        self._assign(_ABSENT)

    def delete(self):
        """The same as `del ctx.state`: the entity has no state any more."""
        self._assign(_ABSENT)

    @property
    def exists(self):
        """Is there a state? A state that is None (null) exists."""
        return (self._stored.value if self._value is _STALE else self._value) is not _ABSENT

    handler = property(lambda self: self._call.get("handler", "call"))
    function = property(lambda self: self._call.get("function"))
    key = property(lambda self: self._call.get("key"), doc="None: a stateless call")
    version = property(lambda self: self._call.get("version"), doc="Of the state, before this turn")
    attempt = property(lambda self: self._call.get("attempt", 1), doc="1, 2, ... of this request")
    trace = property(lambda self: self._call.get("trace"), doc="W3C traceparent")
    meta = property(lambda self: self._call.get("meta") or {})
    reply_to = property(lambda self: self._call.get("reply_to"), doc="Of a reply: the id that a send had")
    now = property(lambda self: _time(self._call["now"]), doc="The same for all attempts of a request")
    deadline = property(lambda self: _time(self._call["deadline"]), doc="Nobody waits for longer")
    seed = property(lambda self: self._call["seed"], doc="The same for all attempts of a request")

    @property
    def random(self):
        """A random.Random that a second attempt of the request finds in the same order."""
        if self._random is None:
            self._random = random.Random(self.seed)
        return self._random

    def send(
        self,
        function=None,
        key=_ABSENT,
        handler=None,
        message=None,
        *,
        delay=None,
        at=None,
        name=None,
        reply_to=None,
    ):
        """A message to `handler` of another entity, or of this one where no function and key are named.
        A key of None: a stateless call. `delay` is "24h" or a timedelta, `at` RFC 3339 or a datetime with
        its zone. A later send with the same `name` replaces it, `cancel` removes it. The handler `reply_to`
        of this entity gets {"response": ...} or {"error": ...}."""
        if isinstance(delay, timedelta):
            delay = f"{delay / timedelta(milliseconds=1):.0f}ms"
        if isinstance(at, datetime):
            at = at.isoformat()
        target = {"message": message} if key is _ABSENT else {"key": key, "message": message}
        options = {"delay": delay, "at": at, "name": name, "reply_to": reply_to}
        self._ask("send", target, function=function, handler=handler, **options)

    def cancel(self, name):
        """What was sent under this name is not to arrive."""
        self._ask("cancel", {"name": name})

    def forward(self, function=None, key=_ABSENT, handler=None, message=None):
        """The caller gets the answer of that entity in place of this one's: return nothing."""
        target = {"message": message} if key is _ABSENT else {"key": key, "message": message}
        self._ask("forward", target, function=function, handler=handler)

    def publish(self, topic, message=None):
        """A message to every handler that is subscribed to the topic."""
        self._ask("publish", {"topic": topic, "message": message})

    def subscribe(self, topic, handler=None):
        """`handler` of this entity gets what is published to the topic, until it is unsubscribed."""
        self._ask("subscribe", {"topic": topic}, handler=handler)

    def unsubscribe(self, topic):
        self._ask("unsubscribe", {"topic": topic})

    def http(self, url, body=None, *, method="POST", headers=None, reply_to=None):
        """A request to a host that the config allows, at least once, with an Idempotency-Key."""
        self._ask("http", {"method": method, "url": url}, headers=headers, body=body, reply_to=reply_to)

    def _ask(self, operation, fields, **options):
        if self._reads_only:
            raise TypeError(f"handler {self.handler} is declared reads_only: it cannot {operation}")
        if self.key is None:
            raise Refused("no_key", f"call it with a key: without one it cannot {operation}")
        fields.update((name, value) for name, value in options.items() if value is not None)
        self._effects.append(_dump({operation: fields}, f"what it would {operation}"))  # now: it may change

    def _assign(self, value):
        if self._reads_only:
            raise TypeError(f"handler {self.handler} is declared reads_only: it cannot change the state")
        if self.key is None:
            raise Refused("no_key", "call it with a key: without one there is no state to change")
        self._value, self._assigned = value, True

    def _change(self):
        """_KEEP, _ABSENT (delete), or the text of the new state."""
        value, stored = self._value, self._stored
        if value is _STALE:
            return _KEEP
        if value is _ABSENT:
            return _ABSENT if self._assigned and stored.value is not _ABSENT else _KEEP
        text = _dump(value, "the state")
        if not self._assigned:
            if text == stored.text:
                return _KEEP
            self._assign(value)
        return text


class _Stored:
    """The state as the last message left it: a value nobody touched, or its text."""

    __slots__ = ("text", "value")

    def __init__(self, value):
        self.value, self.text = value, None

    def take(self):
        """The value, for a handler to do with as it likes; its text stays to compare with."""
        value = self.value
        if value is not _ABSENT:
            if value is _STALE:
                return _load(self.text)
            self.text = _dump(value, "the state")
            self.value = _STALE
        return value


_handlers = {}
_stdio = None


def handler(function=None, *, name=None, default=False, reads_only=False, input=None, output=None):
    """Make a function a handler, named as the function or `name`. `default` also makes it `call`, the
    handler of callers that name none. `reads_only` is a promise, and is held to it. `input` and `output`:
    JSON Schemas of the message and the response."""
    says = {"input": input, "output": output, "reads_only": reads_only}
    says = {field: value for field, value in says.items() if value is not None}

    def declare(function):
        own = name or function.__name__
        for each in (own, "call") if default else (own,):
            _handlers[each] = (function, says)
        return function

    return declare if function is None else declare(function)


def serve(*, cron=()) -> None:
    """Answer messages until stdin ends. `cron`: schedules, {"name": "a", "schedule": "0 4 * * *"} each."""
    reading, writing = _stdio or _take_stdio()
    major, minor = sys.version_info[:2]
    hello = {"protocol": 1, "runtime": f"python/{major}.{minor}", "pipeline": 64, "batch": 64, "integers": 64}
    hello["handlers"] = {each: says for each, (_, says) in _handlers.items()}
    if cron:
        hello["cron"] = list(cron)
    try:
        with open(writing, "wb") as out, open(reading, "rb", 1 << 18) as lines:
            out.write(_dump({"hello": hello}, "hello") + b"\n")
            out.flush()
            for line in lines:
                if line.endswith(b"\n"):  # else it is torn: the host died while it wrote
                    # One write for each: an answer that waited for the next message would share its fate.
                    out.write(_answer(_load(line)))
                    out.flush()
    except BrokenPipeError:
        sys.exit("shim: the host has gone")


def _answer(frame):
    call, stored = frame.get("ctx", {}), _Stored(frame.get("state", _ABSENT))
    if "messages" not in frame:
        answer, change = _run(call, frame.get("message"), stored)
        return b'{"id":%b%b%b}\n' % (_dump(frame["id"]), answer, _change_field(change))
    change, answers = _KEEP, []
    for each in frame["messages"]:
        answer, left = _run({**call, **each}, each.get("message"), stored)
        unchanged = b',"changed":false' if left is _KEEP else b""
        answers.append(b'{"id":%b%b%b}' % (_dump(each["id"]), answer, unchanged))
        if left is not _KEEP:
            change = left
            stored.value, stored.text = (_ABSENT, None) if left is _ABSENT else (_STALE, left)
    return b'{"id":%b,"answers":[%b]%b}\n' % (_dump(frame["id"]), b",".join(answers), _change_field(change))


def _run(call, message, stored):
    """One message: the fields of its answer, and what becomes of the state."""
    name = call.get("handler", "call")
    try:
        if name not in _handlers:
            raise Refused("no_handler", f"no handler {name}, there are: {', '.join(_handlers)}", 404)
        function, says = _handlers[name]
        ctx = Context(call, says["reads_only"], stored)
        response = _dump(function(ctx, message), "the response")
        effects = b',"effects":[%b]' % b",".join(ctx._effects) if ctx._effects else b""
        return b',"response":' + response + effects, ctx._change()
    except Refused as refusal:
        error = refusal.error
    except _NotJson as problem:
        error = {"code": "function_error", "message": f"{problem} (handler {name})"}
        print(f"shim: {error['message']}", file=sys.stderr)
    except Exception as problem:
        traceback.print_exc()  # its text may hold what callers must not see: it is for the log
        error = {"code": "function_error", "message": f"{type(problem).__name__} in handler {name}"}
    try:
        return b',"error":' + _dump(error, "the error"), _KEEP
    except _NotJson as problem:
        return b',"error":' + _dump({"code": "function_error", "message": str(problem)}), _KEEP


def _change_field(change):
    return b"" if change is _KEEP else b',"delete":true' if change is _ABSENT else b',"state":' + change


class _NotJson(Exception):
    pass


_plain = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":"))
_encode = _plain.encode
if json.encoder.c_make_encoder:  # what `encode` makes anew for each value; made once it is twice as fast
    _chunks = json.encoder.c_make_encoder(
        None, _plain.default, json.encoder.encode_basestring, None, ":", ",", False, False, False
    )

    def _encode(value):
        return "".join(_chunks(value, 0))


def _dump(value, what=""):
    """JSON on one line, as bytes. Refuses what JSON has not: NaN, sets, half a surrogate pair, ..."""
    try:
        return _encode(value).encode()
    except (TypeError, ValueError, RecursionError) as problem:
        raise _NotJson(f"{what} is not JSON: {problem}") from None


_decode = json.JSONDecoder().raw_decode


def _load(text):
    return _decode(text.decode())[0]


def _time(text):
    return datetime.fromisoformat(text.replace("Z", "+00:00"))


def _take_stdio():
    """The protocol moves to private descriptors; print() and child processes get stderr and /dev/null."""
    global _stdio
    _stdio = os.dup(0), os.dup(1)
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.dup2(2, 1)
    os.close(nothing)
    sys.stdout.reconfigure(line_buffering=True, errors="backslashreplace")
    return _stdio


def _imported_by_the_program():
    frame = sys._getframe(2)
    while frame and frame.f_code.co_filename.startswith("<frozen importlib"):
        frame = frame.f_back
    names = frame.f_globals if frame else {}
    return names.get("__name__") == "__main__" and "__file__" in names  # an interactive session has no file


if _imported_by_the_program():  # before it can print; a test that imports it keeps its stdout
    _take_stdio()
