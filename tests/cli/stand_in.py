"""A server that answers as it was told to, on a unix socket or a TCP port: the other end of the door."""

from __future__ import annotations

import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import attrs


@attrs.define
class Script:
    """What to answer, and what was asked."""

    status: int = 200
    headers: dict[str, str] = attrs.field(factory=dict)
    body: bytes = b"null"
    later: list[bytes] = attrs.field(factory=list)  #: bodies of the answers after the first
    asked: list[tuple[str, str, bytes]] = attrs.field(factory=list)
    authorization: str | None = None
    idempotency_key: str | None = None


@contextmanager
def answering(script: Script, path: Path | None = None) -> Iterator[str]:
    """Serve `script` on the socket `path`, or on a TCP port; yields the URL."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
            script.asked.append((self.command, self.path, body))
            script.authorization = self.headers.get("Authorization")
            script.idempotency_key = self.headers.get("Idempotency-Key")
            self.send_response(script.status)
            for name, value in script.headers.items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(script.body)))
            self.end_headers()
            self.wfile.write(script.body)
            if script.later:
                script.body = script.later.pop(0)

        do_GET = do_POST = do_DELETE = answer

        def address_string(self) -> str:
            return "test"

        def log_message(self, format: str, *args: object) -> None:
            return

    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        server: socketserver.BaseServer = socketserver.UnixStreamServer(str(path), Handler)
    else:
        server = socketserver.TCPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield "" if path is not None else f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
