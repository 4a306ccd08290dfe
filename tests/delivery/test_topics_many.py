"""One publication to 20,000 subscribers: everybody else goes on, and each subscriber gets it once."""

from __future__ import annotations

from typing import Any

import pytest
import trio
from test_messages import send, sql, until

from fix_node import StartNode

SUBSCRIBERS = 20_000
PATIENCE_S = 300.0
WAITING = "SELECT count(*) FROM inversion.message WHERE function = 'b'"


@pytest.mark.slow
@pytest.mark.timeout(600)
async def test_others_go_on_while_many_subscribers_get_what_was_published(
    start_node: StartNode, obedient_toml: str, database_url: str
) -> None:
    sql(
        database_url,
        "INSERT INTO inversion.subscription"
        f" SELECT 'news', 'b', 's' || n, 'call' FROM generate_series(1, {SUBSCRIBERS}) AS n",
    )
    async with start_node(obedient_toml) as node:
        both = [{"publish": {"topic": "news", "message": {"add": n, "as": n}}} for n in (1, 2)]
        assert (await node.call("a/x", {"do": both})).status == 200
        await until_count(database_url, WAITING, 2_000)
        assert (await node.call("a/x", {"do": [send("z", {"add": 1}, function="a")]})).status == 200
        await until(node, "a/z", count=1)
        assert count(database_url, WAITING) > 0, "another function's message came last"
        heard = 'SELECT count(*) FROM inversion.entity WHERE state = \'{"count": 3, "seen": [1, 2]}\''
        await until_count(database_url, heard, SUBSCRIBERS)
        assert count(database_url, "SELECT count(*) FROM inversion.message") == 0
        assert (
            count(database_url, "SELECT count(*) FROM inversion.entity WHERE function = 'b'") == SUBSCRIBERS
        )


def count(url: str, text: str) -> Any:
    ((found,),) = sql(url, text)
    return found


async def until_count(url: str, text: str, wanted: int) -> None:
    with trio.fail_after(PATIENCE_S):
        while await trio.to_thread.run_sync(count, url, text) < wanted:  # noqa: ASYNC110 (a database)
            await trio.sleep(0.05)
