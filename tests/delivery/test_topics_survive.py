"""Topics and several nodes: order whoever brings a publication on, and a drain in between."""

from __future__ import annotations

import signal
import uuid
from collections.abc import Callable
from contextlib import AbstractContextManager, ExitStack
from pathlib import Path

import pytest
import trio
from test_messages_survive import PATIENCE_S, seen, sql

from fix_command import RunningCommand, StartCommand, for_serve
from inversion.state import publications

PUBLICATIONS = 60
KEYS = ("0", "1", "2")

Serve = Callable[..., AbstractContextManager[RunningCommand]]


@pytest.fixture
def serve(short_folder: Path, start_command: StartCommand, obedient_toml: str) -> Serve:
    """`serve(url)`: a node of its own process and folder."""

    def start(url: str) -> AbstractContextManager[RunningCommand]:
        folder = short_folder / uuid.uuid4().hex[:8]
        folder.mkdir()
        (folder / "inversion.toml").write_text(for_serve(obedient_toml))
        return start_command("serve", "--config", folder, "--database-url", url)

    return start


def publishes(first: int, count: int) -> dict[str, object]:
    """What makes an obedient function publish so many numbered messages."""
    return {
        "do": [
            {"publish": {"topic": "news", "message": {"add": 1, "as": n}}}
            for n in range(first, first + count)
        ]
    }


async def test_two_nodes_bring_one_publishers_news_to_each_subscriber_in_order(
    serve: Serve, database_url: str
) -> None:
    """It calls both by turns: either may have claimed any of its publications."""
    with ExitStack() as stack:
        nodes = [stack.enter_context(serve(database_url)) for _ in range(2)]
        for n, key in enumerate(KEYS):
            answer = await nodes[n % 2].call(
                f"b/{key}", {"do": [{"subscribe": {"topic": "news", "handler": "call"}}], "keep": True}
            )
            assert answer.status == 200, answer.body
        for first in range(0, PUBLICATIONS, 2):
            answer = await nodes[first // 2 % 2].call("a/x", publishes(first, 2))
            assert answer.status == 200, answer.body
        with trio.move_on_after(PATIENCE_S):
            while any(len(seen(database_url, key)) < PUBLICATIONS for key in KEYS):  # noqa: ASYNC110
                await trio.sleep(0.1)
        for key in KEYS:
            assert seen(database_url, key) == list(range(PUBLICATIONS))
    assert sql(database_url, "SELECT count(*) FROM inversion.message") == [(0,)]


async def test_a_node_that_drains_amid_a_fan_out_leaves_the_rest_to_others_at_once(
    serve: Serve, database_url: str
) -> None:
    """It stays leased to nobody. Their function is not there: its messages only have to be made."""
    subscribers = 30 * publications.MOST
    sql(
        database_url,
        "INSERT INTO inversion.subscription SELECT 'news', 'away', n, 'call'"
        f" FROM generate_series(1, {subscribers}) AS n RETURNING 1",
    )
    waiting = (
        "SELECT count(*), count(progress), count(owner) FROM inversion.message WHERE function = '~topic'"
    )
    with serve(database_url) as node:
        assert (await node.call("a/x", publishes(0, 1))).status == 200
        with trio.fail_after(PATIENCE_S):
            while sql(database_url, waiting)[0][:2] != (1, 1):  # noqa: ASYNC110 (another process)
                await trio.sleep(0.005)
        node.process.send_signal(signal.SIGTERM)
        await trio.to_thread.run_sync(node.process.wait, 30)
        assert node.process.returncode == 0
    assert sql(database_url, waiting) == [(1, 1, 0)]
    ((made,),) = sql(database_url, "SELECT count(*) FROM inversion.message WHERE function = 'away'")
    assert 0 < made < subscribers
    with serve(database_url), trio.fail_after(PATIENCE_S):
        while sql(database_url, waiting) != [(0, 0, 0)]:  # noqa: ASYNC110 (another process)
            await trio.sleep(0.05)
    assert sql(database_url, "SELECT count(*) FROM inversion.message") == [(subscribers,)]
