"""A small keep-alive HTTP client for everything that is not load: readiness, read-back, samples."""

from __future__ import annotations

import http.client
from collections.abc import Mapping
from types import TracebackType

import attrs


@attrs.frozen
class Answered:
    status: int
    headers: Mapping[str, str]  #: names in lower case
    body: bytes


class Client:
    """One connection to the server on this machine, opened on first need."""

    def __init__(self, port: int, timeout_s: float = 10.0) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout_s)

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()

    def get(self, path: str) -> Answered:
        return self._ask("GET", path, None)

    def post(self, path: str, body: str) -> Answered:
        return self._ask("POST", path, body.encode())

    def _ask(self, method: str, path: str, body: bytes | None) -> Answered:
        """Raises OSError or http.client.HTTPException when there is no answer; the next call reconnects."""
        headers = {"Content-Type": "application/json"} if body is not None else {}
        try:
            self._connection.request(method, path, body=body, headers=headers)
            response = self._connection.getresponse()
            read = response.read()
        except BaseException:
            self._connection.close()
            raise
        return Answered(response.status, {name.lower(): value for name, value in response.getheaders()}, read)
