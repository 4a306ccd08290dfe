from __future__ import annotations

import resource
import socket
import stat
from pathlib import Path

import pytest
import trio
import trio.testing
from front_door import CallsDouble, Client, EndOfAnswers, Seen, get, open_door, post

from inversion.gate import Bridge
from inversion.http.routes import Ingress
from inversion.http.server import CannotListen, Server, open_tcp, open_unix
from inversion.http.service import Deadlines
from inversion.messages import Response
from inversion.watch import Watch

CALL = b"/v1/call/cart/k"


async def test_a_taken_port_is_named_with_the_remedy() -> None:
    listener = open_tcp("127.0.0.1", 0)
    with pytest.raises(CannotListen) as caught:
        open_tcp("127.0.0.1", listener.port, "--admin-port")
    listener.close()
    assert f"port {listener_port(caught)} on 127.0.0.1 is taken" in str(caught.value)
    assert "--admin-port" in str(caught.value)


def listener_port(caught: pytest.ExceptionInfo[CannotListen]) -> str:
    return str(caught.value).split("port ")[1].split(" ")[0]


def test_an_unknown_host_is_named() -> None:
    with pytest.raises(CannotListen, match=r"cannot listen on no\.such\.host\.invalid"):
        open_tcp("no.such.host.invalid", 0)


def test_a_port_just_left_can_be_taken_again() -> None:
    listener = open_tcp("127.0.0.1", 0)
    port = listener.port
    client = socket.create_connection(("127.0.0.1", port))
    served, _ = listener.sockets[0].accept()
    served.close()  # the server's side closes first: it goes to TIME_WAIT
    client.close()
    listener.close()
    open_tcp("127.0.0.1", port).close()


def test_the_kernel_gives_up_a_client_that_takes_nothing_also_after_we_closed() -> None:
    listener = open_tcp("127.0.0.1", 0)
    with socket.create_connection(("127.0.0.1", listener.port)):
        served, _ = listener.sockets[0].accept()
        with served:
            given_up_after_ms = served.getsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT)
    listener.close()
    assert given_up_after_ms == Deadlines().send_s * 1_000


