"""The composition root: the one place where things are constructed, in floor order.

`serve` opens the database, the store, the processes and the doors, each inside the one before, and calls
`on_started`. The first SIGTERM or SIGINT drains: readiness off, what was accepted is answered, processes
leave, the database stops last. A second signal ends it at once.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import attrs

from inversion.messages import Hello

#: How often deadlines are looked at: fine enough for a person, 1 % of a core at full queues.
SWEEP_INTERVAL_S: Final = 0.05


class StartError(Exception):
    """The node cannot start; the message says why and what to do."""


@attrs.frozen(slots=True)
class Options:
    """What the command line and the environment decide."""

    host: str = "127.0.0.1"
    port: int = 8080
    admin_host: str = "127.0.0.1"
    admin_port: int = 9080
    database_url: str | None = None  #: None: the embedded PostgreSQL
    dev: bool = False
    migrate: bool = False
    admin_token: str | None = attrs.field(default=None, repr=False)


@attrs.frozen(slots=True)
class Started:
    """What `on_started` is told."""

    url: str
    admin_url: str
    database: str  #: a sentence: which database it uses
    functions: Sequence[tuple[str, bool, str]]  #: name, does it run, a sentence
    socket_path: Path
    hellos: Mapping[str, Hello | None] = attrs.field(factory=dict)  #: what each function said of itself
