"""Row C6: a running node is left without a free file. Accepting pauses, starting fails for one call, and
both go on as soon as there are files again."""

from __future__ import annotations

import resource
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import orjson
import pytest
import trio
from front_door import Client, post

from fix_command import StartCommand, for_serve
from fix_matrix import Row
from fix_node import PYTHON, RUNTIMES

FUNCTIONS = f"""
[functions.counter]
command = ["{PYTHON}", "{RUNTIMES}/python/counter.py"]
processes = {{ min = 1, max = 1 }}

[functions.other]
command = ["{PYTHON}", "{RUNTIMES}/python/counter.py"]
timeout = "10s"
idle = "1s"

[functions.echo]
command = ["cat"]
mode = "exec"
state = false
"""

ACCEPT_FAILURES = "http_accept_failures_total"


@pytest.fixture
def folder(short_folder: Path) -> Path:
    made = short_folder / uuid.uuid4().hex[:8]
    made.mkdir()
    (made / "inversion.toml").write_text(for_serve(FUNCTIONS))
    return made


@contextmanager
def no_file_left(pid: int) -> Iterator[None]:
    """The next file that it opens is one too many; those it has stay open: which, only root may see."""
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


async def said(client: Client, path: str, body: bytes = b"1") -> tuple[int, str]:
    """Status and code of a call."""
    await client.send(post(f"/v1/call/{path}".encode(), body))
    answer = await client.answer()
    problem = answer.status >= 400
    if answer.status == 503:
        assert answer.fields["retry-after"]
        assert answer.fields["inversion-outcome"] == "not_applied"
    return answer.status, orjson.loads(answer.body)["code"] if problem else "ok"


async def metric(admin: Client, name: str) -> int:
    """Over a connection that is there already."""
    await admin.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
    for line in (await admin.answer()).body.decode().splitlines():
        if line.startswith(f"inversion_{name} "):
            return int(float(line.split()[1]))
    raise AssertionError(f"no metric {name}")


@pytest.mark.fault("C6", "prlimit: no file is left for a connection or a process of the running node")
async def test_a_node_without_a_free_file_serves_whom_it_has_and_heals_at_once(
    folder: Path, database_url: str, start_command: StartCommand, row: Row
) -> None:
    with (
        start_command("serve", "--config", folder, "--database-url", database_url) as command,
        trio.fail_after(50),
    ):
        client, admin = await command.connect(command.url), await command.connect(command.admin_url)
        assert await said(client, "counter/k/add") == (200, "ok")
        assert await said(client, "echo/call") == (200, "ok")
        for _ in range(row.times):
            failures = await metric(admin, ACCEPT_FAILURES)
            while await metric(admin, 'processes{function="other"}'):  # noqa: ASYNC110 (asked by HTTP)
                await trio.sleep(0.05)
            with no_file_left(command.process.pid):
                late = await command.connect(command.url)  # the kernel has taken it, nobody accepts it
                await late.send(post(b"/v1/call/counter/late/add", b"1"))
                while await metric(admin, ACCEPT_FAILURES) == failures:  # noqa: ASYNC110 (asked by HTTP)
                    await trio.sleep(0.02)
                row.fired("accept failed: EMFILE")
                assert await said(client, "counter/k/add") == (200, "ok")
                assert await said(client, "echo/call") == (503, "no_runtime")
                assert await said(client, "other/k/add") == (503, "no_runtime")
            assert (await late.answer()).status == 200
            assert await said(client, "echo/call") == (200, "ok")
            assert await said(client, "other/k/add") == (200, "ok")
            row.recovered()
            await late.aclose()
        await client.aclose()
        await admin.aclose()
