"""`inversion dev` while its files change under load: new code serves, and no call ever fails."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import attrs
import pytest
import trio
from front_door import Client, get, post

from delivery.outside import answer, outside, says

#: A process starts and says hello in a tenth of it; the machine may be busy.
PATIENCE_S = 30.0

PYTHON_CODE = """
import json, sys, time
VERSION = 1
handlers = {"add": {}, "slow": {}, "version": {"reads_only": True}}
print(json.dumps({"hello": {"protocol": 1, "pipeline": 8, "batch": 4, "handlers": handlers}}), flush=True)
def answer(id, handler, count):
    if handler == "slow":
        time.sleep(0.05)
    if handler == "version":
        return {"id": id, "response": VERSION}, count
    return {"id": id, "response": VERSION, "state": count + 1}, count + 1
for line in sys.stdin:
    frame = json.loads(line)
    count = frame.get("state") or 0
    if "messages" in frame:
        answers = []
        for each in frame["messages"]:
            out, count = answer(each["id"], each["handler"], count)
            answers.append({"id": out["id"], "response": out["response"], "changed": "state" in out})
        out = {"id": frame["id"], "answers": answers}
        if any(each["changed"] for each in answers):
            out["state"] = count
        print(json.dumps(out), flush=True)
    else:
        print(json.dumps(answer(frame["id"], frame["ctx"]["handler"], count)[0]), flush=True)
