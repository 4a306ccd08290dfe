"""What a call leaves behind is freed by count: the collector looks rarely, and a state may be a megabyte."""

import gc
from pathlib import Path

import pytest
import trio

from delivery.outside import answer, outside, says
from fix_node import PYTHON
from inversion.errors import InversionError
from inversion.messages import Request, Turn
from inversion.protocol.outgoing import Exchange, Failed, Reply

OBEDIENT = Path(__file__).with_name("functions") / "obedient.py"
SABOTAGE = Path(__file__).with_name("functions") / "sabotage.py"

#: A call of it -> the status that its caller gets.
CALLS = {
    "counter/k/add": 200,
    "sabotage/k/well": 200,
    "sabotage/k/error": 500,
    "sabotage/k/exit": 502,
    "sabotage/k/never": 502,
    "sabotage/k/wrong_id": 502,
    "sabotage/k/no_json": 502,
    "sabotage/k/effect": 502,
    "sabotage/k/huge": 502,
    "sabotage/k/die_once": 200,
    "echo": 200,
    "exit/k": 502,
    "missing/k": 404,
    "counter/k/missing": 404,
    "counter/%/add": 400,
}


@pytest.fixture
def toml(counter_toml):
    return f"""{counter_toml}
        [functions.sabotage]
        command = ["{PYTHON}", "{SABOTAGE}", "--hello"]
        timeout = "0.3s"

        [functions.exit]
        command = ["sh", "-c", "exit 3"]
        mode = "exec"
        """


def alive():
    return sum(isinstance(thing, (Request, Turn, InversionError)) for thing in gc.get_objects())


#: Each gatherer and each process may hold its last one until the next comes.
HELD = 6


@pytest.mark.parametrize("path", CALLS)
async def test_a_call_leaves_nothing_for_the_collector(path, start_node, toml):
    message = {"code": "x", "message": "y"} if path.endswith("error") else 1
    async with start_node(toml) as node:

        async def call():
            assert (await node.call(path, message)).status == CALLS[path]
            if path.startswith("sabotage"):  # a function that only dies is not called any more
                assert (await node.call("sabotage/other/well", 1)).status == 200

        await call()
        gc.collect()
        kept = alive()
        gc.disable()
        try:
            for _ in range(8):
                await call()
            with trio.move_on_after(2):
                while alive() > kept + HELD:  # noqa: ASYNC110 (the last connection is about to end)
                    await trio.sleep(0.01)
            assert alive() <= kept + HELD
        finally:
            gc.enable()


async def test_a_message_leaves_nothing_for_the_collector(start_node, toml):
    toml += f"""
        [functions.a]
        command = ["{PYTHON}", "{OBEDIENT}"]
        """
    async with start_node(toml) as node:
        told = 0

        async def tell():
            nonlocal told
            told += 1
            send = {"send": {"key": "other", "message": {"add": 1}}}
            assert (await node.call("a/one/call", {"do": [send]})).status == 200
            with trio.fail_after(10):
                while (await node.call("a/other/call", {})).body != b"%d" % told:  # noqa: ASYNC110
                    await trio.sleep(0.01)

        await tell()
        gc.collect()
        kept = alive()
        gc.disable()
        try:
            for _ in range(8):
                await tell()
            assert alive() <= kept + HELD
        finally:
            gc.enable()


@pytest.mark.parametrize("what", ["answered", "retry", "torn", "refused", "unreachable", "too_large"])
async def test_an_outgoing_request_leaves_nothing_for_the_collector(what, start_node):
    raw = {
        "answered": answer(200, b"a" * 1_000),
        "retry": answer(503),
        "torn": b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\na",
        "too_large": answer(200, b"a" * 5_000),
    }.get(what, b"")
    toml = f"""
        [functions.a]
        command = ["{PYTHON}", "{OBEDIENT}"]
        [http]
        allow = ["127.0.0.1"]
        retry = {{ attempts = 2, pause = "1ms", longest_pause = "1ms" }}
        [limits]
        body = "4KiB"
        """

    def left():
        kinds = (Request, Turn, InversionError, Failed, Reply, Exchange, trio.SocketStream)
        return sum(isinstance(thing, kinds) for thing in gc.get_objects())

    async with outside(says(raw)) as server, start_node(toml) as node:
        url = {"refused": "http://127.0.0.2/", "unreachable": "http://127.0.0.1:1/"}.get(
            what, f"http://127.0.0.1:{server.port}/"
        )
        told = 0

        async def tell():
            nonlocal told
            told += 1
            effect = {"http": {"url": url, "reply_to": "replied"}}
            assert (await node.call("a/one/call", {"do": [effect]})).status == 200
            with trio.fail_after(20):
                while (await node.state("a/one")).body.count(b"[{") < told:  # noqa: ASYNC110
                    await trio.sleep(0.01)

        await tell()
        gc.collect()
        kept = left()
        gc.disable()
        try:
            for _ in range(12):
                await tell()
            assert left() <= kept + HELD
        finally:
            gc.enable()
