"""What a message-out asks for beside its state: the nouns of `effects`, as they are committed.

A missing `function` or `key` was filled in from the sender's address; `key` None is a stateless call. Message
bodies are the sender's bytes, checked once. What is carried out of these, and when, is the state's business.
"""

from __future__ import annotations

from collections.abc import Sequence

import attrs


@attrs.define(slots=True)  # not frozen: that would cost three times as much to make
class Send:
    """A message to an entity or a function, now or later. With a name it is a timer of the sender's."""

    function: str
    key: str | None
    handler: str
    message: bytes
    delay_ms: int | None = None  #: at least 1: a delay of nothing is none
    at: str | None = None  #: RFC 3339 in UTC with microseconds; then there is no delay
    name: str | None = None  #: unique per sender: a later one with it replaces, a cancel removes
    reply_to: str | None = None  #: the sender's handler that gets the answer


@attrs.frozen(slots=True)
class Cancel:
    """The sender's timer of that name is not to fire; there need not be one."""

    name: str


@attrs.frozen(slots=True)
class Forward:
    """The caller's answer comes from there. At most one an answer, which has no response of its own."""

    function: str
    key: str | None
    handler: str
    message: bytes


@attrs.frozen(slots=True)
class Publish:
    """A message to every handler that is subscribed to the topic."""

    topic: str
    message: bytes


@attrs.frozen(slots=True)
class Subscribe:
    """The sender's handler gets what is published to the topic; one handler per entity and topic."""

    topic: str
    handler: str


@attrs.frozen(slots=True)
class Unsubscribe:
    topic: str


@attrs.frozen(slots=True)
class Http:
    """A request to somewhere else, at least once."""

    method: str
    url: str  #: absolute, http or https, without user and fragment
    headers: Sequence[tuple[str, str]] = ()
    body: bytes | None = None  #: raw JSON: a string stands for its text, anything else for itself
    reply_to: str | None = None


Effect = Send | Cancel | Forward | Publish | Subscribe | Unsubscribe | Http