"""
NODE_CODE = """
const VERSION = 1
console.log(JSON.stringify({hello: {protocol: 1, handlers: {add: {}, version: {reads_only: true}}}}))
require("readline").createInterface({input: process.stdin}).on("line", line => {
  const frame = JSON.parse(line)
  const out = {id: frame.id, response: VERSION}
  if (frame.ctx.handler == "add") out.state = (frame.state || 0) + 1
  console.log(JSON.stringify(out))
})
"""
#: Says no hello, answers anything.
SED_CODE = """#!/bin/sh
exec sed -u -E 's/^.*"id" *: *"([^"]+)".*$/{"id":"\\1","response":1}/'
"""


async def until(condition: Callable[[], bool]) -> None:
    with trio.fail_after(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 (it is another process's)
            await trio.sleep(0.01)


@attrs.define
class Dev:
    """A running `inversion dev` and the log that it writes."""

    folder: Path
    process: subprocess.Popen[bytes]
    log: Path
    url: str = ""
    admin_url: str = ""

    def events(self) -> list[dict[str, object]]:
        whole = self.log.read_bytes().rpartition(b"\n")[0]
        return [json.loads(line) for line in whole.splitlines()]

    async def says(self, text: str, times: int = 1) -> dict[str, object]:
        """Wait for a log line that contains this for so many times, and return the last of them."""
        with trio.move_on_after(PATIENCE_S):
            while True:
                found = [event for event in self.events() if text in str(event["event"])]
                if len(found) >= times:
                    return found[-1]
                await trio.sleep(0.02)
        pytest.fail(f"it never said {text!r} {times} times:\n{self.log.read_text()}")

    async def connect(self) -> Client:
        host, _, port = self.url.removeprefix("http://").rpartition(":")
        return Client(await trio.open_tcp_stream(host, int(port)))

    async def call(self, path: str, body: object = None) -> tuple[int, object]:
        with trio.fail_after(PATIENCE_S):
            client = await self.connect()
            async with client.stream:
                await client.send(post(f"/v1/call/{path}".encode(), json.dumps(body).encode()))
                answer = await client.answer()
                return answer.status, json.loads(answer.body)

    def edit(self, name: str, old: str, new: str) -> None:
        file = self.folder / name
        text = file.read_text()
        assert old in text
        file.write_text(text.replace(old, new))


@attrs.define
class Load:
    """Callers that never stop; each keeps what it was answered."""

    dev: Dev
    nursery: trio.Nursery
    answers: dict[str, list[object]] = attrs.field(factory=dict)
    refused: list[tuple[int, object]] = attrs.field(factory=list)
    stopping: bool = False

    async def run(self, path: str) -> None:
        heard = self.answers.setdefault(path, [])
        client = await self.dev.connect()
        async with client.stream:
            while not self.stopping:
                await client.send(post(f"/v1/call/{path}".encode(), b"1"))
                answer = await client.answer()
                body = json.loads(answer.body)
                if answer.status != 200:
                    self.refused.append((answer.status, body))
                heard.append(body)

    async def hears(self, path: str, version: object) -> None:
        await until(lambda: self.answers.get(path, [None])[-1:] == [version])


COMMAND = [sys.executable, "-m", "inversion", "dev", "--json", "--port", "0", "--admin-port", "0"]

StartDev = Callable[..., AbstractAsyncContextManager[Dev]]


@pytest.fixture
def start_dev(short_folder: Path, tmp_path: Path, database_url: str) -> StartDev:
    """`start_dev(toml, file=text, ...)`: those files, and `dev` on them."""

    @asynccontextmanager
    async def start(toml: str, files: dict[str, str], *path: str) -> AsyncIterator[Dev]:
        folder = tmp_path / "project"
        folder.mkdir()
        (folder / "inversion.toml").write_text(toml)
        for name, text in files.items():
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_text(text)
            (folder / name).chmod(0o755)
        log = tmp_path / "log"
        with log.open("wb") as out:
            process = subprocess.Popen(  # noqa: ASYNC220 (it takes a moment)
                [*COMMAND, *(path or ["."]), "--database-url", database_url],
                cwd=folder,
                env={name: value for name, value in os.environ.items() if not name.startswith("INVERSION")},
                stdout=out,
                stderr=subprocess.STDOUT,
            )
        dev = Dev(folder, process, log)
        try:
            up = await dev.says("started")
            dev.url, dev.admin_url = str(up["url"]), str(up["admin_url"])
            await dev.says("watching")
            yield dev
            process.terminate()
            assert await trio.to_thread.run_sync(process.wait, PATIENCE_S) == 0
        finally:
            if process.returncode is None:
                process.kill()
                process.wait()

    return start


@asynccontextmanager
async def under_load(dev: Dev, *paths: str) -> AsyncIterator[Load]:
    """No call fails in here, and no acknowledged one is lost or done twice."""
    async with trio.open_nursery() as nursery:
        load = Load(dev, nursery)
        for path in paths:
            for _ in range(3):
                nursery.start_soon(load.run, path)
        yield load
        load.stopping = True
    assert load.refused == []


async def processes(dev: Dev) -> int:
    host, _, port = dev.admin_url.removeprefix("http://").rpartition(":")
    async with (client := Client(await trio.open_tcp_stream(host, int(port)))).stream:
        await client.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n")
        text = (await client.answer()).body.decode()
    lines = [line for line in text.splitlines() if line.startswith("inversion_processes{")]
    return sum(int(float(line.split()[-1])) for line in lines)


def function(name: str, *command: str, more: str = "") -> str:
    return f"[functions.{name}]\ncommand = {json.dumps(command)}\n{more}\n"


PYTHON = function("counter", sys.executable, "counter.py")
NODE = function("other", "node", "node/other.js")


@pytest.mark.toolchain("node")
async def test_changed_code_comes_in_under_load_and_no_call_fails(start_dev: StartDev) -> None:
    async with start_dev(PYTHON + NODE, {"counter.py": PYTHON_CODE, "node/other.js": NODE_CODE}) as dev:
        async with under_load(dev, "counter/hot/add", "counter/x/version", "other/hot/add") as load:
            await load.hears("other/hot/add", 1)
            # It takes smaller turns, too: those that wait are cut anew.
            text = PYTHON_CODE.replace('"batch": 4', '"batch": 1').replace("VERSION = 1", "VERSION = 2")
            (dev.folder / "counter.py").write_text(text)
            said = await dev.says("reloaded")
            assert str(said["event"]).startswith("reloaded counter (counter.py changed) in ")
            await load.hears("counter/hot/add", 2)
            assert load.answers["other/hot/add"][-1] == 1
            dev.edit("node/other.js", "VERSION = 1", "VERSION = 2")
            said = await dev.says("reloaded", 2)
            assert "node/other.js changed" in str(said["event"])
            await load.hears("other/hot/add", 2)
            await load.hears("counter/x/version", 2)
        # Whatever was acknowledged before, between and after was applied once.
        for name in ("counter", "other"):
            calls = len(load.answers[f"{name}/hot/add"])
            status, counted = await dev.call(f"{name}/hot/add")
            assert (status, counted) == (200, 2)
            host, _, port = dev.url.removeprefix("http://").rpartition(":")
            async with (client := Client(await trio.open_tcp_stream(host, int(port)))).stream:
                await client.send(b"GET /v1/state/%b/hot HTTP/1.1\r\nHost: x\r\n\r\n" % name.encode())
                assert json.loads((await client.answer()).body) == calls + 1


async def test_what_is_in_flight_is_answered_by_the_old_code(start_dev: StartDev) -> None:
    code = PYTHON_CODE.replace(
        "time.sleep(0.05)", "print('begun', file=sys.stderr, flush=True); time.sleep(2)"
    )
    async with start_dev(PYTHON, {"counter.py": code}) as dev, trio.open_nursery() as nursery:
        heard: list[tuple[int, object]] = []

        async def call_slow() -> None:
            heard.append(await dev.call("counter/k/slow"))

        nursery.start_soon(call_slow)
        await until(lambda: any(event.get("text") == "begun" for event in dev.events()))
        dev.edit("counter.py", "VERSION = 1", "VERSION = 2")
        await dev.says("reloaded")
        assert await dev.call("counter/other/version") == (200, 2)
        await until(lambda: len(heard) == 1)
        assert heard == [(200, 1)]


async def test_a_syntax_error_keeps_the_old_code_and_is_shown_and_its_repair_comes_in(
    start_dev: StartDev,
) -> None:
    async with (
        start_dev(PYTHON, {"counter.py": PYTHON_CODE}) as dev,
        under_load(dev, "counter/hot/add") as load,
    ):
        await load.hears("counter/hot/add", 1)
        dev.edit("counter.py", "VERSION = 1", "VERSION = = 2")
        said = await dev.says("was not reloaded")
        assert "the old code goes on serving" in str(said["event"])
        assert "SyntaxError" in str(said["event"])
        assert any("VERSION = = 2" in str(each.get("text")) for each in dev.events())
        # Many slow callers would be worth another process; only broken ones are to be had.
        for n in range(8):
            load.nursery.start_soon(load.run, f"counter/k{n}/slow")
        await until(lambda: all(len(load.answers.get(f"counter/k{n}/slow", ())) > 1 for n in range(8)))
        assert load.answers["counter/hot/add"][-1] == 1
        assert sum("SyntaxError" in str(each.get("text")) for each in dev.events()) == 1
        dev.edit("counter.py", "VERSION = = 2", "VERSION = 3")
        await dev.says("reloaded counter")
        await load.hears("counter/hot/add", 3)


async def test_functions_are_added_removed_and_changed_with_the_config(start_dev: StartDev) -> None:
    config = PYTHON + function("leaving", "cat", more='mode = "exec"\nstate = false')
    async with start_dev(config, {"counter.py": PYTHON_CODE}) as dev:
        assert (await dev.call("leaving", 5))[0] == 200
        async with under_load(dev, "counter/hot/add") as load:
            await load.hears("counter/hot/add", 1)
            added = function("added", sys.executable, "counter.py") + function("bad", "no-such-program")
            changed = PYTHON + 'timeout = "7s"\nenv = { LEVEL = "x" }\n[limits]\nbody = "2MiB"\n'
            (dev.folder / "inversion.toml").write_text(added + changed)
            said = await dev.says("reloaded added")
            assert str(said["event"]).startswith("reloaded added, counter (inversion.toml changed) in ")
            assert "limits.body" in str((await dev.says("needs a restart"))["event"])
            assert "no-such-program" in str((await dev.says("bad was not reloaded"))["event"])
            await dev.says("removed leaving")
            assert await dev.call("added/k/version") == (200, 1)
            status, problem = await dev.call("leaving", 5)
            assert (status, problem["code"]) == (404, "no_function")
            status, problem = await dev.call("bad/k/x", 5)
            assert (status, problem["code"]) == (503, "no_runtime")
            # What cannot be read changes nothing.
            (dev.folder / "inversion.toml").write_text(added + PYTHON + "tmeout = 1\n")
            said = await dev.says("did you mean timeout?")
            assert said["level"] == "error"
            assert await dev.call("added/k/version") == (200, 1)
            (dev.folder / "inversion.toml").write_text(config)
            await dev.says("removed added")
            await dev.says("reloaded counter, leaving")
            assert sum("needs a restart" in str(event["event"]) for event in dev.events()) == 1
            assert await dev.call("leaving", 5) == (200, 5)


async def test_a_function_that_is_removed_and_put_back_under_load_is_there_or_not_and_never_fails(
    start_dev: StartDev,
) -> None:
    both = PYTHON + function("other", sys.executable, "counter.py")
    async with start_dev(both, {"counter.py": PYTHON_CODE}) as dev, trio.open_nursery() as nursery:
        load = Load(dev, nursery)
        for key in ("hot", "hot", "cold"):
            nursery.start_soon(load.run, f"other/{key}/slow")
        for times in (1, 2, 3):
            await until(lambda: load.answers.get("other/hot/slow", [None])[-1:] == [1])
            (dev.folder / "inversion.toml").write_text(PYTHON)
            await dev.says("removed other", times)
            await until(lambda: isinstance(load.answers["other/hot/slow"][-1], dict))
            (dev.folder / "inversion.toml").write_text(both)
            await dev.says("reloaded other", times)
        await load.hears("other/hot/slow", 1)
        load.stopping = True
    assert load.refused
    assert {(status, body["code"]) for status, body in load.refused} == {(404, "no_function")}


async def test_a_touched_file_and_what_is_no_code_change_nothing(start_dev: StartDev) -> None:
    async with start_dev(PYTHON, {"counter.py": PYTHON_CODE, "lib/a.py": "A = 1"}) as dev:
        os.utime(dev.folder / "counter.py")
        os.utime(dev.folder / "inversion.toml")
        (dev.folder / ".counter.py.swp").write_text("x")
        (dev.folder / "counter.log").write_text("x")
        (dev.folder / "node_modules").mkdir()
        (dev.folder / "node_modules" / "x.js").write_text("x")
        (dev.folder / "lib" / "a.py").write_text("A = 2")
        said = await dev.says("reloaded")
        assert str(said["event"]).startswith("reloaded counter (lib/a.py changed)")
        (dev.folder / "new").mkdir()
        (dev.folder / "new" / "b.py").write_text("B = 1")
        assert "new/b.py changed" in str((await dev.says("reloaded", 2))["event"])
        (dev.folder / "new" / "b.py").write_text("B = 2")
        await dev.says("reloaded", 3)


async def test_a_file_that_an_editor_replaces_by_rename_is_seen_each_time(start_dev: StartDev) -> None:
    async with (
        start_dev(PYTHON, {"counter.py": PYTHON_CODE}) as dev,
        under_load(dev, "counter/hot/add") as load,
    ):
        for version in (2, 3, 4):
            # As vim does it: the old one is moved away, for a moment there is none.
            file = dev.folder / "counter.py"
            text = file.read_text().replace(f"VERSION = {version - 1}", f"VERSION = {version}")
            file.rename(dev.folder / "counter.py~")
            (dev.folder / "4913").write_text(text)
            (dev.folder / "4913").rename(file)
            (dev.folder / "counter.py~").unlink()
            await load.hears("counter/hot/add", version)


async def test_rapid_changes_end_with_the_last_one(start_dev: StartDev) -> None:
    async with (
        start_dev(PYTHON, {"counter.py": PYTHON_CODE}) as dev,
        under_load(dev, "counter/hot/add", "counter/x/version") as load,
    ):
        for version in range(2, 10):
            dev.edit("counter.py", f"VERSION = {version - 1}\n", f"VERSION = {version}\n")
            await trio.sleep(0.03 * (version % 4))  # together, apart, and in the middle of a reload
        await load.hears("counter/hot/add", 9)
        await load.hears("counter/x/version", 9)
        with trio.fail_after(PATIENCE_S):
            while await processes(dev) > 2:  # noqa: ASYNC110 (another process's)
                await trio.sleep(0.05)


async def test_new_code_that_hangs_is_overtaken_by_the_next_change(start_dev: StartDev) -> None:
    async with (
        start_dev(PYTHON, {"counter.py": PYTHON_CODE}) as dev,
        under_load(dev, "counter/hot/add") as load,
    ):
        await load.hears("counter/hot/add", 1)
        (dev.folder / "counter.py").write_text(
            "import sys, time\nprint('hm', file=sys.stderr)\ntime.sleep(600)"
        )
        await until(lambda: any(event.get("text") == "hm" for event in dev.events()))
        (dev.folder / "counter.py").write_text(PYTHON_CODE.replace("VERSION = 1", "VERSION = 2"))
        await load.hears("counter/hot/add", 2)


async def test_a_program_that_says_no_hello_is_reloaded_when_it_has_lived_a_moment(
    start_dev: StartDev,
) -> None:
    toml = function("plain", "./plain.sh", more='hello = "none"\nstate = false\nprocesses = { max = 1 }')
    async with start_dev(toml, {"plain.sh": SED_CODE}) as dev, under_load(dev, "plain/x") as load:
        await load.hears("plain/x", 1)
        dev.edit("plain.sh", '"response":1', '"response":2')
        await dev.says("reloaded plain")
        await load.hears("plain/x", 2)
        dev.edit("plain.sh", "exec sed", "no-such-sed")
        assert "not found" in str((await dev.says("was not reloaded"))["event"])
        dev.edit("plain.sh", "no-such-sed", "exec sed")
        await dev.says("reloaded plain", 2)


async def test_one_file_without_a_config_is_watched_too(start_dev: StartDev) -> None:
    async with start_dev("", {"visits.py": "#!/usr/bin/env python3\nprint(1)"}, "visits.py") as dev:
        assert await dev.call("visits/a") == (200, 1)
        dev.edit("visits.py", "print(1)", "print(2)")
        await dev.says("reloaded visits (visits.py changed)")
        assert await dev.call("visits/a") == (200, 2)


async def test_without_notices_of_the_kernel_files_are_looked_at_now_and_then(
    start_dev: StartDev, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WATCHFILES_FORCE_POLLING", "1")
    async with start_dev(PYTHON, {"counter.py": PYTHON_CODE}) as dev:
        dev.edit("counter.py", "VERSION = 1", "VERSION = 2")
        await dev.says("reloaded counter")
        assert await dev.call("counter/k/version") == (200, 2)


async def test_a_drain_in_the_middle_of_a_reload_ends_well(start_dev: StartDev) -> None:
    async with start_dev(PYTHON, {"counter.py": PYTHON_CODE}) as dev:
        assert await dev.call("counter/k/add") == (200, 1)
        (dev.folder / "counter.py").write_text(
            "import sys, time\nprint('hm', file=sys.stderr)\ntime.sleep(600)"
        )
        await until(lambda: any(event.get("text") == "hm" for event in dev.events()))
    assert not [event for event in dev.events() if event["level"] == "error"]


async def test_who_lists_a_host_that_was_refused_need_not_start_again(start_dev: StartDev) -> None:
    code = (Path(__file__).parent.parent / "functions" / "obedient.py").read_text()
    config = function("asks", sys.executable, "asks.py")
    async with outside(says(answer(201))) as server, start_dev(config, {"asks.py": code}) as dev:
        effect = {"http": {"url": f"http://127.0.0.1:{server.port}/", "reply_to": "replied"}}
        assert (await dev.call("asks/k", {"do": [effect]}))[0] == 200
        with trio.fail_after(PATIENCE_S):
            while (refused := await replies(dev)) == []:  # noqa: ASYNC110
                await trio.sleep(0.02)
        assert refused[0]["error"]["code"] == "http_refused"
        allow = f'[http]\nallow = ["127.0.0.1:{server.port}"]\n'
        (dev.folder / "inversion.toml").write_text(config + allow)
        await dev.says("what outgoing requests go by changed")
        assert (await dev.call("asks/k", {"do": [effect]}))[0] == 200
        with trio.fail_after(PATIENCE_S):
            while len(said := await replies(dev)) < 2:  # noqa: ASYNC110
                await trio.sleep(0.02)
        assert said[1]["response"]["status"] == 201
        assert not any("restart" in str(event["event"]) for event in dev.events())


async def replies(dev: Dev) -> list[dict[str, Any]]:
    """What came to the handler of the function `asks`."""
    with trio.fail_after(PATIENCE_S):
        client = await dev.connect()
        async with client.stream:
            await client.send(get(b"/v1/state/asks/k"))
            state = json.loads((await client.answer()).body)
    return [reply for reply, _ in state.get("replies", [])]
