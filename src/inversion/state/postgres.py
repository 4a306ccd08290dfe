"""psycopg without its waits: the only importer of psycopg.

`Connection.open` tries one host at a time, each with its own deadline (names are looked up through trio),
verifies the server and returns. `execute` sends one statement, prepared under the hash of its text, with
binary parameters and results, and returns when ReadyForQuery has come: without a WARNING that is the
acknowledgement. A connection is a trio task's until `hand_over` gives it to a walk. Failures leave by one
door: `StatementFailed` (the server said no: not applied) or `ConnectionLost` (`sent`: the outcome is
unknown). A cancelled or broken query closes its connection.
"""

from __future__ import annotations

import ipaddress
import os
import select
from collections.abc import Callable, Mapping, Sequence
from time import perf_counter
from typing import Final

import attrs
import psycopg
import trio
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import abc as pq_abc

from inversion.errors import StoreUnavailable
from inversion.state import sql
from inversion.watch import Interrupted, Readiness, Watch

#: The oldest server the statements were tested on.
_OLDEST_SERVER: Final = 150_000
_BINARY: Final = int(pq.Format.BINARY)
#: A statement takes at most this many parameters; the formats are the same for all.
_BINARY_EACH: Final = tuple([_BINARY] * count for count in range(17))
#: SQLSTATEs after which the statement may have been applied (storage.md, Unknown outcomes).
_UNKNOWN: Final = ("08", "57P", "40003")
#: What poolers say when they take no startup options (PgBouncer, Neon; RDS Proxy).
_REFUSES_OPTIONS: Final = ("startup parameter", "command-line options")


class ConnectionLost(Exception):
    """No connection, or it broke. `sent`: a statement had been sent and its outcome is unknown."""

    def __init__(self, detail: str, *, sent: bool) -> None:
        super().__init__(detail)
        self.sent = sent


class StatementFailed(Exception):
    """The server refused the statement: nothing of it was applied."""

    def __init__(self, sqlstate: str, detail: str) -> None:
        super().__init__(f"{detail} (SQLSTATE {sqlstate})")
        self.sqlstate = sqlstate


def refused(what: str, failure: StatementFailed) -> StoreUnavailable:
    """What a caller may know of a refusal: its SQLSTATE. The server's words are the cause, for the log."""
    error = StoreUnavailable(f"the database refused {what} (SQLSTATE {failure.sqlstate})")
    error.__cause__ = failure
    return error


class UnfitServer(Exception):
    """This server must not hold state; the message says why and what to change."""


@attrs.frozen(slots=True)
class Settings:
    """Time limits of one connection; the server's are tried as startup options."""

    connect_timeout_s: float = 5.0  #: per host
    lock_timeout_s: float = 0.3  #: a gathered statement must not wait long for one row
    statement_timeout_s: float = 10.0  #: ends in a clear refusal; the next one in an unknown outcome
    reply_timeout_s: float = 15.0  #: no reply after this: the connection is taken for dead

    def options(self) -> str:
        """The startup options.

        The planner's are no tuning: a plan is made once, for arrays of unknown length over a table that
        may have been empty a minute ago. Reading the whole table looks cheap then, and the plan stays.
        """
        values: Mapping[str, object] = {
            "lock_timeout": int(self.lock_timeout_s * 1_000),
            "statement_timeout": int(self.statement_timeout_s * 1_000),
            "idle_in_transaction_session_timeout": int(self.statement_timeout_s * 1_000),
            "enable_seqscan": "off",
            "enable_hashjoin": "off",
            "enable_mergejoin": "off",
            "jit": "off",
            "plan_cache_mode": "force_generic_plan",
        }
        return " ".join(f"-c {name}={value}" for name, value in values.items())


class Rows:
    """What a statement returned. `value(row, column)` is the binary form, None for null."""

    __slots__ = ("_columns", "count", "value", "warned")

    def __init__(self, result: pq_abc.PGresult, warned: bool) -> None:
        self._columns = result.nfields
        self.count: int = result.ntuples
        self.value: Callable[[int, int], bytes | None] = result.get_value
        self.warned = warned  #: a WARNING came along: a commit may not be durable on every standby

    def texts(self) -> list[tuple[str | None, ...]]:
        """The rows of a statement that returns text only."""
        return [
            tuple(_decoded(self.value(row, column)) for column in range(self._columns))
            for row in range(self.count)
        ]


