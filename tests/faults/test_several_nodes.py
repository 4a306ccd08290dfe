"""S3, S4, S5: two nodes on one database. One stops, both want one entity, one is cut off from the database.

The other goes on with the same keys, nothing is applied twice or lost, and nobody hears 200 of what did not
land.
"""

from __future__ import annotations

import os
import re
import secrets
import signal
import subprocess
import uuid
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, suppress
from pathlib import Path
from time import perf_counter

import attrs
import pytest
import trio
from front_door import Answer, post
from ledger import Ledger
from psycopg.conninfo import make_conninfo
from wire_proxy import wire_proxy

from fix_command import RunningCommand, StartCommand, for_serve
from fix_matrix import Row
from fix_outage import JOURNAL, ListeningServer, stopped
from fix_postgres import run_apart
from inversion.state.migrate import migrate

KEYS = ("k0", "k1", "k2", "k3", "k4", "k5")
ALL_KEYS = {"hot", *KEYS}
#: In CI longer than a statement (10 s) and its reply (15 s) may take, in a long run twice that.
STOPPED_S, LONG_STOPPED_S = 16.0, 30.0
#: So soon the other node has changed every key after the cut.
TAKEOVER_S = 10.0
CUT_OFF_TIMEOUT_S = 3
#: What was under way in the kernel at the cut has arrived.
SETTLED_S = 1.0
#: How much later than its deadline an answer may be, on a busy machine.
LATE_S = 5.0
#: The function's own limit is not what is tested.
TOML = JOURNAL.replace("\nenv", '\ntimeout = "2m"\nenv')

Serve = Callable[..., AbstractContextManager[RunningCommand]]


@pytest.fixture
def serve(short_folder: Path, start_command: StartCommand) -> Serve:
    """`serve(url, *flags)`: a node of its own process and folder. `runs`: a file, see journal.py."""

    def start(
        url: str, *flags: str, runs: Path | None = None, program: tuple[str, ...] = ("-m", "inversion")
    ) -> AbstractContextManager[RunningCommand]:
        folder = short_folder / uuid.uuid4().hex[:8]
        folder.mkdir()
        toml = TOML if runs is None else TOML.replace("env = {", f'env = {{ RUNS = "{runs}",')
        (folder / "inversion.toml").write_text(for_serve(toml))
        return start_command("serve", "--config", folder, "--database-url", url, *flags, program=program)

    return start


async def counted(node: RunningCommand, metric: str) -> int:
    page = (await node.admin("/metrics")).body.decode()
    found = re.search(rf"^{re.escape(metric)} (\d+)", page, re.MULTILINE)
    return int(found[1]) if found else 0


@pytest.mark.fault("S3", "SIGSTOP of one of two nodes under load at the same keys, and SIGCONT later")
@pytest.mark.timeout(60 * 60)
async def test_a_node_that_was_stopped_does_no_harm_when_it_goes_on(
    serve: Serve, database_url: str, row: Row
) -> None:
    ledger = Ledger()
    stop_s = STOPPED_S if row.times == 1 else LONG_STOPPED_S
    with serve(database_url) as one, serve(database_url) as two, trio.fail_after(120 * row.times):
        async with (
            ledger.load(one.url, keys=KEYS, keyed=True),
            ledger.load(two.url, keys=KEYS),
            ledger.load(one.url, keys=KEYS),
        ):
            await ledger.more(100)
            for number in range(row.times):
                await stop_for(stop_s, one, two, ledger, f"s{number}", row)
                await ledger.more(50)
    assert set(ledger.told()) <= {"ok", "deadline", "contended", "database_unavailable"}, ledger.told()
    ledger.check(database_url)
    ledger.check_order()


