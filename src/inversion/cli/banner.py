"""What `dev` says when it is up: where it listens, which database it uses, what runs, what to type.

The curl line is one that works: it goes to a function that runs, at a handler that its runtime declared,
with a body that this handler takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from inversion.config import Config, Function, Mode
from inversion.messages import Hello

#: Of the examples in runtimes/: a number that is added, the cart's first article.
_BODIES: Final = {"add": "1"}
_COUNTER: Final = "counter"


def curl_line(url: str, config: Config, runs: Mapping[str, Hello | None]) -> str | None:
    """A command to paste; None when nothing runs. `runs`: what each function that runs said of itself."""
    best = min(runs, key=lambda name: _rank(config.functions[name], runs[name]), default=None)
    if best is None:
        return None
    function, hello = config.functions[best], runs[best]
    if function.mode is Mode.CGI:
        return f"curl {url}/v1/http/{best}/"
    path = f"{url}/v1/call/{best}" + ("/alice" if function.state else "")
    if function.mode is not Mode.LINES:
        return f"""curl -d '{{"hello":"world"}}' {path}"""
    handler = _handler(hello)
    if handler is not None:
        path += f"/{handler}"
    return f"curl -d {_BODIES.get(handler or '', 'null')} {path}"


def _rank(function: Function, hello: Hello | None) -> int:
    """Lower is more telling: a counter, then what reads only, then any program."""
    declared = {} if hello is None or hello.handlers is None else hello.handlers
    if function.mode is Mode.LINES and function.name.startswith(_COUNTER) and "add" in declared:
        return 0 if function.name.startswith("counter-python") else 1
    if any(handler.reads_only for handler in declared.values()):
        return 2
    return 4 if function.mode is Mode.LINES else 3


def _handler(hello: Hello | None) -> str | None:
    if hello is None or not hello.handlers:
        return None  # a silent one takes any: the default will do
    if "add" in hello.handlers:
        return "add"
    for handler in hello.handlers.values():
        if handler.reads_only:
            return handler.name
    return next(iter(hello.handlers))
