"""The admin door from outside: how a command talks to a running server.

On one host through the 0600 unix socket `.inversion/admin.sock` beside inversion.toml, looked for in this
folder and above; else by `--admin-url` and a token. http.client is enough: one request, one answer.
"""

from __future__ import annotations

import http.client
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Final
from urllib.parse import quote, urlsplit

import attrs
import click

SOCKET_NAME: Final = Path(".inversion") / "admin.sock"
_DEFAULT_URL: Final = "http://127.0.0.1:9080"
#: A socket's address has no more room (sun_path, with its NUL).
_MOST_PATH_BYTES: Final = 107
_CONNECT_TIMEOUT_S: Final = 5.0


class NoServer(Exception):
    """Nobody answers at the admin door; the message says where it was looked for."""


@attrs.frozen(slots=True)
class Reply:
    """What the server answered."""

    status: int
    headers: Mapping[str, str]  #: names in lower case
    body: bytes


@attrs.frozen(slots=True)
class Door:
    """Where the server is. `socket_path` or `url`."""

    url: str
    socket_path: Path | None = None
    token: str | None = attrs.field(default=None, repr=False)

    @classmethod
    def find(cls, admin_url: str | None, token: str | None, folder: Path) -> Door:
        """The door that the command line names, or the socket in `folder` or above, or the default port."""
        if admin_url is not None:
            return cls(admin_url.rstrip("/"), token=token)
        for place in (folder, *folder.parents):
            if (path := place / SOCKET_NAME).is_socket():
                return cls("http://localhost", socket_path=path)
        return cls(_DEFAULT_URL, token=token)

    @property
    def place(self) -> str:
        """Where it is, for people."""
        return self.url if self.socket_path is None else str(self.socket_path)

    def request(
        self,
        method: str,
        path: str,
        body: bytes | None = None,
        *,
        headers: Mapping[str, str] | None = None,
        timeout_s: float | None = None,
    ) -> Reply:
        """Ask once. `timeout_s` None: as long as the server takes. Raises NoServer."""
        try:
            return self._ask(method, path, body, headers or {}, timeout_s)
        except ValueError as error:  # a port out of range, a token or a path that no header or line can hold
            raise click.UsageError(f"that cannot be asked of {self.place}: {error}") from None

    def _ask(
        self, method: str, path: str, body: bytes | None, more: Mapping[str, str], timeout_s: float | None
    ) -> Reply:
        connection = self._connection(timeout_s)
        headers = dict(more)
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            connection.request(method, path, body, headers)
            answer = connection.getresponse()
            fields = {name.lower(): value for name, value in answer.getheaders()}
            return Reply(answer.status, fields, answer.read())
        except (OSError, http.client.HTTPException) as error:
            raise NoServer(self._absent(error)) from None
        finally:
            connection.close()

    def _connection(self, timeout_s: float | None) -> http.client.HTTPConnection:
        if self.socket_path is not None:
            return _SocketConnection(self.socket_path, timeout_s)
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or parts.hostname is None:
            raise NoServer(f"{self.url} is no URL such as {_DEFAULT_URL}")
        kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
        return kind(parts.hostname, parts.port, timeout=timeout_s)

    def _absent(self, error: Exception) -> str:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else repr(error)
        if self.url == _DEFAULT_URL:
            return (
                f"no server: there is no {SOCKET_NAME} in this folder or above it, and nothing answers at "
                f"{self.url} ({reason}). Start one with `inversion dev`, or name it with --admin-url"
            )
        return f"no server answers at {self.place}: {reason}"


class _SocketConnection(http.client.HTTPConnection):
    """http.client over a unix socket."""

    def __init__(self, path: Path, timeout_s: float | None) -> None:
        super().__init__("localhost")
        self._path = path
        self._timeout_s = timeout_s

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(_CONNECT_TIMEOUT_S)
        if len(os.fsencode(self._path)) <= _MOST_PATH_BYTES:
            self.sock.connect(str(self._path))
        else:
            folder = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY)
            try:
                self.sock.connect(f"/proc/self/fd/{folder}/{self._path.name}")
            finally:
                os.close(folder)
        self.sock.settimeout(self._timeout_s)


def target(*parts: str) -> str:
    """A path of these segments, each percent-encoded as a whole."""
    try:
        return "/" + "/".join(quote(part, safe="") for part in parts)
    except UnicodeEncodeError:
        raise click.UsageError("a function, key or handler is not valid UTF-8") from None