class _TrioWaits:
    """How a trio task waits for a connection's file: the face of `Readiness`, with a time limit."""

    def __init__(self, file: int, timeout_s: float) -> None:
        self._file = file
        self._timeout_s = timeout_s

    async def readable(self) -> None:
        with trio.move_on_after(self._timeout_s):
            return await trio.lowlevel.wait_readable(self._file)
        raise Interrupted

    async def writable(self) -> None:
        with trio.move_on_after(self._timeout_s):
            return await trio.lowlevel.wait_writable(self._file)
        raise Interrupted

    def close(self) -> None:
        trio.lowlevel.notify_closing(self._file)


class Connection:
    """One connection, used by one task or walk at a time. Closed for good after its first own failure."""

    def __init__(self, pgconn: pq_abc.PGconn, settings: Settings, *, pooler: bool) -> None:
        self.pooler = pooler  #: statements are sent unnamed: another client's may have the name
        self.warnings: list[str] = []  #: what the server's settings deserve saying; empty when all is well
        self.closed = False
        self.deadline_s = 0.0  #: of the reply to the statement under way (perf_counter)
        self._pgconn = pgconn
        # Ours to close: libpq closes its own number when it likes, and the next file would get it.
        self._file: int = os.dup(pgconn.socket)
        self._waits: Readiness | _TrioWaits = _TrioWaits(self._file, settings.reply_timeout_s)
        self._poll = select.poll()
        self._poll.register(self._file, select.POLLIN)
        self._settings = settings
        self._prepared: set[bytes] = set()
        self._warned = False
        self._doomed = False  #: the server said goodbye while nothing was under way
        pgconn.notice_handler = self._on_notice

    @classmethod
    async def open(cls, conninfo: str, settings: Settings | None = None) -> Connection:
        """Connect to the first host that answers and is fit. Raises ConnectionLost or UnfitServer."""
        settings = settings or Settings()
        failures: list[str] = []
        for attempt in await _attempts(conninfo, failures):
            try:
                connection = await _connect(attempt, settings)
            except ConnectionLost as failure:
                failures.append(str(failure))
                continue
            try:
                if await connection._verify():
                    return connection
                failures.append("the server is in recovery (a standby)")
            except (ConnectionLost, StatementFailed) as failure:
                failures.append(str(failure))
            except BaseException:
                connection.close()
                raise
            connection.close()
        raise ConnectionLost("; ".join(dict.fromkeys(failures)) or "no host to connect to", sent=False)

    def hand_over(self, watch: Watch) -> None:
        """From now on walks use it, no longer trio tasks; `sweep` minds the time limit of replies."""
        self._waits.close()
        self._waits = Readiness(watch, self._file)

    async def prepare(self, statement: sql.Statement) -> None:
        """Prepare a statement now: its first `execute` then writes at once, without a wait before."""
        if not self.pooler and statement.name not in self._prepared:
            await self._ask(False, self._pgconn.send_prepare, statement.name, statement.text)
            self._prepared.add(statement.name)

    async def execute(self, statement: sql.Statement, parameters: Sequence[bytes | None] = ()) -> Rows:
        """Run one statement with binary parameters; returns when the server is ready for the next."""
        formats = _BINARY_EACH[len(parameters)]
        pgconn, name, text = self._pgconn, statement.name, statement.text
        if self.pooler:
            result = await self._ask(True, pgconn.send_query_params, text, parameters, None, formats, _BINARY)
        else:
            if name not in self._prepared:
                await self.prepare(statement)
            result = await self._ask(True, pgconn.send_query_prepared, name, parameters, formats, _BINARY)
        return Rows(result, self._warned)

    async def run_script(self, text: str) -> None:
        """Run a text of one or more statements, as one transaction unless it has its own."""
        await self._ask(True, self._pgconn.send_query, text.encode())

    def sweep(self, now_s: float) -> None:
        """Give up a walk's statement that has had no reply for too long."""
        if now_s >= self.deadline_s and isinstance(self._waits, Readiness):
            self._waits.interrupt()

    def alive(self) -> bool:
        """Whether an idle connection still stands, by what has already arrived. One system call."""
        if self.closed:
            return False
        if self._poll.poll(0):
            try:
                self._pgconn.consume_input()
                self._pgconn.is_busy()  # parses: notices and the server's goodbye
                if self._doomed or self._poll.poll(0):
                    self.close()
            except psycopg.Error:
                self.close()
        return not self.closed

    def close(self) -> None:
        """Close the socket. What the server has got it goes on with; a commit is never cancelled."""
        if not self.closed:
            self.closed = True
            self._waits.close()
            os.close(self._file)
            self._pgconn.finish()

    async def _ask(self, sent: bool, send: Callable[..., None], *arguments: object) -> pq_abc.PGresult:
        """Send something and return the result; `sent` says what a loss of the connection would mean."""
        if self.closed:
            raise ConnectionLost("the connection is closed", sent=False)
        self._warned = False
        self.deadline_s = perf_counter() + self._settings.reply_timeout_s
        try:
            send(*arguments)
            return await self._finish(sent)
        except StatementFailed:
            raise
        except BaseException as error:  # lost, interrupted, cancelled
            self.close()
            if isinstance(error, Interrupted):
                detail = f"no reply within {self._settings.reply_timeout_s:g} s"
                raise ConnectionLost(detail, sent=sent) from None
            if isinstance(error, psycopg.Error):
                raise ConnectionLost(" ".join(str(error).split()), sent=sent) from None
            raise

    async def _finish(self, sent: bool) -> pq_abc.PGresult:
        """Flush, then read to ReadyForQuery. The last result is the statement's."""
        pgconn, waits = self._pgconn, self._waits
        # Waiting to write alone cannot deadlock: the server answers only when it has read it all.
        while pgconn.flush():
            await waits.writable()
        last: pq_abc.PGresult | None = None
        failed: pq_abc.PGresult | None = None
        while True:
            if pgconn.is_busy():
                await waits.readable()
                try:
                    pgconn.consume_input()
                except psycopg.Error:
                    if failed is None:
                        raise
                    break  # the error that ended the connection came first and says more
            elif (result := pgconn.get_result()) is None:
                break
            elif result.status == pq.ExecStatus.FATAL_ERROR:
                failed = failed or result
            else:
                last = result
        if failed is not None:
            raise self._failure(failed, sent=sent)
        if last is None:
            raise ConnectionLost("the server closed the connection", sent=sent)
        return last

    def _failure(self, result: pq_abc.PGresult, *, sent: bool) -> Exception:
        field = pq.DiagnosticField
        sqlstate = (result.error_field(field.SQLSTATE) or b"").decode()
        severity = result.error_field(field.SEVERITY_NONLOCALIZED)
        detail = (result.error_field(field.MESSAGE_PRIMARY) or result.error_message).decode(errors="replace")
        if not sqlstate or sqlstate.startswith(_UNKNOWN) or severity != b"ERROR":
            return ConnectionLost(detail.strip(), sent=sent)
        return StatementFailed(sqlstate, detail)

    def _on_notice(self, notice: pq_abc.PGresult) -> None:
        severity = notice.error_field(pq.DiagnosticField.SEVERITY_NONLOCALIZED)
        if severity == b"WARNING":
            self._warned = True
        elif severity in (b"FATAL", b"PANIC"):
            self._doomed = True

    async def _verify(self) -> bool:
        """Look at the server's settings. False: a standby. Raises UnfitServer."""
        (row,) = (await self.execute(sql.SETTINGS)).texts()
        fsync, encoding, number, version, in_recovery, synchronous_commit, lock_timeout = row
        if int(number or 0) < _OLDEST_SERVER:
            raise UnfitServer(f"PostgreSQL {version} is too old: inversion needs 15 or newer")
        if encoding != "UTF8":
            raise UnfitServer(f"the database's encoding is {encoding}: create it with ENCODING 'UTF8'")
        if fsync != "on":
            raise UnfitServer("fsync is off: a crash of the server would lose acknowledged changes")
        if synchronous_commit == "off":
            self.warnings.append(
                "synchronous_commit is off: a crash of the server may lose the last acknowledged changes"
            )
        if not self.pooler and lock_timeout != f"{int(self._settings.lock_timeout_s * 1_000)}ms":
            self.pooler = True  # it took the options and dropped them
        if self.pooler:
            self.warnings.append(
                "a pooler refuses startup options: statements are sent unnamed and without time limits "
                "(set lock_timeout and statement_timeout by ALTER ROLE)"
            )
        return in_recovery == "false"