async def stop_for(
    stop_s: float, one: RunningCommand, two: RunningCommand, ledger: Ledger, key: str, row: Row
) -> None:
    """Stop `one` while it has a keyed call in a function; the caller asks `two` the same meanwhile."""
    lines = b"Idempotency-Key: " + key.encode(), b"Inversion-Timeout: 110s"
    answers: list[Answer] = []

    async def call(node: RunningCommand) -> None:
        client = await node.connect(node.url)
        async with client.stream:
            await client.send(slow_call(key, *lines))
            answers.append(await client.answer())

    async with trio.open_nursery() as nursery:
        metric = 'inversion_function_stderr_lines_total{function="slow"}'
        before = await counted(one, metric)
        nursery.start_soon(call, one)
        with trio.fail_after(30):
            while await counted(one, metric) == before:  # noqa: ASYNC110 (another process)
                await trio.sleep(0.01)
        os.kill(one.process.pid, signal.SIGSTOP)
        begun_s = perf_counter()
        try:
            while not stopped(one.process.pid):  # noqa: ASYNC110 (another process)
                await trio.sleep(0.005)
            row.fired(f"stopped for {stop_s:g} s, {len(ledger.unanswered())} calls under way")
            await call(two)
            await ledger.until(lambda: {e.key for e in ledger.good(two.url, begun_s)} == ALL_KEYS)
            await trio.sleep(max(0.0, begun_s + stop_s - perf_counter()))
        finally:
            os.kill(one.process.pid, signal.SIGCONT)
        continued_s = perf_counter()
        await ledger.until(lambda: {e.key for e in ledger.good(one.url, continued_s)} == ALL_KEYS, 60)
        row.recovered()
    first, second = answers
    assert (first.status, second.status) == (200, 200), (first.body, second.body)
    assert (second.body, second.fields["etag"]) == (first.body, first.fields["etag"])
    assert second.fields["inversion-replayed"] == "true", "the stopped node's turn lost, and looked"


def slow_call(key: str, *lines: bytes) -> bytes:
    return post(f"/v1/call/slow/{key}/add_slowly".encode(), b'{"token":"once","s":1.0}', *lines)


@pytest.mark.fault("S4", "two nodes with 16 clients each at one entity")
@pytest.mark.timeout(60 * 20)
async def test_two_nodes_that_race_for_one_entity_both_get_on_and_keep_its_order(
    serve: Serve, database_url: str, short_folder: Path, row: Row
) -> None:
    ledger = Ledger()
    runs = short_folder / f"runs-{uuid.uuid4().hex[:8]}"
    with (
        serve(database_url, runs=runs) as one,
        serve(database_url, runs=runs) as two,
        trio.fail_after(60 * row.times),
    ):
        for _ in range(row.times):
            async with (
                ledger.load(one.url, keys=(), hot=16),
                ledger.load(two.url, keys=(), hot=16),
            ):
                for _stretch in range(5):
                    since_s = perf_counter()
                    for node in (one, two):
                        await ledger.until(lambda node=node, s=since_s: len(ledger.good(node.url, s)) >= 16)
            lost = await counted(one, "inversion_conflicts_total")
            lost += await counted(two, "inversion_conflicts_total")
            longest = max(Counter(runs.read_text().split()).values()) - 1
            assert lost > 0, "they never met"
            row.fired(f"{lost} turns lost of {ledger.acknowledged} calls, at most {longest} in a row")
    assert set(ledger.told()) == {"ok"}, ledger.told()
    ledger.check(database_url)
    ledger.check_order()


@attrs.frozen
class Way:
    """From a node to the database, and from the test to the node."""

    namespace: str
    database_host: str
    node_database_host: str  #: where the node's connections to the database come from
    node_host: str  #: where the test asks the node: another address, which stays

    def cut(self, *, requests: bool) -> None:
        """What goes to the node is lost; with `requests` what it sends as well."""
        ip("route", "add", "blackhole", f"{self.node_database_host}/32")
        if requests:
            ip("-n", self.namespace, "route", "add", "blackhole", f"{self.database_host}/32")

    def heal(self) -> None:
        for at, host in ((), self.node_database_host), (("-n", self.namespace), self.database_host):
            with suppress(subprocess.CalledProcessError):
                ip(*at, "route", "del", "blackhole", f"{host}/32")

    @property
    def program(self) -> tuple[str, ...]:
        """What Python is to run for `inversion` to run in the namespace, under the same pid."""
        arguments = (
            f"['ip', 'netns', 'exec', {self.namespace!r}, sys.executable, '-m', 'inversion', *sys.argv[1:]]"
        )
        return "-c", f"import os, sys; os.execvp('ip', {arguments})"


def ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True, timeout=20)


