"""`--nodes N` as its user runs it: one port, one admin door, N processes that serve."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path

import orjson
import pytest
import trio
from front_door import Client, post

from fix_command import RunningCommand, StartCommand, for_serve
from fix_node import PYTHON
from fix_outage import JOURNAL, ServeNode, alive, stopped
from inversion.cli.door import Door
from inversion.nodes.handover import HandedOver, hand_over

#: Answers with the pid of its node's spawner: who served this?
WHO = """
import os
from shim import handler, serve

@handler(default=True)
def who(ctx, message):
    return os.getppid()

@handler
def add(ctx, message):
    ctx.state = (ctx.state or 0) + message
    return ctx.state

serve()
"""
#: Several interpreters start in each test, on a machine that may be busy with others.
PATIENCE_S = 60

pytestmark = [pytest.mark.timeout(120), pytest.mark.slow]


@pytest.fixture
def folder(journal_folder: Path) -> Path:
    (journal_folder / "who.py").write_text(WHO)
    shim = Path(__file__).parent.parent / "runtimes" / "python"
    (journal_folder / "inversion.toml").write_text(
        for_serve(f"""{JOURNAL}
[functions.who]
command = ["{PYTHON}", "who.py"]
env = {{ PYTHONPATH = "{shim}" }}
""")
    )
    return journal_folder


def nodes(command: RunningCommand) -> list[int]:
    """The pids of the nodes of a command, in their order."""
    found: dict[int, int] = {}
    for pid in command.tree()[1:]:
        try:
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
            parent = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
        if b"--control" in arguments and parent == command.process.pid:
            found[int(arguments[arguments.index(b"--number") + 1])] = pid
    return [found[number] for number in sorted(found)]


async def until(holds: Callable[[], Awaitable[bool]]) -> None:
    with trio.fail_after(PATIENCE_S):
        while not await holds():  # noqa: ASYNC110 (asks other processes)
            await trio.sleep(0.02)


async def until_nodes(command: RunningCommand, count: int, *, without: int = 0) -> list[int]:
    """Until so many nodes answer, a certain one not among them."""
    pids: list[int] = []

    async def are_up() -> bool:
        page = (await command.admin("/metrics")).body.decode()
        pids[:] = nodes(command)
        up = re.findall(r'^inversion_node_up\{node="\d+"\} 1$', page, re.MULTILINE)
        return len(up) == count == len(pids) and without not in pids

    await until(are_up)
    return pids


async def is_draining(command: RunningCommand) -> bool:
    answer = await command.admin("/readyz")
    return answer.status == 503 and orjson.loads(answer.body)["reasons"] == ["draining"]


async def slow_nodes(command: RunningCommand) -> int:
    """How many nodes have begun slow calls, which their function says on its stderr."""
    page = (await command.admin("/metrics")).body.decode()
    return len(re.findall(r'stderr_lines_total\{node="\d",function="slow"\} [1-9]', page))


async def test_nodes_share_one_port_one_state_and_one_admin_door(
    folder: Path, start_command: StartCommand
) -> None:
    with start_command("dev", folder, "--nodes", "2", "--json") as command, trio.fail_after(100):
        assert len(nodes(command)) == 2
        served: set[bytes] = set()

        async def both_have_served() -> bool:
            """Whoever has time takes a connection, so nobody can say how many one of them gets."""
            clients = [await command.connect(command.url) for _ in range(16)]
            for client in clients:
                await client.send(post(b"/v1/call/who/k", b"null"))
                served.add((await client.answer()).body)
            for client in clients:
                await client.aclose()
            return len(served) == 2

        await until(both_have_served)
        counts = [await command.call("who/sum/add", 1) for _ in range(10)]
        assert sorted(int(answer.body) for answer in counts) == list(range(1, 11))

        ready = await command.admin("/readyz")
        assert (ready.status, orjson.loads(ready.body)) == (200, {"ready": True, "reasons": []})
        assert (await command.admin("/livez")).status == 200
        page = (await command.admin("/metrics")).body.decode()
        for node in (0, 1):
            assert f'inversion_node_up{{node="{node}"}} 1' in page
            assert re.search(rf'inversion_commits_total{{node="{node}"}} \d+', page)
        assert page.count("# TYPE inversion_commits_total counter") == 1
        assert (await command.admin("/v1/functions")).status == 401

        door = Door.find(None, None, folder)
        assert door.socket_path is not None

        def ask(*request: str) -> tuple[int, bytes]:
            method, path, *body = request
            reply = door.request(method, path, body[0].encode() if body else None, timeout_s=20)
            return reply.status, reply.body

        assert await trio.to_thread.run_sync(ask, "POST", "/v1/call/who/sum/add", "5") == (200, b"15")
        assert await trio.to_thread.run_sync(ask, "GET", "/v1/state/who/sum") == (200, b"15")
        assert (await trio.to_thread.run_sync(ask, "POST", "/v1/call/nobody/k", "5"))[0] == 404
        status, body = await trio.to_thread.run_sync(ask, "GET", "/v1/functions")
        assert status == 200
        assert {each["name"] for each in orjson.loads(body)["functions"]} == {"journal", "slow", "who"}


async def test_a_node_that_is_killed_is_started_again_and_nobody_who_waits_is_forgotten(
    folder: Path, serve_node: ServeNode, database_url: str
) -> None:
    with serve_node(database_url, "--nodes", "2") as command, trio.fail_after(100):
        before = nodes(command)
        for pid in before:
            os.kill(pid, signal.SIGSTOP)
        while not all(stopped(pid) for pid in before):  # noqa: ASYNC110 (other processes)
            await trio.sleep(0.005)
        clients = [await command.connect(command.url) for _ in range(8)]
        for client in clients:  # they wait in the listening socket, which no node looks at
            await client.send(post(b"/v1/call/who/k/add", b"1"))
        os.kill(before[0], signal.SIGKILL)
        os.kill(before[1], signal.SIGCONT)
        answers = []
        for client in clients:
            answers.append(await client.answer())
            await client.aclose()
        assert {answer.status for answer in answers} == {200}, answers[0].body
        assert sorted(int(answer.body) for answer in answers) == list(range(1, 9))
        after = await until_nodes(command, 2, without=before[0])
        assert before[1] in after, "the other one was not touched"
        assert 'inversion_node_restarts_total{node="0"} 1' in (await command.admin("/metrics")).body.decode()
        assert (await command.call("who/k/add", 1)).body == b"9"
        command.process.terminate()
        assert await trio.to_thread.run_sync(command.process.wait, 30) == 0, "the status is of the drain only"


async def test_a_node_that_is_stopped_keeps_nobody_from_the_others(
    folder: Path, serve_node: ServeNode, database_url: str
) -> None:
    with serve_node(database_url, "--nodes", "2") as command, trio.fail_after(100):
        silent = nodes(command)[1]
        os.kill(silent, signal.SIGSTOP)
        for n in range(10):
            assert (await command.call("who/k/add", 1)).body == str(n + 1).encode()
        assert (await command.admin("/readyz")).status == 200
        assert 'inversion_node_up{node="1"} 0' in (await command.admin("/metrics")).body.decode()
        os.kill(silent, signal.SIGCONT)
        await until_nodes(command, 2)


async def test_nodes_whose_parent_is_killed_end_and_what_they_run_with_them(
    folder: Path, serve_node: ServeNode, database_url: str
) -> None:
    with serve_node(database_url, "--nodes", "2") as command, trio.fail_after(100):
        client = await command.connect(command.url)
        await client.send(post(b"/v1/call/slow/k/add_slowly", b'{"token":"t","s":60}'))

        async def one_is_at_it() -> bool:
            return await slow_nodes(command) == 1

        await until(one_is_at_it)
        family = command.tree()
        assert set(nodes(command)) < set(family)
        command.process.kill()

        async def all_are_gone() -> bool:
            command.process.poll()
            return not any(alive(pid) for pid in family)

        await until(all_are_gone)
        await client.aclose()


async def test_a_node_that_takes_no_question_is_asked_no_more_and_not_waited_for() -> None:
    parent, node = socket.socketpair()
    with parent, node, contextlib.ExitStack() as closing:
        parent.setblocking(False)
        taken = 0
        with contextlib.suppress(OSError):
            for taken in range(10_000):  # noqa: B007 (how many there were)
                closing.callback(hand_over(parent).socket.close)
        assert 0 < taken < 9_999
        took, _ = HandedOver(node).accept()
        took.close()
        closing.callback(hand_over(parent).socket.close)


async def test_a_signal_drains_all_nodes_and_their_lines_say_which_they_are(
    folder: Path, serve_node: ServeNode, database_url: str
) -> None:
    with serve_node(database_url, "--nodes", "2") as command, trio.fail_after(100):
        assert len(nodes(command)) == 2
        slow: list[Client] = []

        async def both_are_at_it() -> bool:
            slow.append(await command.connect(command.url))
            await slow[-1].send(post(b"/v1/call/slow/k%d/add_slowly" % len(slow), b'{"token":"t","s":1.0}'))
            return await slow_nodes(command) == 2

        await until(both_are_at_it)
        command.process.send_signal(signal.SIGTERM)
        await until(partial(is_draining, command))
        for client in slow:
            assert (await client.answer()).status == 200
            await client.aclose()
        assert await trio.to_thread.run_sync(command.process.wait, 30) == 0
        assert command.process.stdout is not None
        lines = [orjson.loads(line) for line in command.process.stdout]
        assert {line["node"] for line in lines if line["event"] == "function_line"} == {0, 1}
        assert [line["event"] for line in lines if "node" not in line].count("started") == 0, "said once"


async def test_a_second_signal_ends_all_nodes_at_once(folder: Path, start_command: StartCommand) -> None:
    with start_command("dev", folder, "--nodes", "2", "--json") as command, trio.fail_after(100):
        client = await command.connect(command.url)
        await client.send(post(b"/v1/call/slow/k/add_slowly", b'{"token":"t","s":60}'))

        async def one_is_at_it() -> bool:
            return await slow_nodes(command) == 1

        await until(one_is_at_it)
        family = command.tree()
        command.process.send_signal(signal.SIGINT)
        await until(partial(is_draining, command))
        command.process.send_signal(signal.SIGINT)
        assert await trio.to_thread.run_sync(command.process.wait, 20) == 1, "a call was not answered"
        assert [pid for pid in family if alive(pid)] == []
        await client.aclose()


def test_a_database_without_a_schema_keeps_all_nodes_from_starting_with_one_sentence(
    journal_folder: Path, empty_database_url: str
) -> None:
    result = subprocess.run(
        [sys.executable, "-m", "inversion", "serve", "--nodes", "3", "--port", "0", "--admin-port", "0"],
        cwd=journal_folder,
        env={**os.environ, "DATABASE_URL": empty_database_url},
        capture_output=True,
        timeout=100,
        check=False,
    )
    assert result.returncode == 3
    assert result.stderr.decode().count("inversion migrate") == 2, "one sentence names two commands"


async def test_what_is_saved_is_taken_up_by_every_node(folder: Path, start_command: StartCommand) -> None:
    with start_command("dev", folder, "--nodes", "2", "--json") as command, trio.fail_after(100):
        code = folder / "who.py"
        asked = 0

        async def all_nodes_have_it() -> bool:
            nonlocal asked
            if asked % 50 == 0:  # whoever was not yet watching sees the next one
                code.write_text(WHO.replace("os.getppid()", '"new"') + f"# {asked}\n")
            asked += 1
            clients = [await command.connect(command.url) for _ in range(8)]
            answers = []
            for client in clients:
                await client.send(post(b"/v1/call/who/k", b"null"))
                answers.append(await client.answer())
                await client.aclose()
            assert {answer.status for answer in answers} == {200}, "a reload fails no call"
            return all(answer.body == b'"new"' for answer in answers)

        await until(all_nodes_have_it)


def test_functions_cannot_read_the_secrets_of_a_node_that_a_parent_starts(
    serve_node: ServeNode, database_url: str
) -> None:
    with serve_node(database_url, "--nodes", "2") as command:
        assert len(nodes(command)) == 2
        for pid in nodes(command):
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes()
            environ = b""
            with contextlib.suppress(PermissionError):  # an ordinary user is refused even that
                environ = Path(f"/proc/{pid}/environ").read_bytes()
            assert database_url.encode() not in environ + arguments
            assert b"DATABASE_URL" not in environ
