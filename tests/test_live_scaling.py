"""Processes appear under load and leave when they are idle, and no call notices."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from front_door import get

from fix_node import PYTHON

MORTAL = Path(__file__).parent / "functions" / "mortal"
COMMANDS = {"python": f'["{PYTHON}", "{MORTAL}.py"]', "node": f'["node", "{MORTAL}.js"]'}
MOST = 3
CALLERS = 12


async def metric(node, name):
    answer = await node.send(get(b"/metrics"), admin=True)
    (line,) = [line for line in answer.body.decode().splitlines() if line.startswith(f"inversion_{name}{{")]
    return float(line.rpartition(" ")[2])


@pytest.mark.parametrize("language", ["python", pytest.param("node", marks=pytest.mark.toolchain("node"))])
@pytest.mark.parametrize("fewest", [0, 1])
async def test_processes_come_with_the_load_and_go_with_it(language, fewest, start_node):
    toml = f"""
        [functions.fn]
        command = {COMMANDS[language]}
        processes = {{ min = {fewest}, max = {MOST} }}
        idle = "400ms"
        """
    async with start_node(toml) as node:
        answers = []
        loaded = True

        async def call(number):
            answers.append(await node.call(f"fn/k{number}/slow", 0.02))
            assert answers[-1].status == 200, answers[-1].body

        async def caller(number):
            while loaded:
                await call(number)

        async def until(so):
            with trio.fail_after(20):
                while not so(await metric(node, "processes")):  # noqa: ASYNC110
                    await trio.sleep(0.02)

        most_seen = 0.0
        for round_ in range(2):  # up and down, and once more
            loaded = True
            async with trio.open_nursery() as nursery:
                for number in range(CALLERS):
                    nursery.start_soon(caller, number)
                await until(lambda now: now >= MOST)
                for _ in range(20):
                    most_seen = max(most_seen, await metric(node, "processes"))
                loaded = False
            with trio.fail_after(20):  # one process has something to do all the time, the others leave
                while await metric(node, "processes") > 1:
                    await call(0)
            await until(lambda now: now <= fewest)
            await call(round_)
        assert most_seen == MOST
        assert await metric(node, "function_deaths_total") == 0
        assert await metric(node, "function_failed_turns_total") == 0
