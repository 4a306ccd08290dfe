"""What functions, handlers, keys, timers and topics may be called: one rule, wherever a name comes in."""

from __future__ import annotations

import re
from typing import Final

#: Function and handler names (interface.md): they stand in URLs, metrics and environment variables.
NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,62}")
#: The handler of a message that names none.
DEFAULT_HANDLER: Final = "call"
#: Of a key in UTF-8; room for any id people use, and three of them still fit into an index entry.
MAX_KEY_BYTES: Final = 200
#: The function of outgoing requests. No name of a user's has a ~.
HTTP: Final = "~http"
#: What no key, timer or topic may hold: it would not survive logs, URLs and terminals.
CONTROL: Final = re.compile("[\x00-\x1f\x7f-\x9f]")
#: In a path it stands for no key.
NO_KEY: Final = "-"

#: The target of what is published, the topic its key: no function has such a name.
TOPIC: Final = "~topic"


def label_fault(text: str) -> str | None:
    """Why `text` cannot be a key, a timer or a topic, as the end of a sentence; None: it can."""
    if text.isascii() and text.isprintable() and 1 <= len(text) <= MAX_KEY_BYTES:
        return None  # as nearly always, and at a tenth of the cost
    size = len(text.encode())
    if not 1 <= size <= MAX_KEY_BYTES:
        return f"must have 1 to {MAX_KEY_BYTES} bytes, not {size}"
    if CONTROL.search(text) is not None:
        return "holds a control character"
    return None


def key_fault(text: str) -> str | None:
    """The same for a key."""
    return "cannot be -, which stands for no key" if text == NO_KEY else label_fault(text)
