"""M7: random programs of timers. Which ring is known before: without a fault, and when nodes are killed.

An entity sets, replaces and withdraws timers, several effects in a turn. Some are due in an hour or later and
compared with the rows of the database; then the test makes them due, and the next program uses their names
anew. Some are due at once under a name that no later turn uses: they ring whatever is slow. Of those that are
replaced while they may ring, the last rings and each other at most once. INVERSION_SEED chooses the programs.
"""

from __future__ import annotations

import os
import random
import signal
import uuid
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, suppress
from pathlib import Path
from typing import Any

import attrs
import orjson
import psycopg
import pytest
import trio
from front_door import EndOfAnswers

from fix_command import RunningCommand, StartCommand, for_serve
from fix_matrix import Row
from fix_node import PYTHON

FAULTS = Path(__file__).parent
ALTERED_NODE = str(FAULTS / "altered_node.py")
OBEDIENT = FAULTS.parent / "functions" / "obedient.py"
SEED = int(os.environ.get("INVERSION_SEED", "1"))
ENTITIES = 20
#: Of one program.
TURNS = 6
MOST_EFFECTS = 6
#: Programs of an entity one after the other, all its timers ringing between them.
ROUNDS = 2
LONG = ({"delay": "1h"}, {"delay": "30d"}, {"at": "2999-01-01T00:00:00Z"})
SHORT = ({"delay": "1ms"}, {"delay": "80ms"}, {"delay": "0.3s"}, {"at": "2001-01-01T00:00:00+01:00"})
#: A killed node's leases (2 s) have to run out, on a busy machine.
PATIENCE_S = 90.0

TOML = "".join(
    f"""
[functions.{name}]
command = ["{PYTHON}", "{OBEDIENT}"]
processes = {{ min = 1, max = 2 }}
retry = {{ attempts = 100, pause = "50ms", longest_pause = "500ms" }}
"""
    for name in ("a", "b")
)

Serve = Callable[[], AbstractContextManager[RunningCommand]]


@attrs.define
class Entity:
    """An entity `a`, what it has asked for, and what must become of it."""

    key: str
    chance: random.Random
    waiting: dict[str, tuple[str, int]] = attrs.field(factory=dict)  #: name -> target, number
    rung: Counter[tuple[str, int]] = attrs.field(factory=Counter)
    racing: dict[str, tuple[str, int]] = attrs.field(factory=dict)  #: due at once, and not taken back yet
    perhaps: set[tuple[str, int]] = attrs.field(factory=set)  #: were taken back when they may have rung
    turns: int = 0
    asked: int = 0

    def turn(self) -> list[dict[str, object]]:
        """The effects of the next turn; what comes of them is noted."""
        self.turns += 1
        short: dict[str, tuple[str, int]] = {}
        effects = [self._effect(short) for _ in range(self.chance.randint(1, MOST_EFFECTS))]
        effects.append(self._race())
        self.rung.update(short.values())
        return effects

    def ring_all(self) -> None:
        self.rung.update(self.waiting.values())
        self.waiting.clear()

    def _race(self) -> dict[str, object]:
        """Sets a timer of a name that is due at once, or takes it back while it may be ringing."""
        self.asked += 1
        name = f"race{self.chance.randint(0, 1)}"
        self.waiting.pop(name, None)
        before = self.racing.pop(name, None)
        if before is not None:
            self.perhaps.add(before)
        kind = self.chance.random()
        if kind < 0.2:
            return {"cancel": {"name": name}}
        target = self.chance.choice("ab")
        message = {"add": 1, "as": self.asked, "pause": 0.02}
        send = {"function": target, "key": self.key, "message": message, "name": name}
        if kind < 0.5:
            self.waiting[name] = target, self.asked
            return {"send": {**send, "delay": "1h"}}
        self.racing[name] = target, self.asked
        return {"send": {**send, "delay": self.chance.choice(("0s", "30ms"))}}

    def _effect(self, short: dict[str, tuple[str, int]]) -> dict[str, object]:
        """`short`: what is due soon, so far in this turn."""
        self.asked += 1
        ours = f"t{self.turns}.{self.chance.randint(0, 2)}"  # no later turn uses it
        lasting = f"n{self.chance.randint(0, 4)}"
        name = self.chance.choice((ours, lasting, lasting))
        kind = self.chance.random()
        if kind < 0.3:
            self.waiting.pop(name, None)
            short.pop(name, None)
            return {"cancel": {"name": name}}
        target = self.chance.choice("ab")
        send = {"function": target, "key": self.key, "message": {"add": 1, "as": self.asked}}
        if kind < 0.4:  # without a name: nothing takes it back
            soon = self.chance.random() < 0.5
            (short if soon else self.waiting)[f"~{self.asked}"] = target, self.asked
            return {"send": {**send, **self.chance.choice(SHORT if soon else LONG)}}
        self.waiting.pop(name, None)
        short.pop(name, None)
        soon = name == ours and self.chance.random() < 0.6
        (short if soon else self.waiting)[name] = target, self.asked
        return {"send": {**send, "name": name, **self.chance.choice(SHORT if soon else LONG)}}


