"""The host, played by hand: one process over pipes, no database and nothing of the package's host.

`async with playing(command) as runtime:` starts it, leaving the block ends it. Each wait has a limit. Every
frame that it reads must be one by the JSON Schemas; what its effects hold is the host's to check.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import trio

from frame_schemas import faults, kind_of, without_effects

RUNTIMES = Path(__file__).resolve().parents[2] / "runtimes"
WAIT_S = 10.0
ABSENT = object()

CTX = {
    "attempt": 1,
    "now": "2026-11-24T02:11:00.000Z",
    "deadline": "2026-11-24T02:11:30.000Z",
    "seed": "9f3a",
    "meta": {},
}


def message_in(
    id: str, handler: str, message: object = None, state: object = ABSENT, *, key: str | None = "k"
) -> dict[str, Any]:
    ctx: dict[str, Any] = {"function": "f", **CTX, "handler": handler}
    if key is not None:
        ctx |= {"key": key, "version": 7}
    frame = {"id": id, "ctx": ctx, "message": message}
    return frame if state is ABSENT else {**frame, "state": state}


def turn_in(id: str, members: Sequence[tuple[str, object]], state: object = ABSENT) -> dict[str, Any]:
    """A frame of several messages: (handler, message) each."""
    messages = [
        {"id": f"{id}-{number}", **CTX, "handler": handler, "message": message}
        for number, (handler, message) in enumerate(members)
    ]
    frame = {"id": id, "ctx": {"function": "f", "key": "k", "version": 7}, "messages": messages}
    return frame if state is ABSENT else {**frame, "state": state}


class HandHost:
    def __init__(self, process: trio.Process) -> None:
        self._process = process
        self._log = b""
        self._log_grew, self._log_is_over = trio.Event(), trio.Event()
        self._held = b""
        self._next = 0

    async def ask(
        self, handler: str, message: object = None, state: object = ABSENT, *, key: str | None = "k"
    ) -> dict[str, Any]:
        """Send one message and wait for its answer, which must carry its id; the id is taken off."""
        self._next += 1
        id = f"m{self._next}.1"
        await self.send(message_in(id, handler, message, state, key=key))
        answer = await self.frame()
        assert answer.pop("id") == id
        return answer

    async def send(self, *frames: Mapping[str, Any]) -> None:
        await self.write(b"".join(json.dumps(frame, ensure_ascii=False).encode() + b"\n" for frame in frames))

    async def write(self, data: bytes) -> None:
        assert self._process.stdin is not None
        with trio.fail_after(WAIT_S):
            await self._process.stdin.send_all(data)

    async def line(self) -> bytes:
        """The next line of its stdout without the newline; b"" when it is over."""
        assert self._process.stdout is not None
        with trio.fail_after(WAIT_S):
            while b"\n" not in self._held:
                data = await self._process.stdout.receive_some(1 << 18)
                if not data:
                    assert self._held == b"", "its last line is torn"
                    return b""
                self._held += data
        line, _, self._held = self._held.partition(b"\n")
        return line

    async def frame(self) -> dict[str, Any]:
        line = await self.line()
        assert line, f"its output is over; it said: {self.log()}"
        frame = json.loads(line)
        assert isinstance(frame, dict), line
        if frame.keys() & {"id", "hello"}:  # a program of correlate = "order" writes none
            assert faults(kind_of(frame), without_effects(frame)) == [], line[:1_000]
        return frame

    async def hello(self) -> dict[str, Any]:
        frame = await self.frame()
        hello = frame["hello"]
        assert isinstance(hello, dict)
        return hello

    async def close_stdin(self) -> None:
        assert self._process.stdin is not None
        await self._process.stdin.aclose()

    async def leave(self) -> int:
        """Close its stdin and wait for its exit status; what it still printed is an error."""
        await self.close_stdin()
        assert await self.line() == b""
        return await self.exit_status()

    async def leader_status(self) -> int:
        """The exit status of the process itself; what it started may still hold its pipes."""
        with trio.fail_after(WAIT_S):
            return await self._process.wait()

    async def exit_status(self) -> int:
        """The same, once its stderr is over too."""
        with trio.fail_after(WAIT_S):
            await self._log_is_over.wait()
            return await self._process.wait()

    def log(self) -> str:
        """What it has written to stderr so far; all of it once `exit_status` was awaited."""
        return self._log.decode()

    async def logged(self, text: str) -> None:
        """Wait until `text` stands in its stderr."""
        with trio.fail_after(WAIT_S):
            while text not in self.log():
                await self._log_grew.wait()

    async def drain_log(self) -> None:
        assert self._process.stderr is not None
        with suppress(trio.ClosedResourceError):
            async for data in self._process.stderr:
                self._log += data
                self._log_grew.set()
                self._log_grew = trio.Event()
        self._log_is_over.set()


@asynccontextmanager
async def playing(command: Sequence[str], folder: Path = RUNTIMES) -> AsyncIterator[HandHost]:
    process = await trio.lowlevel.open_process(
        list(command),
        cwd=folder,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )
    host = HandHost(process)
    trio.lowlevel.spawn_system_task(host.drain_log)
    try:
        yield host
    finally:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        with trio.CancelScope(shield=True), trio.move_on_after(WAIT_S):
            await process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                assert stream is not None
                await stream.aclose()
