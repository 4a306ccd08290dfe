"""psycopg without its waits: one connection and its statements.

`Connection.open` takes the first host that answers (dialing), verifies the server and returns. `execute`
sends one statement, prepared under the hash of its text, with binary parameters and results, and returns
when ReadyForQuery has come: without a WARNING that is the acknowledgement. A connection is a trio task's
until `hand_over` gives it to a walk. Failures leave by one door: `StatementFailed` (the server said no: not
applied) or `ConnectionLost` (`sent`: the outcome is unknown). A cancelled or broken query closes its
connection.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Final

import psycopg
import trio
from psycopg import pq
from psycopg.pq import abc as pq_abc

from inversion.errors import StoreUnavailable
from inversion.state import sql
from inversion.state.dialing import ConnectionLost, Settings, UnfitServer, attempts, dial
from inversion.watch import Interrupted, Readiness, Watch

#: The oldest server the statements were tested on.
_OLDEST_SERVER: Final = 150_000
_BINARY: Final = int(pq.Format.BINARY)
#: A statement takes at most this many parameters; the formats are the same for all.
_BINARY_EACH: Final = tuple([_BINARY] * count for count in range(81))
#: SQLSTATEs after which the statement may have been applied (storage.md, Unknown outcomes).
_UNKNOWN: Final = ("08", "57P", "40003")


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
        self.farewell = ""  #: why it ended, when not by `close`
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
        pgconn.notice_handler = self._on_notice

    @classmethod
    async def open(
        cls, conninfo: str, settings: Settings | None = None, *, explain: bool = False
    ) -> Connection:
        """Connect to the first host that answers and is fit. Raises ConnectionLost or UnfitServer.

        With `explain` the SQLSTATE of a refusal is found out.
        """
        settings = settings or Settings()
        failures: list[str] = []
        sqlstate = ""
        for attempt in await attempts(conninfo, failures):
            try:
                pgconn, pooler = await dial(attempt, settings, explain=explain)
            except ConnectionLost as failure:
                failures.append(str(failure))
                sqlstate = failure.sqlstate or sqlstate
                continue
            connection = cls(pgconn, settings, pooler=pooler)
            try:
                if (problem := await connection._verify()) is None:
                    return connection
                failures.append(problem)
            except (ConnectionLost, StatementFailed) as failure:
                failures.append(str(failure))
            except BaseException:
                connection.close()
                raise
            connection.close()
        lost = ConnectionLost("; ".join(dict.fromkeys(failures)) or "no host to connect to", sent=False)
        lost.sqlstate = sqlstate
        raise lost

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
                if self.farewell or self._poll.poll(0):
                    self.close()
            except psycopg.Error as error:
                self.farewell = self.farewell or _one_line(error)
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
                self.farewell = f"no reply within {self._settings.reply_timeout_s:g} s"
            elif isinstance(error, psycopg.Error):
                self.farewell = self.farewell or _one_line(error)
            else:
                self.farewell = str(error)
                raise
            raise ConnectionLost(self.farewell, sent=sent) from None

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
            return ConnectionLost(detail.strip(), sent=sent, sqlstate=sqlstate)
        return StatementFailed(sqlstate, detail)

    def _on_notice(self, notice: pq_abc.PGresult) -> None:
        severity = notice.error_field(pq.DiagnosticField.SEVERITY_NONLOCALIZED)
        sqlstate = notice.error_field(pq.DiagnosticField.SQLSTATE) or b""
        if severity == b"WARNING":
            self._warned = True
        if severity in (b"FATAL", b"PANIC") or sqlstate.startswith(b"57P"):  # another's crash: a WARNING
            self.farewell = str(self._failure(notice, sent=False))

    async def _verify(self) -> str | None:
        """Look at the server's settings; why it cannot be written to just now. Raises UnfitServer."""
        (row,) = (await self.execute(sql.SETTINGS)).texts()
        fsync, encoding, number, version, in_recovery, read_only, synchronous_commit, lock_timeout = row
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
        if in_recovery == "true":
            return "the server is in recovery (a standby)"
        return "the server is read-only" if read_only == "on" else None


def _decoded(value: bytes | None) -> str | None:
    return None if value is None else value.decode()


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
