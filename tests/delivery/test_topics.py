"""Topics with a real node: what is published comes once, and in order, to whoever is subscribed."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import orjson
import pytest
import trio
from front_door import get
from test_messages import PATIENCE_S, sql, state_of, until, until_sql

from fix_node import PYTHON, RUNTIMES, LiveNode, StartNode

NOTHING_LEFT = "SELECT count(*) FROM inversion.message"


def publish(message: object, topic: str = "news") -> dict[str, object]:
    return {"publish": {"topic": topic, "message": message}}


def subscribe(topic: str = "news", handler: str = "call") -> dict[str, object]:
    return {"subscribe": {"topic": topic, "handler": handler}}


def unsubscribe(topic: str = "news") -> dict[str, object]:
    return {"unsubscribe": {"topic": topic}}


async def do(node: LiveNode, path: str, *effects: dict[str, object], **more: object) -> None:
    """The entity answers with these effects."""
    answer = await node.call(path, {"do": effects, **more})
    assert answer.status == 200, answer.body


async def test_each_subscriber_gets_what_is_published_once_and_in_order(
    start_node: StartNode, obedient_toml: str, database_url: str
) -> None:
    async with start_node(obedient_toml) as node:
        for path in ("b/1", "b/2", "a/3"):
            await do(node, path, subscribe())
        await do(node, "b/other", subscribe("other"))
        for first in range(0, 40, 10):
            await do(node, "a/x", *(publish({"add": 1, "as": n}) for n in range(first, first + 10)))
        for path in ("b/1", "b/2", "a/3"):
            state = await until(node, path, count=40)
            assert state["seen"] == list(range(40))
        await until_sql(database_url, NOTHING_LEFT, (0,))
        assert "count" not in await state_of(node, "b/other")
        page = (await node.send(get(b"/metrics"), admin=True)).body
        assert b"\ninversion_publications_total 40.0\n" in page
        assert b"\ninversion_messages_published_total 120.0\n" in page


async def test_what_nobody_is_subscribed_to_is_gone(
    start_node: StartNode, obedient_toml: str, database_url: str
) -> None:
    async with start_node(obedient_toml) as node:
        await do(node, "a/x", publish({"add": 1}), publish({"add": 1}, topic="-"))
        await until_sql(database_url, NOTHING_LEFT, (0,))


async def test_subscriptions_begin_and_end_with_the_commit_of_their_turn(
    start_node: StartNode, obedient_toml: str, database_url: str
) -> None:
    """The publication of the same turn included; the last word about a topic counts."""
    async with start_node(obedient_toml) as node:
        await do(node, "b/x", publish({"add": 1}), subscribe())
        await until(node, "b/x", count=1)
        await do(node, "b/x", publish({"add": 10}), unsubscribe())
        await until_sql(database_url, NOTHING_LEFT, (0,))
        await do(node, "b/x", subscribe(), unsubscribe())
        await do(node, "a/x", publish({"add": 100}))
        await until_sql(database_url, NOTHING_LEFT, (0,))
        await do(node, "b/x", unsubscribe(), subscribe())
        await do(node, "a/x", publish({"add": 1_000}))
        await until(node, "b/x", count=1_001)


async def test_an_entity_has_one_handler_for_each_topic_the_one_it_named_last(
    start_node: StartNode, obedient_toml: str, database_url: str
) -> None:
    async with start_node(obedient_toml) as node:
        await do(node, "b/x", subscribe(handler="call"), subscribe("other", "call"))
        await do(node, "b/x", subscribe(handler="replied"))
        await do(node, "a/x", publish({"add": 1}))
        await until(node, "b/x", answered=1, count=1)
        assert sql(database_url, "SELECT * FROM inversion.subscription ORDER BY topic") == [
            ("news", "b", "x", "replied"),
            ("other", "b", "x", "call"),
        ]


async def test_effects_of_a_turn_that_fails_change_no_subscription(
    start_node: StartNode, obedient_toml: str, database_url: str
) -> None:
    async with start_node(obedient_toml) as node:
        answer = await node.call("b/x", {"do": [subscribe(), subscribe("", "call")]})
        assert answer.status == 502
        assert sql(database_url, "SELECT * FROM inversion.subscription") == []


async def test_a_subscriber_that_fails_holds_up_nobody_else(
    start_node: StartNode, obedient_toml: str, database_url: str
) -> None:
    """Its function too serves the others; its message becomes a dead letter, the next one comes."""
    async with start_node(obedient_toml) as node:
        await do(node, "b/poisoned", subscribe(handler="mortal"))
        await do(node, "b/well", subscribe())
        await do(node, "a/x", publish({"die_if": "mortal", "add": 1}))
        await do(node, "a/x", publish({"add": 10}))
        await until(node, "b/well", count=11)
        await until(node, "b/poisoned", count=10)
        await until_sql(
            database_url,
            "SELECT function, key, sender, handler, failures FROM inversion.dead_letter",
            ("b", "poisoned", "a/x", "mortal", 3),
        )


async def test_an_unknown_function_among_the_subscribers_holds_up_nobody(
    start_node: StartNode, obedient_toml: str, database_url: str
) -> None:
    """Its message waits for it, as any does."""
    sql(database_url, "INSERT INTO inversion.subscription VALUES ('news', 'away', '1', 'call')")
    async with start_node(obedient_toml) as node:
        await do(node, "b/x", subscribe())
        await do(node, "a/x", publish({"add": 1}))
        await until(node, "b/x", count=1)
        assert sql(database_url, "SELECT function, key FROM inversion.message") == [("away", "1")]


async def test_a_deleted_entity_stays_subscribed_and_comes_back_with_the_next_message(
    start_node: StartNode, obedient_toml: str
) -> None:
    async with start_node(obedient_toml) as node:
        await do(node, "b/x", subscribe())
        assert (await node.call("b/x", {"delete": True})).status == 200
        assert (await node.state("b/x")).status == 404
        await do(node, "a/x", publish({"add": 1}))
        assert await until(node, "b/x", count=1) == {"count": 1}


async def test_a_chain_through_a_topic_goes_on_as_long_as_one_of_sends(
    start_node: StartNode, obedient_toml: str
) -> None:
    """Each hears itself and publishes again: there is no limit of hops, as there is none between entities."""
    async with start_node(obedient_toml) as node:
        await do(node, "b/x", subscribe())
        again = {"publish": {"topic": "news"}}
        await do(node, "a/x", publish({"rearm": again, "until": 50}))
        await until(node, "b/x", count=50)


PAGE = (RUNTIMES.parent / "docs" / "messages.md").read_text().partition("\n## Topics")[2]
PYTHON_ROOM = PAGE.partition("```python\n")[2].partition("```")[0]
NODE_ROOM = """
const { handler, serve } = require("./shim");
handler("join", (ctx) => ctx.subscribe("room", "hear"));
handler("leave", (ctx) => ctx.unsubscribe("room"));
handler("say", (ctx, said) => ctx.publish("room", { from: ctx.key, said }));
handler("hear", (ctx, message) => { ctx.state = [...(ctx.state ?? []), message]; });
serve();
"""
BASH_ROOM = """
. ./shim.sh
handler join
join() { effect subscribe --topic room --handler hear; }
handler leave
leave() { effect unsubscribe --topic room; }
handler say '{from: .ctx.key, said: .message}'
say() { effect publish --topic room --message "$1"; }
handler hear '(.state // []) + [.message]'
hear() { put "$1"; }
serve
"""


@pytest.mark.toolchain("node", "bash", "jq")
async def test_programs_in_three_languages_hear_each_other(
    start_node: StartNode, tmp_path: Path, database_url: str
) -> None:
    """That in Python is the one of docs/messages.md, word for word."""
    rooms = {
        "python": ([PYTHON, "room.py"], "python/shim.py", PYTHON_ROOM),
        "node": (["node", "room.js"], "node/shim.js", NODE_ROOM),
        "bash": (["bash", "room.sh"], "bash/shim.sh", BASH_ROOM),
    }
    toml = ""
    for name, (command, shim, code) in rooms.items():
        toml += f"[functions.{name}]\ncommand = {command}\n"
        (tmp_path / command[1]).write_text(code)
        shutil.copy(RUNTIMES / shim, tmp_path)
    async with start_node(toml) as node:
        for name in rooms:
            assert (await node.call(f"{name}/{name}/join")).status == 200
        for name in rooms:
            assert (await node.call(f"{name}/{name}/say", 1)).status == 200
        for name in rooms:
            heard = await until_heard(node, f"{name}/{name}", 3)
            assert {each["from"]: each["said"] for each in heard} == dict.fromkeys(rooms, 1)
            assert (await node.call(f"{name}/{name}/leave")).status == 200
        for name in rooms:
            assert (await node.call(f"{name}/{name}/say", "nobody hears it")).status == 200
        await until_sql(database_url, NOTHING_LEFT, (0,))
        await node.call("python/b/join")
        await node.call("bash/a/say", "last")
        assert await until_heard(node, "python/b", 1) == [{"from": "a", "said": "last"}]
        assert all([len(await until_heard(node, f"{name}/{name}", 3)) == 3 for name in rooms])


async def until_heard(node: LiveNode, path: str, count: int) -> list[Any]:
    heard: list[Any] = []
    with trio.fail_after(PATIENCE_S):
        while len(heard) < count:
            answer = await node.state(path)
            heard = orjson.loads(answer.body) if answer.status == 200 else []
            await trio.sleep(0.02)
    return heard