@pytest.fixture
def serve(short_folder: Path, start_command: StartCommand, database_url: str) -> Serve:
    """`serve()`: one more node, a process of its own."""

    @contextmanager
    def start() -> Iterator[RunningCommand]:
        folder = short_folder / uuid.uuid4().hex[:8]
        folder.mkdir()
        (folder / "inversion.toml").write_text(for_serve(TOML))
        arguments = ("serve", "--config", folder, "--database-url", database_url)
        with start_command(*arguments, program=(ALTERED_NODE,), INVERSION_LEASE_S="2") as command:
            yield command

    return start


async def query(url: str, text: str) -> list[tuple[Any, ...]]:
    def run() -> list[tuple[Any, ...]]:
        with psycopg.connect(url, autocommit=True) as connection:
            found = connection.execute(text)  # type: ignore[arg-type]
            return found.fetchall() if found.description else []

    return await trio.to_thread.run_sync(run)


async def run_program(entity: Entity, nodes: Sequence[RunningCommand]) -> None:
    for _ in range(TURNS):
        effects = entity.turn()
        once = f"{entity.key}-{entity.turns}".encode()
        await call(nodes, f"a/{entity.key}", {"do": effects}, b"Idempotency-Key: " + once)


async def call(nodes: Sequence[RunningCommand], path: str, body: object, line: bytes) -> None:
    """Once, however often it is repeated."""
    while True:
        with suppress(OSError, EndOfAnswers, trio.BrokenResourceError, trio.TooSlowError):
            answer = await random.choice(nodes).call(path, body, line)
            if answer.status == 200:
                return
            assert answer.status in (503, 504), answer.body
        await trio.sleep(0.05)


async def check_waiting(url: str, entities: Sequence[Entity]) -> None:
    """What is due soon has rung; what waits is what was asked for last, each by its name."""
    with trio.fail_after(PATIENCE_S):
        soon = "SELECT count(*) FROM inversion.timer WHERE due_at < now() + interval '30 minutes'"
        while await query(url, soon) != [(0,)]:  # noqa: ASYNC110 (other processes)
            await trio.sleep(0.05)
    found: dict[str, Counter[tuple[str, str, int]]] = {}
    for key, name, target, body in await query(
        url, "SELECT key, name, target_function, body FROM inversion.timer WHERE function = 'a'"
    ):
        timer = "~" if name.startswith("~") else name, target, orjson.loads(body)["as"]
        found.setdefault(key, Counter())[timer] += 1
    for entity in entities:
        expected = Counter(
            ("~" if name.startswith("~") else name, target, number)
            for name, (target, number) in entity.waiting.items()
        )
        assert found.get(entity.key, Counter()) == expected, entity.key


