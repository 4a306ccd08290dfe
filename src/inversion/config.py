"""inversion.toml as one frozen `Config`; every limit with its reason.

Read by config_file.load (tomllib + cattrs): unknown keys are errors that name the nearest right one,
durations and sizes carry units ("30s", "1MiB"). Seconds and bytes after that.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from pathlib import Path

import attrs

from inversion.protocol.cron import Schedule
from inversion.protocol.destination import NOTHING, AllowList


class Mode(Enum):
    LINES = "lines"  #: long-lived processes, one JSON frame a line
    EXEC = "exec"  #: one process per call, bytes in and out
    CGI = "cgi"  #: one process per HTTP request, as RFC 3875 says


class HelloRule(Enum):
    AUTO = "auto"
    REQUIRED = "required"
    NONE = "none"


class Channel(Enum):
    STDIO = "stdio"
    FD3 = "fd3"


class Correlate(Enum):
    ID = "id"
    ORDER = "order"


class Sandbox(Enum):
    NONE = "none"
    BASIC = "basic"
    STRICT = "strict"


class Arguments(Enum):
    """Where a caller may add arguments to the command."""

    NONE = "none"
    QUERY = "query"  #: ?arg=one&arg=two


class Crash(Enum):
    """Which ends of a CGI program are crashes: then its answer is not whole."""

    STATUS = "status"  #: a signal, and any exit status but 0
    SIGNAL = "signal"  #: a signal alone: programs that nobody ever asked for a status


@attrs.frozen(slots=True)
class Processes:
    """Children of one function on one node."""

    min: int = 0
    max: int = 2


@attrs.frozen(slots=True)
class Retry:
    """Of messages, or of outgoing requests, that failed (protocol/retrying.py)."""

    attempts: int = 10  #: with these pauses over some four minutes: longer than a deploy of what it waits for
    max_age_s: float = 86_400.0
    pause_s: float = 1.0  #: the first is drawn from zero to this; doubled after each failure, ...
    longest_pause_s: float = 600.0  #: ... to this: what is well again is found so within minutes


@attrs.frozen(slots=True)
class Walls:
    """What the basic sandbox leaves a function."""

    #: Of data in one process. A JVM that does nothing has 0.5 GiB, Node 60 MiB. What V8 and the JVM only
    #: reserve is not counted: that would be gigabytes.
    memory_bytes: int = 2 << 30
    files: int = 1_024  #: open in one process: what programs are used to (select(2) knows no more)
    processes: int | None = None  #: and threads, of all; None: 64 for each of processes.max, at least 512


@attrs.frozen(slots=True)
class Function:
    """One function: a named deployment of an executable."""

    name: str
    command: tuple[str, ...]
    folder: Path  #: where the command runs: the folder of inversion.toml
    mode: Mode = Mode.LINES
    timeout_s: float = 30.0
    processes: Processes = Processes()
    idle_s: float = 300.0
    grace_s: float = 2.0  #: between TERM and KILL
    state: bool = True
    hello: HelloRule = HelloRule.AUTO
    channel: Channel = Channel.STDIO
    correlate: Correlate = Correlate.ID
    strict: bool = False
    rerun: int = 1
    sandbox: Sandbox | None = None  #: None: nobody said so; basic, as far as that goes
    limits: Walls = Walls()
    retry: Retry = Retry()
    input: str = ""  #: exec: "json" (validated), a media type, or "": any
    output: str = "application/octet-stream"  #: exec: "json" (validated), or a media type
    exit: Mapping[int, int] = attrs.field(factory=dict)  #: exec: exit code -> status 400-499
    arguments: Arguments = Arguments.NONE  #: exec
    crash: Crash = Crash.STATUS  #: cgi
    env: Mapping[str, str] = attrs.field(factory=dict)
    cron: Mapping[str, Schedule] = attrs.field(factory=dict)


@attrs.frozen(slots=True)
class Queues:
    """How many requests may wait. The entity's is the length of about a second of a hot key's work."""

    entity: int = 1_000
    function: int = 5_000
    node: int = 20_000


@attrs.frozen(slots=True)
class Limits:
    """What one request, answer or node may hold."""

    body_bytes: int = 1 << 20
    state_bytes: int = 1 << 20
    response_bytes: int = 1 << 20
    effects_bytes: int = 1 << 20
    queue: Queues = Queues()
    connections: int = 10_000
    cache_bytes: int = 256 << 20
    in_flight_bytes: int = 256 << 20  #: of request bodies, answers not taken, states that wait: each
    drain_s: float = 25.0  #: Kubernetes kills after 30: time is left to stop the database

    @property
    def frame_bytes(self) -> int:
        """A line's limit, both ways: the parts' sum and 64 KiB for the rest (protocol.md, Rules)."""
        return self.body_bytes + self.state_bytes + self.response_bytes + self.effects_bytes + (64 << 10)


@attrs.frozen(slots=True)
class Http:
    read_state: bool = False  #: GET /v1/state in `serve`; `dev` always allows it
    allow: AllowList = NOTHING  #: what outgoing requests may reach: nothing
    timeout_s: float = 30.0  #: of one outgoing request, from the look-up of the name to the last byte
    retry: Retry = Retry()  #: of outgoing requests


@attrs.frozen(slots=True)
class Retention:
    keys_s: float = 86_400.0  #: an answer to an Idempotency-Key: longer than anybody retries
    outputs_s: float = 86_400.0  #: an answer to a send
    dead_letters_s: float | None = (
        None  #: None: until somebody decides about them, for nobody may have looked
    )


@attrs.frozen(slots=True)
class Config:
    functions: Mapping[str, Function] = attrs.field(factory=dict)
    limits: Limits = Limits()
    http: Http = Http()
    retention: Retention = Retention()
    folder: Path = Path()  #: of inversion.toml; `.inversion/` lies here
