"""How a connection comes about: hosts and names, startup options, one deadline for each host.

`attempts` makes one set of parameters for each address (names are looked up through trio), `dial` tries
one of them. With `explain` a refusal has its SQLSTATE, which libpq shows only in its trace.
Beside `postgres` the only importer of psycopg.
"""

from __future__ import annotations

import ipaddress
import os
import re
import sys
from collections.abc import Mapping, Sequence
from typing import Final

import attrs
import psycopg
import trio
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.pq import abc as pq_abc

#: What poolers say when they take no startup options (PgBouncer, Neon; RDS Proxy).
_REFUSES_OPTIONS: Final = ("startup parameter", "command-line options")
_SQLSTATE: Final = re.compile(rb'\tErrorResponse\t.*? C "([0-9A-Z]{5})"')
#: No password in the URL, and the server asks for one: libpq says so itself.
_NO_PASSWORD: Final = "28P01"
#: The user, its password or the database is wrong: no later try will be better by itself.
_UNWELCOME: Final = ("28", "3D")


class ConnectionLost(Exception):
    """No connection, or it broke. `sent`: a statement had been sent and its outcome is unknown."""

    def __init__(self, detail: str, *, sent: bool, sqlstate: str = "") -> None:
        super().__init__(f"{detail} (SQLSTATE {sqlstate})" if sqlstate else detail)
        self.sent = sent
        self.sqlstate = sqlstate  #: empty: it was not the server who said so

    @property
    def unwelcome(self) -> bool:
        """The server is there and refuses this user or this database."""
        return self.sqlstate.startswith(_UNWELCOME)


class UnfitServer(Exception):
    """This server must not hold state; the message says why and what to change."""


@attrs.frozen(slots=True)
class Settings:
    """Time limits of one connection; the server's are tried as startup options.

    A commit that arrived but for its last bytes holds its row until the server learns that nobody is left
    to send them: no time limit of a statement or a transaction runs then. Linux would probe after 2 hours.
    """

    connect_timeout_s: float = 5.0  #: per host
    lock_timeout_s: float = 0.3  #: a gathered statement must not wait long for one row
    statement_timeout_s: float = 10.0  #: ends in a clear refusal; the next one in an unknown outcome
    reply_timeout_s: float = 15.0  #: no reply after this: the connection is taken for dead
    probe_idle_s: int = 4  #: the server asks a silent client's host after this, ...
    probe_interval_s: int = 2  #: ... again each so often, ...
    probes: int = 2  #: ... and after so many without an answer it ends the connection

    @property
    def values(self) -> Mapping[str, str]:
        """What each session is to have.

        The planner's are no tuning: a plan is made once, for arrays of unknown length over a table that
        may have been empty a minute ago. Reading the whole table looks cheap then, and the plan stays.
        """
        return {
            "lock_timeout": f"{int(self.lock_timeout_s * 1_000)}",
            "statement_timeout": f"{int(self.statement_timeout_s * 1_000)}",
            "idle_in_transaction_session_timeout": f"{int(self.statement_timeout_s * 1_000)}",
            "tcp_keepalives_idle": f"{self.probe_idle_s}",
            "tcp_keepalives_interval": f"{self.probe_interval_s}",
            "tcp_keepalives_count": f"{self.probes}",
            "enable_seqscan": "off",
            "enable_hashjoin": "off",
            "enable_mergejoin": "off",
            "jit": "off",
            "plan_cache_mode": "force_generic_plan",
        }

    def options(self) -> str:
        """The same as startup options."""
        return " ".join(f"-c {name}={value}" for name, value in self.values.items())


