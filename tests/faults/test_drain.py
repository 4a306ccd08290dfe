"""S2: a signal under load. What was begun is answered, what comes is refused in words, nobody is cut off."""

from __future__ import annotations

import os
import signal
from pathlib import Path
from time import perf_counter

import orjson
import pytest
import trio
from front_door import Answer, Client, post
from ledger import Ledger, connect

from fix_command import RunningCommand, StartCommand, for_serve
from fix_matrix import Row
from fix_outage import JOURNAL


async def until_draining(command: RunningCommand, timeout_s: float = 20.0) -> Answer:
    """Ask the admin port, which goes on to answer, until it says not ready."""
    with trio.fail_after(timeout_s):
        while (answer := await command.admin("/readyz")).status == 200:  # noqa: ASYNC110 (another process)
            await trio.sleep(0.005)
    return answer


async def ended(command: RunningCommand, timeout_s: float) -> int:
    with trio.fail_after(timeout_s):
        while command.process.poll() is None:  # noqa: ASYNC110 (another process)
            await trio.sleep(0.01)
    return command.process.returncode


@pytest.mark.fault("S2", "SIGTERM under load: calls in functions, half a body on its way, idle connections")
async def test_a_drain_answers_what_was_begun_and_refuses_the_rest_in_words(
    journal_folder: Path, database_url: str, start_command: StartCommand, row: Row
) -> None:
    ledger = Ledger()
    for _ in range(row.times):
        begun = len(ledger.entries)
        serve = ("serve", "--config", journal_folder, "--database-url", database_url)
        with start_command(*serve) as command, trio.fail_after(50):
            url = command.url
            slow: list[Answer] = []

            async def call_slowly(client: Client, token: str, answers: list[Answer] = slow) -> None:
                body = orjson.dumps({"token": token, "s": 1.0})
                await client.send(post(f"/v1/call/slow/{token}/add_slowly".encode(), body))
                answers.append(await client.answer())
                await client.aclose()

            async with trio.open_nursery() as nursery:
                # Half a body: `100 Continue` shows that the head was read.
                half = await connect(url)
                target = b"/v1/call/slow/half"
                raw = post(target, b'"t-half"', b"Expect: 100-continue")
                await half.send(raw[:-8])
                assert (await half.answer()).status == 100
                # Idle: it has had an answer before.
                idle = await connect(url)
                await idle.send(post(b"/v1/call/slow/idle", b'"t-idle"'))
                assert (await idle.answer()).status == 200
                async with ledger.load(url):
                    await ledger.more(200)
                    for n in range(2):
                        nursery.start_soon(call_slowly, await connect(url), f"slow{n}")
                    await until_begun(command, 2)  # with a process each
                    signalled_s = perf_counter()
                    command.process.send_signal(signal.SIGTERM)
                    ready = await until_draining(command)
                    assert orjson.loads(ready.body)["reasons"] == ["draining"]
                    row.fired("readiness is 503")
                    new = await connect(url)
                    for client, name in ((idle, b"idle"), (new, b"new")):
                        await client.send(post(b"/v1/call/slow/" + name, b'"late"'))
                        refused = await client.answer()
                        assert (refused.status, refused.fields["connection"]) == (503, "close")
                        assert refused.fields["inversion-outcome"] == "not_applied"
                        assert orjson.loads(refused.body)["code"] == "draining"
                        assert await client.at_end()
                        await client.aclose()
                    await half.send(raw[-8:])
                    answer = await half.answer()
                    assert (answer.status, answer.fields["connection"]) == (200, "close")
                    await half.aclose()
            assert [answer.status for answer in slow] == [200, 200]
            assert await ended(command, 20) == 0
            row.recovered()
        told = ledger.told()
        assert set(told) == {"ok", "draining"}, told
        assert all(
            entry.answer.fields["connection"] == "close"
            for entry in ledger.entries
            if entry.answer is not None and entry.code == "draining"
        )
        ours = ledger.entries[begun:]
        assert all(entry.code == "ok" for entry in ours if entry.answered_s < signalled_s)
        ledger.check(database_url)


@pytest.mark.postgres
@pytest.mark.fault("S2", "SIGTERM, then a second one, while functions do not answer")
async def test_a_second_signal_ends_everything_at_once(
    journal_folder: Path, start_command: StartCommand, row: Row
) -> None:
    for _ in range(row.times):
        with start_command("dev", journal_folder, "--json") as command, trio.fail_after(50):
            client = await connect(command.url)
            await client.send(post(b"/v1/call/slow/k/add_slowly", b'{"token":"t","s":60}'))
            await until_begun(command, 1)
            family = command.tree()
            assert len(family) > 2
            command.process.send_signal(signal.SIGTERM)
            await until_draining(command)
            row.fired("readiness is 503, a call is under way")
            command.process.send_signal(signal.SIGTERM)
            family.remove(command.process.pid)  # it still puts its interpreter away
            with trio.fail_after(10):
                while any(os.path.exists(f"/proc/{pid}") for pid in family):  # noqa: ASYNC110, ASYNC240
                    await trio.sleep(0.005)
            assert row.recovered() < 2.0
            assert await ended(command, 10) == 1, "a call was not answered: that is not a success"
            await client.aclose()


@pytest.mark.fault("S2", "SIGTERM while a function does not answer until the limit of the drain has passed")
async def test_the_limit_of_a_drain_gives_up_what_is_unanswered(
    journal_folder: Path, database_url: str, start_command: StartCommand, row: Row
) -> None:
    (journal_folder / "inversion.toml").write_text(for_serve(f'{JOURNAL}\n[limits]\ndrain = "700ms"\n'))
    for _ in range(row.times):
        serve = ("serve", "--config", journal_folder, "--database-url", database_url)
        with start_command(*serve) as command, trio.fail_after(50):
            client = await connect(command.url)
            await client.send(post(b"/v1/call/slow/k/add_slowly", b'{"token":"t","s":60}'))
            await until_begun(command, 1)
            command.process.send_signal(signal.SIGTERM)
            await until_draining(command)
            row.fired("readiness is 503, a call is under way")
            answer = await client.answer()
            assert (answer.status, answer.fields["inversion-outcome"]) == (503, "not_applied")
            assert orjson.loads(answer.body)["code"] == "draining"
            assert await ended(command, 10) == 1
            row.recovered()
            await client.aclose()


async def until_begun(command: RunningCommand, count: int) -> None:
    """Until so many slow calls are in their function, which says so on its stderr."""
    line = f'inversion_function_stderr_lines_total{{function="slow"}} {count}.0'
    with trio.fail_after(20):
        while line not in (await command.admin("/metrics")).body.decode():  # noqa: ASYNC110 (another process)
            await trio.sleep(0.01)


async def test_a_client_that_says_nothing_does_not_make_a_short_drain_a_failure(
    journal_folder: Path, database_url: str, start_command: StartCommand
) -> None:
    (journal_folder / "inversion.toml").write_text(for_serve(f'{JOURNAL}\n[limits]\ndrain = "200ms"\n'))
    serve = ("serve", "--config", journal_folder, "--database-url", database_url)
    with start_command(*serve) as command, trio.fail_after(50):
        idle = await connect(command.url)
        command.process.send_signal(signal.SIGTERM)
        assert await idle.at_end()
        assert await ended(command, 10) == 0
        await idle.aclose()