async def check_rung(url: str, entities: Sequence[Entity]) -> None:
    """What was to ring has rung once, and no other, but for what was taken back when it may have rung."""
    with trio.fail_after(PATIENCE_S):
        left = "SELECT count(*) FROM inversion.timer UNION ALL SELECT count(*) FROM inversion.message"
        while await query(url, left) != [(0,), (0,)]:  # noqa: ASYNC110 (other processes)
            await trio.sleep(0.05)
    found: Counter[tuple[str, str, int]] = Counter()
    for function, key, state in await query(url, "SELECT function, key, state FROM inversion.entity"):
        found.update((key, function, number) for number in orjson.loads(state).get("seen", []))
    expected = Counter(
        {
            (entity.key, target, number): count
            for entity in entities
            for (target, number), count in entity.rung.items()
        }
    )
    expected.update((each.key, *at) for each in entities for at in each.racing.values())
    perhaps = {(each.key, *at) for each in entities for at in each.perhaps}
    assert max(found.values()) == 1, found.most_common(3)
    assert expected - found == Counter(), "they never rang"
    assert (found - expected).keys() <= perhaps, (found - expected).keys() - perhaps
    assert await query(url, "SELECT * FROM inversion.dead_letter") == []


async def ring_all(url: str, entities: Sequence[Entity]) -> None:
    """Their hour has come."""
    await query(url, "UPDATE inversion.timer SET due_at = now()")
    for entity in entities:
        entity.ring_all()


def new_entities(name: str) -> list[Entity]:
    return [Entity(f"{name}-{n}", random.Random(f"{SEED} {name} {n}")) for n in range(ENTITIES)]


async def test_the_timers_that_ring_are_those_that_were_set_last(serve: Serve, database_url: str) -> None:
    entities = new_entities("calm")
    with serve() as node:
        for _ in range(ROUNDS):
            with trio.fail_after(PATIENCE_S):
                async with trio.open_nursery() as nursery:
                    for entity in entities:
                        nursery.start_soon(run_program, entity, [node])
            await check_waiting(database_url, entities)
            await ring_all(database_url, entities)
            await check_rung(database_url, entities)
    assert sum(entity.rung.total() for entity in entities) > ENTITIES * ROUNDS * TURNS / 2


@pytest.mark.fault("M7", "kill -9 of one of two nodes amid random programs of timers, and while timers ring")
@pytest.mark.timeout(60 * 30)
async def test_no_timer_is_lost_or_rings_twice_when_nodes_are_killed(
    serve: Serve, database_url: str, row: Row
) -> None:
    entities: list[Entity] = []
    with serve() as staying:
        for number in range(row.times):
            news = new_entities(f"kill{number}")
            entities += news
            with serve() as leaving, trio.fail_after(2 * PATIENCE_S):
                nodes = [staying, leaving]
                async with trio.open_nursery() as nursery:
                    for entity in news:
                        nursery.start_soon(run_program, entity, nodes)
                    while sum(entity.turns for entity in news) < ENTITIES * TURNS / 2:  # noqa: ASYNC110
                        await trio.sleep(0.001)
                    kill(leaving, nodes)
                    row.fired(f"killed after {sum(entity.turns for entity in news)} turns")
                await check_waiting(database_url, entities)
                row.recovered()
            with serve() as leaving, trio.fail_after(2 * PATIENCE_S):
                await ring_all(database_url, entities)
                leased = 0
                while not leased:
                    ((leased,),) = await query(database_url, "SELECT count(owner) FROM inversion.timer")
                kill(leaving, [leaving])
                row.fired(f"killed while {leased} timers rang")
                await check_rung(database_url, entities)
                row.recovered()


def kill(node: RunningCommand, nodes: list[RunningCommand]) -> None:
    os.kill(node.process.pid, signal.SIGKILL)
    nodes.remove(node)
    node.process.wait(10)
