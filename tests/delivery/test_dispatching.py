"""How a node shares itself out among messages: full queues, floods, poison, what /metrics says of it all."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent
from typing import Any

import trio
from front_door import get
from test_messages import PATIENCE_S, send, sql, state_of, until, until_sql

from fix_node import LiveNode, StartNode

LATER = {"fail": {"code": "later", "message": "not yet", "retry": True}}
WAITING = "SELECT count(*) FROM inversion.message WHERE function = '{}'"


def limited(toml: str, **queues: int) -> str:
    """The same functions with short queues."""
    listed = ", ".join(f"{name} = {count}" for name, count in queues.items())
    return dedent(toml) + f"\n[limits]\nqueue = {{ {listed} }}\n"


def waiting(url: str, function: str = "b") -> int:
    return int(str(sql(url, WAITING.format(function))[0][0]))


async def metrics(node: LiveNode) -> dict[str, float]:
    answer = await node.send(get(b"/metrics"), admin=True)
    lines = [line for line in answer.body.decode().splitlines() if not line.startswith("#")]
    return {name: float(value) for name, _, value in (line.rpartition(" ") for line in lines)}


async def until_metrics(node: LiveNode, **wanted: float) -> dict[str, float]:
    """Until /metrics says so of function b; what waits is counted now and then."""
    found: dict[str, float] = {}
    with trio.move_on_after(PATIENCE_S):
        while True:
            found = await metrics(node)
            said = {name: found.get(f'inversion_{name}{{function="b"}}') for name in wanted}
            if said == wanted:
                return found
            await trio.sleep(0.1)
    raise AssertionError(f"{said}, wanted {wanted}")


async def test_a_full_queue_of_an_entity_loses_no_message_and_holds_up_no_other_entity(
    start_node: StartNode, obedient_toml: str, database_url: str, tmp_path: Path
) -> None:
    latch = tmp_path / "latch"
    async with start_node(limited(obedient_toml, entity=4, function=200, node=400)) as node:
        statuses: list[int] = []

        async def occupy() -> None:
            statuses.append((await node.call("b/hot", {"until": str(latch)})).status)

        async with trio.open_nursery() as nursery:
            for _ in range(5):  # one runs, four wait: the queue is full until the latch is there
                nursery.start_soon(occupy)
            live = 0.0
            while live < 5:
                live = (await metrics(node))["inversion_live_requests"]
            hot = [send("hot", {"add": 1, "as": n}) for n in range(20)]
            others = [send(f"k{n}", {"add": 1}) for n in range(60)]
            assert (await node.call("a/x", {"do": [*hot, *others]})).status == 200
            for n in range(60):
                await until(node, f"b/k{n}", count=1)
            assert (await node.call("b/cold", {"add": 1})).status == 200  # nor a caller
            assert (await state_of(node, "b/hot")).get("count") is None  # it was full all the time
            latch.touch()
        assert statuses == [200] * 5
        state = await until(node, "b/hot", count=20)
        assert state["seen"] == list(range(20))
        assert waiting(database_url) == 0


async def test_messages_leave_room_for_callers_in_the_queue_of_their_function(
    start_node: StartNode, obedient_toml: str, database_url: str
) -> None:
    """More of them than the queue holds wait in the database, not in front of callers."""
    async with start_node(limited(obedient_toml, entity=10, function=12, node=100)) as node:
        messages = [send(f"k{n}", {"pause": 0.1, "add": 1}) for n in range(60)]
        assert (await node.call("a/x", {"do": messages})).status == 200
        answered = []
        while waiting(database_url):
            answered.append((await node.call("b/caller", {"add": 1})).status)
        assert len(answered) > 1
        assert set(answered) == {200}
        for n in range(60):
            await until(node, f"b/k{n}", count=1)


async def test_a_flood_to_one_function_holds_up_no_message_to_another(
    start_node: StartNode, obedient_toml: str, database_url: str, tmp_path: Path
) -> None:
    toml = obedient_toml + obedient_toml.replace("functions.a]", "functions.c]").partition("[functions.b]")[0]
    latch = tmp_path / "latch"
    async with start_node(toml) as node:
        for first in range(0, 1_200, 400):
            flood = [send(f"k{n}", {"until": str(latch), "add": 1}) for n in range(first, first + 400)]
            assert (await node.call("a/x", {"do": flood})).status == 200
        for n in range(10):
            later = {"delay": "1ms"} if n % 2 else {}  # what is claimed, and what runs where it is born
            await node.call("a/x", {"do": [send("y", {"add": 1, "as": n}, function="c", **later)]})
            await until(node, "c/y", count=n + 1)
        assert waiting(database_url) == 1_200  # the flood is there, and has all of its processes
        await until_sql(database_url, WAITING.format("c"), (0,))
        latch.touch()


async def test_a_poison_message_blocks_its_pair_alone_and_that_until_it_is_dead(
    start_node: StartNode, obedient_toml: str, database_url: str
) -> None:
    toml = obedient_toml.replace("attempts = 3", "attempts = 1000")
    async with start_node(toml) as node:
        await node.call("a/x", {"do": [send("y", LATER), send("y", {"add": 1, "as": "behind"})]})
        await node.call(
            "a/x", {"do": [send("z", {"add": 1}), send("y", {"add": 1, "as": "timer"}, delay="1ms")]}
        )
        await node.call("a/w", {"do": [send("y", {"add": 1, "as": "another sender"})]})
        await until(node, "b/z", count=1)
        state = await until(node, "b/y", count=2)
        assert sorted(state["seen"]) == ["another sender", "timer"]
        tries = "SELECT max(failures) > 3 FROM inversion.message"
        await until_sql(database_url, tries, (True,))
        assert (await state_of(node, "b/y"))["seen"] == state["seen"]
        assert sql(database_url, "SELECT count(*) FROM inversion.dead_letter") == [(0,)]
        sql(database_url, "UPDATE inversion.message SET failures = 999 WHERE failures > 0")
        # 1,001 where an attempt was under way that did not know of it
        await until_sql(database_url, "SELECT failures IN (1000, 1001) FROM inversion.dead_letter", (True,))
        state = await until(node, "b/y", count=3)
        assert state["seen"][2] == "behind"


async def test_a_time_that_has_long_passed_makes_a_message_no_older(
    start_node: StartNode, obedient_toml: str, database_url: str
) -> None:
    toml = obedient_toml.replace("attempts = 3", "attempts = 1000")
    async with start_node(toml) as node:
        await node.call("a/x", {"do": [send("y", LATER, at="2020-02-02T02:02:02Z", name="old")]})
        await until_sql(database_url, "SELECT max(failures) > 1 FROM inversion.timer", (True,))
        assert sql(database_url, "SELECT count(*) FROM inversion.dead_letter") == [(0,)]


async def test_metrics_say_what_became_of_messages_and_what_waits(
    start_node: StartNode, obedient_toml: str, database_url: str
) -> None:
    async with start_node(obedient_toml) as node:
        before = await metrics(node)
        effects: list[dict[str, Any]] = [send(f"k{n}", {"add": 1}) for n in range(5)]
        effects += [send("y", LATER), send("z", {"fail": {"code": "no", "message": "never"}})]
        effects += [send("y", {"add": 1}, delay=f"{n}h", name=f"t{n}") for n in range(1, 4)]
        await node.call("a/x", {"do": effects})
        await until_sql(database_url, "SELECT count(*) FROM inversion.dead_letter", (2,))
        await until_sql(database_url, "SELECT count(*) FROM inversion.message", (0,))
        for n in range(5):
            await until(node, f"b/k{n}", count=1)
        after = await until_metrics(
            node, dead_letters=2, timers_waiting=3, messages_waiting=0, messages_due=0, messages_lag_seconds=0
        )
        names = ("delivered", "failed", "dead")
        counted = {
            name: after[f"inversion_messages_{name}_total"] - before[f"inversion_messages_{name}_total"]
            for name in names
        }
        assert counted == {"delivered": 6, "failed": 3, "dead": 2}
        assert after["inversion_messages_claimed_total"] > before["inversion_messages_claimed_total"]
        assert after["inversion_messages_held"] == 0