@pytest.fixture
def way() -> Iterator[Way]:
    """A network namespace with two addresses, and the two beside it in ours."""
    name = f"inv{secrets.token_hex(4)}"
    third = secrets.randbelow(256)
    hosts = [f"198.{second}.{third}.{last}" for second in (18, 19) for last in (1, 2)]
    try:
        ip("netns", "add", name)
        ip("link", "add", name, "type", "veth", "peer", "name", "inner", "netns", name)
    except (OSError, subprocess.CalledProcessError):
        with suppress(OSError, subprocess.CalledProcessError):
            ip("netns", "del", name)
        pytest.skip("needs iproute2, and root to make a network namespace")
    try:
        for host in hosts[::2]:
            ip("address", "add", f"{host}/24", "dev", name)
        for host in hosts[1::2]:
            ip("-n", name, "address", "add", f"{host}/24", "dev", "inner")
        ip("link", "set", name, "up")
        ip("-n", name, "link", "set", "inner", "up")
        ip("-n", name, "link", "set", "lo", "up")
        made = Way(name, hosts[0], hosts[1], hosts[3])
        yield made
        made.heal()
    finally:
        ip("netns", "del", name)  # and the link with it


@pytest.mark.parametrize("requests", [True, False], ids=["both ways", "replies only"])
@pytest.mark.fault(
    "S5", "blackhole routes between a network namespace, with one of two nodes in it, and PostgreSQL"
)
@pytest.mark.timeout(60 * 20)
async def test_a_node_that_a_network_cuts_off_says_so_and_the_other_goes_on(
    way: Way, listening_server: ListeningServer, serve: Serve, requests: bool, row: Row
) -> None:
    with listening_server(way.database_host) as server:
        run_apart(migrate, server.url)
        url = make_conninfo(server.url, host=way.database_host)
        with serve(url, "--host", "0.0.0.0", program=way.program) as one, serve(server.url) as two:
            one.url = one.url.replace("0.0.0.0", way.node_host)
            await cut_off(one, two, lambda: way.cut(requests=requests), way.heal, server.url, row)


@pytest.mark.fault(
    "S5", "a proxy between one of two nodes and PostgreSQL falls silent, and later speaks again"
)
@pytest.mark.timeout(60 * 20)
async def test_a_node_whose_database_falls_silent_says_so_and_the_other_goes_on(
    serve: Serve, database_url: str, row: Row
) -> None:
    async with wire_proxy(database_url) as proxy:
        with ExitStack() as ending:  # the proxy has to run while a node starts
            one = await trio.to_thread.run_sync(ending.enter_context, serve(proxy.url))
            two = ending.enter_context(serve(database_url))
            await cut_off(one, two, proxy.shut, proxy.wake, database_url, row)


async def cut_off(
    one: RunningCommand,
    two: RunningCommand,
    cut: Callable[[], None],
    heal: Callable[[], None],
    database_url: str,
    row: Row,
) -> None:
    """Cut `one` off under load, until it has said so and `two` has changed every key, and heal it."""
    ledger = Ledger()
    short = b"Inversion-Timeout: %ds" % CUT_OFF_TIMEOUT_S
    with trio.fail_after(120 * row.times):
        async with ledger.load(one.url, short, keys=KEYS), ledger.load(two.url, keys=KEYS):
            await ledger.more(100)
            for _ in range(row.times):
                begun_s = perf_counter()
                cut()
                row.fired(f"cut off with {len(ledger.unanswered())} calls under way")
                await ledger.until(lambda s=begun_s: {e.key for e in ledger.good(two.url, s)} == ALL_KEYS)
                assert row.recovered() < TAKEOVER_S
                await ledger.until(
                    lambda s=begun_s: told_since(ledger, one.url, s)["database_unavailable"] > 0
                )
                assert not ledger.good(one.url, begun_s + SETTLED_S), "it was not cut off"
                heal()
                healed_s = perf_counter()
                await ledger.until(lambda s=healed_s: {e.key for e in ledger.good(one.url, s)} == ALL_KEYS)
    assert set(ledger.told()) <= {"ok", "contended", "database_unavailable", "deadline"}, ledger.told()
    late_s = max(e.answered_s - e.sent_s for e in ledger.entries if e.url == one.url)
    assert late_s < CUT_OFF_TIMEOUT_S + LATE_S
    ledger.check(database_url)
    ledger.check_order()


def told_since(ledger: Ledger, url: str, since_s: float) -> Counter[str]:
    """What a node said to calls that were sent after a moment."""
    return Counter(e.code for e in ledger.entries if e.url == url and e.sent_s > since_s and e.answered_s)