async def attempts(conninfo: str, failures: list[str]) -> Sequence[Mapping[str, str]]:
    """One set of parameters for each address, names looked up; what failed is noted in `failures`."""
    try:
        given = {name: str(value) for name, value in conninfo_to_dict(conninfo).items() if value is not None}
    except psycopg.Error as error:
        why = " ".join(str(error).split())
        raise UnfitServer(
            f"the database URL cannot be read: {why}. Write postgresql://USER@HOST/DATABASE"
        ) from None
    if "hostaddr" in given or "service" in given or "PGSERVICE" in os.environ:
        return [given]
    hosts = given.get("host", os.environ.get("PGHOST", "")).split(",")
    ports = given.get("port", os.environ.get("PGPORT", "")).split(",")
    found_hosts: list[Mapping[str, str]] = []
    for host, port in zip(hosts, ports if len(ports) == len(hosts) else ports[:1] * len(hosts), strict=True):
        one = {**given, "host": host, "port": port}
        if not host or host[0] in "/@" or _is_address(host):
            found_hosts.append(one)
            continue
        try:
            found = await trio.socket.getaddrinfo(host, port or "5432", type=trio.socket.SOCK_STREAM)
        except OSError as error:
            failures.append(f"cannot look up {host}: {error.strerror or error}")
            continue
        addresses = dict.fromkeys(str(at[4][0]) for at in found)
        found_hosts += [{**one, "hostaddr": address} for address in addresses]
    return found_hosts


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


async def dial(
    attempt: Mapping[str, str], settings: Settings, *, explain: bool = False
) -> tuple[pq_abc.PGconn, bool]:
    """A connection to one host, and whether it is a pooler's. Raises ConnectionLost."""
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
        pgconn = await _dial(make_conninfo(**{**parameters, "options": options}), settings, explain)
    except ConnectionLost as failure:
        if not any(words in str(failure) for words in _REFUSES_OPTIONS):
            raise
        return await _dial(make_conninfo(**parameters), settings, explain), True
    return pgconn, False


class _Listening:
    """libpq's trace of how a connection is made, in memory: only there a refusal's SQLSTATE is told.

    The words differ with the server's language. Where there is no trace (macOS) there is no SQLSTATE.
    Not for every try of a long outage: libpq's side of it leaves half a kilobyte behind.
    """

    def __init__(self, pgconn: pq_abc.PGconn, explain: bool) -> None:
        self._pgconn = pgconn
        self._file: int | None = None
        if explain and sys.platform == "linux" and pgconn.status != pq.ConnStatus.BAD:
            self._file = os.memfd_create("dialing", os.MFD_CLOEXEC)
            pgconn.trace(self._file)

    def end(self) -> str:
        """The SQLSTATE of a refusal, or nothing. Later calls do nothing."""
        file, self._file = self._file, None
        if file is None:
            return ""
        self._pgconn.untrace()
        try:
            found = _SQLSTATE.findall(os.pread(file, os.fstat(file).st_size, 0))
        finally:
            os.close(file)
        if found:
            return str(found[-1].decode())
        return _NO_PASSWORD if self._pgconn.needs_password else ""


async def _dial(conninfo: str, settings: Settings, explain: bool) -> pq_abc.PGconn:
    with trio.move_on_after(settings.connect_timeout_s):
        pgconn = pq.PGconn.connect_start(conninfo.encode())
        listening = _Listening(pgconn, explain)
        try:
            while pgconn.status != pq.ConnStatus.BAD:
                match pgconn.connect_poll():
                    case pq.PollingStatus.OK:
                        pgconn.nonblocking = 1
                        listening.end()
                        return pgconn
                    case pq.PollingStatus.READING:
                        await trio.lowlevel.wait_readable(pgconn.socket)
                    case pq.PollingStatus.WRITING:
                        await trio.lowlevel.wait_writable(pgconn.socket)
                    case _:
                        break
            detail = " ".join(pgconn.get_error_message("utf-8").split())
            raise ConnectionLost(detail, sent=False, sqlstate=listening.end())
        except BaseException:
            listening.end()
            pgconn.finish()
            raise
    raise ConnectionLost(f"no connection within {settings.connect_timeout_s:g} s", sent=False)
