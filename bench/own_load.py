"""Our own load generator, for machines without wrk: `python -m bench.own_load JSON`.

One process a thread, each an epoll loop over raw keep-alive sockets with one request in flight each. Only
answers with a Content-Length are understood. Prints the line `RESULT {...}` that load.py reads.
"""

from __future__ import annotations

import itertools
import json
import multiprocessing
import random
import selectors
import socket
import sys
from collections import Counter
from collections.abc import Iterator
from time import perf_counter, time_ns

import attrs

from bench.load import Load
from bench.report import percentile

_READ_BYTES = 65536
_UNIQUE = b"%UNIQUE%"  #: where a request's own Idempotency-Key goes


@attrs.define
class _Connection:
    socket: socket.socket
    sent_s: float = 0.0
    got: bytes = b""


@attrs.frozen
class _Counted:
    taken_ms: list[float]
    wrong: Counter[str]
    seconds: float


def main() -> None:
    asked = json.loads(sys.argv[1])
    seconds, seed, threads = asked.pop("seconds"), asked.pop("seed"), asked.pop("threads")
    load = Load(**asked)
    shares = [
        load.connections // threads + (number < load.connections % threads) for number in range(threads)
    ]
    with multiprocessing.get_context("spawn").Pool(threads) as pool:
        counted = pool.starmap(
            _drive, [(load, share, seconds, seed * 1000 + number) for number, share in enumerate(shares)]
        )
    taken_ms = sorted(taken for one in counted for taken in one.taken_ms)
    wrong: Counter[str] = sum((one.wrong for one in counted), Counter())
    result = {
        "requests": len(taken_ms),
        "seconds": max(one.seconds for one in counted),
        "p50_ms": percentile(taken_ms, 0.5),
        "p99_ms": percentile(taken_ms, 0.99),
        "status": wrong["status"],
        "socket": wrong["socket"],
        "timeout": 0,
    }
    print("RESULT " + json.dumps(result))


def _drive(load: Load, connections: int, seconds: float, seed: int) -> _Counted:
    requests = [_request(load, number) for number in range(1, load.keys + 1)]
    chosen = random.Random(seed)
    unique = (b"%x-%x-%x" % (time_ns(), seed, number) for number in itertools.count())
    taken_ms: list[float] = []
    wrong: Counter[str] = Counter()
    selector = selectors.DefaultSelector()
    for _ in range(connections):
        connection = _Connection(socket.create_connection(("127.0.0.1", load.port)))
        connection.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        selector.register(connection.socket, selectors.EVENT_READ, connection)
    begun_s = perf_counter()
    for key in selector.get_map().values():
        _send(key.data, chosen.choice(requests), unique)
    while (now_s := perf_counter()) - begun_s < seconds and selector.get_map():
        for key, _ in selector.select(timeout=0.1):
            connection = key.data
            got = _receive(connection)
            if not got:
                wrong["socket"] += 1
                selector.unregister(connection.socket)
                continue
            status = _status_of_whole_answer(connection.got)
            if status is None:
                continue
            taken_ms.append((perf_counter() - connection.sent_s) * 1000)
            wrong["status"] += status // 100 != 2
            _send(connection, chosen.choice(requests), unique)
    return _Counted(taken_ms, wrong, now_s - begun_s)


def _request(load: Load, number: int) -> bytes:
    keyed = f"Idempotency-Key: {_UNIQUE.decode()}\r\n" if load.keyed else ""
    return (
        f"POST {load.key_path(number)} HTTP/1.1\r\nHost: 127.0.0.1:{load.port}\r\n{keyed}"
        f"Content-Type: application/json\r\nContent-Length: {len(load.body.encode())}\r\n\r\n{load.body}"
    ).encode()


def _send(connection: _Connection, request: bytes, unique: Iterator[bytes]) -> None:
    if _UNIQUE in request:
        request = request.replace(_UNIQUE, next(unique))
    connection.got = b""
    connection.sent_s = perf_counter()
    connection.socket.sendall(request)


def _receive(connection: _Connection) -> bytes:
    """What came; empty: the connection is gone."""
    try:
        got = connection.socket.recv(_READ_BYTES)
    except ConnectionError:
        return b""
    connection.got += got
    return got


def _status_of_whole_answer(got: bytes) -> int | None:
    """The status once head and body are in, else None."""
    head, separator, body = got.partition(b"\r\n\r\n")
    if not separator:
        return None
    lowered = head.lower()
    at = lowered.find(b"\r\ncontent-length:")
    length = int(lowered[at + 17 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
    return int(head[9:12]) if len(body) >= length else None


if __name__ == "__main__":
    main()