async def _attempts(conninfo: str, failures: list[str]) -> Sequence[Mapping[str, str]]:
    """One set of parameters for each address, names looked up; what failed is noted in `failures`."""
    try:
        given = {name: str(value) for name, value in conninfo_to_dict(conninfo).items() if value is not None}
    except psycopg.Error as error:
        raise UnfitServer(f"the database URL cannot be read: {' '.join(str(error).split())}") from None
    if "hostaddr" in given or "service" in given or "PGSERVICE" in os.environ:
        return [given]
    hosts = given.get("host", os.environ.get("PGHOST", "")).split(",")
    ports = given.get("port", os.environ.get("PGPORT", "")).split(",")
    attempts = []
    for host, port in zip(hosts, ports if len(ports) == len(hosts) else ports[:1] * len(hosts), strict=True):
        one = {**given, "host": host, "port": port}
        if not host or host[0] in "/@" or _is_address(host):
            attempts.append(one)
            continue
        try:
            found = await trio.socket.getaddrinfo(host, port or "5432", type=trio.socket.SOCK_STREAM)
        except OSError as error:
            failures.append(f"cannot look up {host}: {error.strerror or error}")
            continue
        attempts += [{**one, "hostaddr": address} for address in dict.fromkeys(str(at[4][0]) for at in found)]
    return attempts


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def _connect(attempt: Mapping[str, str], settings: Settings) -> Connection:
    parameters: dict[str, str] = {
        "application_name": "inversion",
        "keepalives_idle": "30",
        "keepalives_interval": "5",
        "keepalives_count": "3",
        "tcp_user_timeout": str(int(settings.reply_timeout_s * 1_000)),
        **attempt,
        "client_encoding": "UTF8",
    }
    options = f"{attempt.get('options', '')} {settings.options()}".strip()
    try:
        pgconn = await _dial(make_conninfo(**{**parameters, "options": options}), settings)
    except ConnectionLost as failure:
        if not any(words in str(failure) for words in _REFUSES_OPTIONS):
            raise
        return Connection(await _dial(make_conninfo(**parameters), settings), settings, pooler=True)
    return Connection(pgconn, settings, pooler=False)


async def _dial(conninfo: str, settings: Settings) -> pq_abc.PGconn:
    with trio.move_on_after(settings.connect_timeout_s):
        pgconn = pq.PGconn.connect_start(conninfo.encode())
        try:
            while pgconn.status != pq.ConnStatus.BAD:
                match pgconn.connect_poll():
                    case pq.PollingStatus.OK:
                        pgconn.nonblocking = 1
                        return pgconn
                    case pq.PollingStatus.READING:
                        await trio.lowlevel.wait_readable(pgconn.socket)
                    case pq.PollingStatus.WRITING:
                        await trio.lowlevel.wait_writable(pgconn.socket)
                    case _:
                        break
            raise ConnectionLost(" ".join(pgconn.get_error_message("utf-8").split()), sent=False)
        except BaseException:
            pgconn.finish()
            raise
    raise ConnectionLost(f"no connection within {settings.connect_timeout_s:g} s", sent=False)


def _decoded(value: bytes | None) -> str | None:
    return None if value is None else value.decode()
