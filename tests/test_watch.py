import socket
import struct

import pytest
import trio
import trio.testing

from inversion.gate import Walk
from inversion.watch import Interrupted, Readiness, Watch


@pytest.fixture
def watch():
    made = Watch()
    yield made
    made.close()


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    ours.setblocking(False)
    with ours, theirs:
        yield ours, theirs


def tcp_pair():
    with socket.create_server(("127.0.0.1", 0)) as listening:
        theirs = socket.create_connection(listening.getsockname())
        ours, _ = listening.accept()
    ours.setblocking(False)
    return ours, theirs


def walked(coroutine):
    ends = []
    Walk(coroutine, ends.append).start()
    return ends


async def rounds(watch, count=20):
    """How many of these rounds found anything ready."""
    found = 0
    for _ in range(count):
        found += watch._serve_round() > 0
    return found


async def test_a_walk_waits_for_a_file_until_it_is_readable(watch, pair):
    ours, theirs = pair
    ready = Readiness(watch, ours.fileno())
    read = []

    async def reading():
        await ready.readable()
        read.append(ours.recv(9))

    ends = walked(reading())
    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch.run)
            await trio.testing.wait_all_tasks_blocked()
            assert ends == []
            theirs.send(b"hello")
            while not ends:
                await trio.lowlevel.checkpoint()
            nursery.cancel_scope.cancel()
    assert read == [b"hello"]
    ready.close()


async def test_an_interruption_is_raised_where_the_walk_waits(watch, pair):
    ready = Readiness(watch, pair[0].fileno())

    async def reading():
        await ready.readable()

    ends = walked(reading())
    ready.interrupt()
    ready.interrupt()
    assert [type(end) for end in ends] == [Interrupted]
    ready.close()


@pytest.mark.parametrize("how", ["unix close", "tcp reset", "more bytes"])
async def test_a_file_that_nobody_waits_for_is_found_ready_once_and_not_again(watch, how):
    ours, theirs = tcp_pair() if how == "tcp reset" else socket.socketpair()
    with ours:
        ready = Readiness(watch, ours.fileno())
        if how == "tcp reset":
            theirs.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        if how == "more bytes":
            theirs.send(b"x")
        else:
            theirs.close()
        assert await rounds(watch) == 1
        # It is waited for again: what happened meanwhile is told.
        woken = []

        async def reading():
            await ready.readable()
            woken.append(True)

        walked(reading())
        assert await rounds(watch) >= 1
        assert woken == [True]
        ready.close()
        theirs.close()


def test_a_closed_readiness_never_touches_a_number_that_was_given_out_again(watch, pair):
    ready = Readiness(watch, pair[0].fileno())
    ready.close()
    calls = []
    watch.add(pair[0].fileno(), lambda: calls.append(1))
    ready.close()
    pair[1].send(b"x")
    watch._serve_round()
    assert calls == [1]
