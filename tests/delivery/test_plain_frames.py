"""A program without a shim has effects too: the alarm clock of runtimes/README.md, word for word."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import trio

from fix_node import RUNTIMES, LiveNode, StartNode

PATIENCE_S = 30.0
PAGE = (RUNTIMES / "README.md").read_text().partition("\n## effects")[2]


@pytest.mark.toolchain("jq")
async def test_the_alarm_clock_of_the_readme_rings_once_when_it_was_set_again(
    start_node: StartNode, tmp_path: Path
) -> None:
    found = re.search(r"^```sh\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert found is not None
    (tmp_path / "alarm.sh").write_text(found[1])
    async with start_node('[functions.alarm]\ncommand = ["sh", "alarm.sh"]') as node:
        for delay in (b'"1h"', b'"50ms"'):
            answer = await node.call("alarm/tea", delay)
            assert answer.body == b'"set"', answer.body
        await until_it_rang(node, b"1")
        answer = await node.call("alarm/tea", b"60")
        assert answer.status == 502
        assert b"effects[0].send.delay must be a duration with a unit" in answer.body
        assert (await node.state("alarm/tea")).body == b"1"


async def until_it_rang(node: LiveNode, times: bytes) -> None:
    with trio.fail_after(PATIENCE_S):
        while (await node.state("alarm/tea")).body != times:  # noqa: ASYNC110 (a sleeping entity)
            await trio.sleep(0.02)
