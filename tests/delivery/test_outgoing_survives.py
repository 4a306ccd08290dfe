"""Outgoing requests and nodes of their own processes: killed amid one, drained, several at once."""

from __future__ import annotations

import signal
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

import pytest
import trio
from outside import Heard, Outside, answer, outside
from test_messages import until_sql

from fix_command import RunningCommand, StartCommand, for_serve

#: A lease of 10 s has to run out, on a busy machine.
PATIENCE_S = 60.0

Serve = Callable[[str], AbstractContextManager[RunningCommand]]


@pytest.fixture
def serve(short_folder: Path, start_command: StartCommand, obedient_toml: str) -> Serve:
    """`serve(url)`: a node of its own process and folder, that may reach this host."""

    def start(url: str) -> AbstractContextManager[RunningCommand]:
        folder = short_folder / uuid.uuid4().hex[:8]
        folder.mkdir()
        http = '[http]\nallow = ["127.0.0.1"]\nread_state = true\n'
        (folder / "inversion.toml").write_text(f"{for_serve(obedient_toml)}\n{http}")
        return start_command("serve", "--config", folder, "--database-url", url)

    return start


async def until_heard(server: Outside, count: int) -> list[Heard]:
    with trio.fail_after(PATIENCE_S):
        while len(server.heard) < count:  # noqa: ASYNC110 (another process)
            await trio.sleep(0.02)
    return server.heard


def effect(server: Outside) -> dict[str, object]:
    url = f"http://127.0.0.1:{server.port}/hook"
    return {"do": [{"http": {"url": url, "body": {"n": 1}, "reply_to": "replied"}}]}


async def test_a_request_that_a_killed_node_was_making_is_made_again_with_the_same_key(
    serve: Serve, database_url: str
) -> None:
    killed = False

    async def behave(_: Heard, stream: trio.abc.Stream) -> None:
        if not killed:
            await trio.sleep_forever()  # it was taken, and nobody knows
        await stream.send_all(answer())

    async with outside(behave) as server:
        with serve(database_url) as node:
            assert (await node.call("a/x", effect(server))).status == 200
            await until_heard(server, 1)
            node.process.send_signal(signal.SIGKILL)
            node.process.wait(10)
        killed = True
        with serve(database_url):
            first, second = await until_heard(server, 2)
            assert (first.key, first.body) == (second.key, second.body)
            await until_sql(
                database_url,
                "SELECT state::json->>'answered' FROM inversion.entity WHERE function = 'a'",
                ("1",),
            )
            await until_sql(database_url, "SELECT count(*) FROM inversion.message", (0,))