async def test_a_unix_socket_is_for_this_user_only_and_goes_with_the_server(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    async with open_door(listener=open_unix(path)) as door:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        client = Client(await trio.open_unix_socket(path))
        door.clients.append(client)
        await client.send(post(CALL, b"1"))
        assert (await client.answer()).body == b"1"
    assert not path.exists()


def test_a_stale_socket_file_is_replaced_and_a_live_one_is_not(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    live = open_unix(path)
    with pytest.raises(CannotListen, match="another inversion listens"):
        open_unix(path)
    live.close()
    path.write_text("precious")
    with pytest.raises(CannotListen, match="not a socket"):
        open_unix(path)
    assert path.read_text() == "precious"


def test_a_closed_listener_leaves_the_file_of_its_successor(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    first = open_unix(path)
    path.unlink()
    second = open_unix(path)
    first.close()
    assert path.exists()
    second.close()
    assert not path.exists()


def test_a_socket_path_that_is_too_long_is_refused_in_words(tmp_path: Path) -> None:
    with pytest.raises(CannotListen, match="longer than 107 bytes"):
        open_unix(tmp_path / ("x" * 100))


@pytest.mark.parametrize(("others", "served"), [(1, True), (2, True), (3, False)])
async def test_connections_over_the_limit_are_turned_away(others: int, served: bool) -> None:
    async with open_door(connections=3) as door:
        for _ in range(others):
            client = await door.connect()
            await client.send(post(CALL, b"1"))
            await client.answer()
        last = await door.connect()
        if served:
            await last.send(post(CALL, b"1"))
            assert (await last.answer()).status == 200
            return
        answer = await last.answer()
        assert answer.fields["retry-after"] == "1"
        assert b'"code":"queue_full"' in answer.body
        assert await last.at_end()
        assert door.server.counters.connections_refused == 1
        await client.send(post(CALL, b"2"))
        assert (await client.answer()).body == b"2"


async def test_connections_are_counted_until_they_end() -> None:
    async with open_door() as door:
        client = await door.connect()
        await client.send(post(CALL, b"1"))
        await client.answer()
        assert door.server.counters.connections_open == 1
        await client.send_eof()
        assert await client.at_end()
        await trio.testing.wait_all_tasks_blocked()
        assert door.server.counters.connections_open == 0
        assert door.server.counters.requests_by_class == [0, 0, 1, 0, 0, 0]


async def test_a_close_answers_what_was_read_and_lets_the_idle_go() -> None:
    begun, gate, ended = trio.Event(), trio.Event(), trio.Event()

    async def wait(_seen: Seen) -> Response:
        begun.set()
        await gate.wait()
        return Response(body=b"1")

    calls = CallsDouble(wait)
    watch = Watch()
    server = Server(Ingress(calls, read_state=True), watch=watch, body_bytes=1_000, connections=10)
    listener = open_tcp("127.0.0.1", 0)

    async def serve(task_status: trio.TaskStatus[None]) -> None:
        await server.serve(listener, task_status)
        ended.set()

    with trio.fail_after(10):
        async with trio.open_nursery() as nursery:
            calls.bridge = Bridge(nursery)
            nursery.start_soon(watch.run)
            await nursery.start(serve)
            busy = Client(await trio.open_tcp_stream("127.0.0.1", listener.port))
            idle = Client(await trio.open_tcp_stream("127.0.0.1", listener.port))
            partial = Client(await trio.open_tcp_stream("127.0.0.1", listener.port))
            await busy.send(post(CALL, b"1"))
            await partial.send(b"POST /v1/call/cart")
            await begun.wait()
            await trio.testing.wait_all_tasks_blocked()
            server.close()
            with pytest.raises(EndOfAnswers):
                await idle.answer()
            await trio.testing.wait_all_tasks_blocked()
            with pytest.raises(OSError, match="all attempts to connect"):
                await trio.open_tcp_stream("127.0.0.1", listener.port)
            assert not ended.is_set()
            gate.set()
            answer = await busy.answer()
            assert (answer.body, answer.fields["connection"]) == (b"1", "close")
            assert await busy.at_end()
            await partial.send(post(CALL, b"2").removeprefix(b"POST /v1/call/cart"))
            assert (await partial.answer()).fields["connection"] == "close"
            for client in (busy, idle, partial):
                await client.aclose()
            await ended.wait()
            nursery.cancel_scope.cancel()
    watch.close()
    assert calls.finished == 2


async def test_a_request_that_arrived_just_before_the_close_is_answered() -> None:
    async with open_door() as door:
        client = await door.connect()
        await client.send(post(CALL, b"1"))
        await client.answer()
        # No await between these two: the bytes lie in the kernel when the close begins.
        client.stream.socket._sock.send(post(CALL, b"2"))
        door.server.close()
        answer = await client.answer()
    assert (answer.body, answer.fields["connection"]) == (b"2", "close")


@pytest.mark.parametrize(
    ("head", "rest"),
    [(b"Content-Length: 2", b"2"), (b"Transfer-Encoding: chunked", b"\r\n0\r\n\r\n")],
)
async def test_a_body_whose_head_came_before_a_drain_is_waited_for(head: bytes, rest: bytes) -> None:
    async with open_door() as door:
        early = await door.connect()
        begin = b"POST %b HTTP/1.1\r\nHost: h\r\n%b\r\n\r\n" % (CALL, head)
        await early.send(begin + (b"1" if head.endswith(b"2") else b"2\r\n12"))
        await trio.testing.wait_all_tasks_blocked()
        door.server.drain()
        door.calls.draining = True
        await early.send(rest)
        answer = await early.answer()
        assert (answer.status, answer.body, answer.fields["connection"]) == (200, b"12", "close")
        for raw in (post(CALL, b"2"), get(b"/v1/state/cart/k")):
            late = await door.connect()  # it is still heard
            await late.send(raw)
            answer = await late.answer()
            assert (answer.status, answer.fields["connection"]) == (503, "close")
            assert b'"draining"' in answer.body


async def test_a_shortage_of_descriptors_is_waited_out() -> None:
    async with open_door() as door:
        client = await door.connect()
        await client.send(post(CALL, b"1"))
        await client.answer()
        waiting = socket.socket()
        waiting.setblocking(False)
        before = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (waiting.fileno() + 1, before[1]))
        try:
            with pytest.raises(BlockingIOError):
                waiting.connect(("127.0.0.1", door.listener.port))
            while not door.server.counters.accept_failures:
                await trio.testing.wait_all_tasks_blocked(0.01)
            await client.send(post(CALL, b"2"))
            assert (await client.answer()).body == b"2"
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)
        late = Client(trio.SocketStream(trio.socket.from_stdlib_socket(waiting)))
        door.clients.append(late)
        await late.send(post(CALL, b"3"))
        assert (await late.answer()).body == b"3"


async def test_slow_clients_do_not_keep_others_from_being_served() -> None:
    deadlines = Deadlines(head_s=0.1)
    async with open_door(deadlines=deadlines) as door:
        slow = [await door.connect() for _ in range(50)]
        for client in slow:
            await client.send(b"POST /")
        assert await door.is_well()
        for client in slow:
            assert (await client.answer()).status == 408
        assert await door.is_well()
        await trio.testing.wait_all_tasks_blocked()
