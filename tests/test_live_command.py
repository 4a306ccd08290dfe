"""The command as its user runs it: durable under kill -9 of everything, drained by SIGTERM."""

import json
import os
import signal
import subprocess
import sys
import uuid

import pytest
import trio
from front_door import post

from fix_command import for_serve
from fix_node import PYTHON, RUNTIMES

COUNTER = f"""
[functions.counter]
command = ["{PYTHON}", "{RUNTIMES}/python/counter.py"]

[functions.pure]
command = ["{PYTHON}", "{RUNTIMES}/python/counter.py"]
state = false
"""


@pytest.fixture
def folder(short_folder):
    made = short_folder / uuid.uuid4().hex[:8]
    made.mkdir()
    (made / "inversion.toml").write_text(COUNTER)
    return made


class Clients:
    """Many callers that count what was acknowledged, until the server goes."""

    def __init__(self, keys):
        self.acknowledged = dict.fromkeys(keys, 0)
        self.sent = dict.fromkeys(keys, 0)
        self.enough = trio.Event()
        self.refused = []

    async def run(self, command, key):
        client = await command.connect(command.url)
        async with client.stream:
            while True:
                self.sent[key] += 1
                await client.send(post(f"/v1/call/counter/{key}/add".encode(), b"1"))
                try:
                    answer = await client.answer()
                except Exception:
                    return  # the server is gone, or went away in between: nothing was acknowledged
                if answer.status != 200:
                    self.refused.append(answer)
                    return
                self.acknowledged[key] += 1
                if sum(self.acknowledged.values()) >= 300:
                    self.enough.set()
                if answer.fields.get("connection") == "close":
                    return


async def counts(command, keys):
    found = {}
    for key in keys:
        answer = await command.state(f"counter/{key}")
        found[key] = json.loads(answer.body)["count"] if answer.status == 200 else 0
    return found


@pytest.mark.postgres
async def test_nothing_acknowledged_is_lost_when_everything_is_killed_at_once(folder, start_command):
    keys = ["hot", "hot", "hot", *(f"k{n}" for n in range(13))]
    acknowledged = dict.fromkeys(keys, 0)
    sent = dict.fromkeys(keys, 0)
    for _ in range(2):
        with start_command("dev", folder, "--json") as command, trio.fail_after(50):
            found = await counts(command, acknowledged)
            for key, count in found.items():
                assert acknowledged[key] <= count <= sent[key]
            clients = Clients(keys)
            async with trio.open_nursery() as nursery:
                for key in keys:
                    nursery.start_soon(clients.run, command, key)
                await clients.enough.wait()
                command.kill_everything()
            for key in acknowledged:
                # What was in doubt before is settled now: count it as it was found.
                acknowledged[key] = found[key] + clients.acknowledged[key]
                sent[key] = found[key] + clients.sent[key]
            assert sum(acknowledged.values()) >= 300
    with start_command("dev", folder, "--json") as command:
        found = await counts(command, acknowledged)
        for key, count in found.items():
            assert acknowledged[key] <= count <= sent[key]


@pytest.mark.postgres
async def test_a_sigterm_under_load_answers_what_was_accepted_and_leaves_nothing(folder, start_command):
    keys = [f"k{n}" for n in range(16)]
    with start_command("dev", folder, "--json") as command, trio.fail_after(50):
        clients = Clients(keys)
        async with trio.open_nursery() as nursery:
            for key in keys:
                nursery.start_soon(clients.run, command, key)
            await clients.enough.wait()
            family = command.tree()
            assert len(family) > 2
            command.process.send_signal(signal.SIGTERM)
        assert await trio.to_thread.run_sync(command.process.wait) == 0
        assert [pid for pid in family if os.path.exists(f"/proc/{pid}")] == []  # noqa: ASYNC240
        assert {answer.status for answer in clients.refused} <= {503}
    with start_command("dev", folder, "--json") as command:
        assert await counts(command, keys) == clients.acknowledged


@pytest.mark.postgres
async def test_a_database_that_is_down_at_start_stops_only_what_needs_it(folder, start_command, short_folder):
    url = f"host={short_folder} port=1 user=nobody dbname=none"
    (folder / "inversion.toml").write_text(for_serve(COUNTER))
    with start_command("serve", "--config", folder, "--database-url", url) as command:
        assert (await command.call("pure/get", None)).status == 200
        answer = await command.call("counter/k/add", 1, b"Inversion-Timeout: 300ms")
        assert answer.status == 503
        problem = json.loads(answer.body)
        assert (problem["code"], problem["outcome"]) == ("database_unavailable", "not_applied")
        ready = await command.admin("/readyz")
        assert ready.status == 503
        assert b"database" in ready.body
        assert (await command.admin("/livez")).status == 200


@pytest.mark.postgres
async def test_one_file_is_a_function_without_any_config(short_folder, start_command):
    folder = short_folder / uuid.uuid4().hex[:8]
    folder.mkdir()
    for name in ("shim.py", "counter.py"):
        (folder / name).write_bytes((RUNTIMES / "python" / name).read_bytes())
    with start_command("dev", folder / "counter.py", "--json") as command:
        answer = await command.call("counter/k/add", 2)
        assert (answer.status, answer.body) == (200, b"2")


@pytest.mark.slow
def test_a_port_that_is_taken_is_named_before_anything_is_made(folder):
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        run = subprocess.run(
            [sys.executable, "-m", "inversion", "dev", folder, "--port", str(port), "--admin-port", "0"],
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
            env={name: value for name, value in os.environ.items() if name != "DATABASE_URL"},
        )
    assert run.returncode == 3
    assert f"port {port}" in run.stderr
    assert "--port" in run.stderr
    assert not (folder / ".inversion" / "postgres").exists()
