"""Clients that keep a ledger, and the check of it against the rows of the database.

Every call appends a token of its own to its entity (journal.py). What was acknowledged must stand where
its ETag says, what was refused as `not_applied` must never appear, what is unknown at most once, and the
version must be the number of tokens.
"""

from __future__ import annotations

import itertools
import random
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from functools import partial
from time import perf_counter

import attrs
import orjson
import psycopg
import trio
from front_door import Answer, Client, EndOfAnswers, post


@attrs.define(eq=False)
class Entry:
    """One call: how far it came, and what its caller was told."""

    key: str
    token: str
    url: str = ""  #: of the node that was asked, where there are several
    sent_s: float = 0.0  #: from this moment it was on its way
    answered_s: float = 0.0
    answer: Answer | None = None
    torn: str = ""  #: why there is no answer
    keyed: bool = False  #: it had an Idempotency-Key
    repeats: int = 0  #: how often it was sent again, under its Idempotency-Key

    @property
    def outcome(self) -> str:
        return "unknown" if self.answer is None else self.answer.fields["inversion-outcome"]

    @property
    def code(self) -> str:
        """Of the problem; `ok` for an answer."""
        if self.answer is None:
            return "torn"
        return "ok" if self.answer.status == 200 else orjson.loads(self.answer.body)["code"]


class Ledger:
    """What the clients of one test were told."""

    def __init__(self) -> None:
        self.entries: list[Entry] = []
        self._numbers = itertools.count()

    def open_entry(self, key: str) -> Entry:
        entry = Entry(key, f"t{next(self._numbers)}")
        self.entries.append(entry)
        return entry

    @property
    def acknowledged(self) -> int:
        return sum(entry.code == "ok" for entry in self.entries)

    def told(self, since_s: float = 0.0) -> Counter[str]:
        """How often which code was the answer."""
        return Counter(entry.code for entry in self.entries if entry.answered_s > since_s)

    async def until(self, enough: Callable[[], object], timeout_s: float = 30.0) -> None:
        with trio.fail_after(timeout_s):
            while not enough():  # noqa: ASYNC110 (asks other processes)
                await trio.sleep(0.01)

    async def more(self, acknowledged: int = 50) -> None:
        """Wait until so many more calls have succeeded."""
        due = self.acknowledged + acknowledged
        await self.until(lambda: self.acknowledged >= due)

    async def success_after(self, moment_s: float) -> float:
        """Wait for the first success that came after a moment; the seconds between."""
        found: list[Entry] = []

        def look() -> list[Entry]:
            found[:] = [e for e in self.entries if e.code == "ok" and e.answered_s > moment_s]
            return found

        await self.until(look)
        return min(entry.answered_s for entry in found) - moment_s

    async def run_client(
        self, url: str, key: str, stop: trio.Event, *lines: bytes, keyed: bool = False, fresh: bool = False
    ) -> None:
        """Call after call until `stop`, on one connection as long as the server keeps it.

        `keyed`: each with an Idempotency-Key, again with the same bytes until it succeeds.
        `fresh`: each to an entity of its own.
        """
        client: Client | None = None
        entry: Entry | None = None
        try:
            while True:
                if entry is None or not keyed or entry.code == "ok":
                    if stop.is_set():
                        return
                    entry = self.open_entry(key)
                    entry.url = url
                    entry.key = f"{key}-{entry.token}" if fresh else key
                    entry.keyed = keyed
                else:
                    entry.repeats += 1
                again = (*lines, b"Idempotency-Key: " + entry.token.encode()) if keyed else lines
                try:
                    if client is None:
                        client = await connect(url)
                    target = f"/v1/call/journal/{entry.key}/add".encode()
                    entry.sent_s = perf_counter()
                    await client.stream.send_all(post(target, b'"%b"' % entry.token.encode(), *again))
                    entry.answer = await client.answer()
                except (OSError, trio.BrokenResourceError, EndOfAnswers) as error:
                    entry.torn = repr(error)
                    entry.answered_s = perf_counter()
                    return
                entry.answered_s = perf_counter()
                if entry.answer.fields.get("connection") == "close":
                    await client.aclose()
                    client = None
                if entry.answer.status != 200:
                    await trio.sleep(0.02)
        finally:
            if client is not None:
                await client.aclose()

    async def call_once(self, url: str, entry: Entry, token_bytes: int) -> None:
        """One call on a connection of its own, with a token that fills so much."""
        entry.token = (entry.token + random.randbytes(token_bytes // 2).hex())[:token_bytes]
        client = await connect(url)
        async with client.stream:
            target = f"/v1/call/journal/{entry.key}/add".encode()
            entry.sent_s = perf_counter()
            await client.send(post(target, b'"%b"' % entry.token.encode()))
            entry.answer = await client.answer()
            entry.answered_s = perf_counter()

    @asynccontextmanager
    async def load(
        self,
        url: str,
        *lines: bytes,
        keys: Iterable[str] = tuple(f"k{n}" for n in range(12)),
        hot: int = 3,
        keyed: bool = False,
        fresh: bool = False,
    ) -> AsyncIterator[None]:
        """Clients that call all the while, `hot` of them at one entity; all get their last answers."""
        stop = trio.Event()
        async with trio.open_nursery() as nursery:
            for key in ("hot",) * hot + tuple(keys):
                run = partial(self.run_client, url, key, stop, *lines, keyed=keyed, fresh=fresh)
                nursery.start_soon(run)
            yield
            stop.set()

    def unanswered(self) -> list[Entry]:
        """Those that are on their way just now."""
        return [entry for entry in self.entries if entry.sent_s > entry.answered_s]

    def good(self, url: str, since_s: float) -> list[Entry]:
        """The calls of one node that were sent after a moment and succeeded."""
        return [e for e in self.entries if e.url == url and e.sent_s > since_s and e.code == "ok"]

    def check_order(self) -> None:
        """No version was answered before a lower one had been asked for."""
        versions: dict[str, list[tuple[int, Entry]]] = {}
        for entry in self.entries:
            if entry.code == "ok" and entry.answer is not None:
                version = int(entry.answer.fields["etag"].strip('"'))
                versions.setdefault(entry.key, []).append((version, entry))
        for found in versions.values():
            first_s = float("inf")
            for version, entry in sorted(found, key=lambda one: -one[0]):
                assert entry.sent_s < first_s, f"version {version} was overtaken in real time: {entry}"
                first_s = min(first_s, entry.answered_s)

    def check(self, database_url: str) -> None:
        """Compare with the rows. Call it when every client has ended."""
        with psycopg.connect(database_url, autocommit=True) as connection:
            rows = connection.execute(
                "SELECT key, version, state FROM inversion.entity WHERE function = 'journal'"
            ).fetchall()
        tokens: dict[str, list[str]] = {}
        for key, version, state in rows:
            found = orjson.loads(state)["tokens"]
            assert len(found) == version, f"{key} has version {version} and {len(found)} tokens"
            assert len(set(found)) == version, f"{key}: a call was applied twice"
            tokens[key] = found
        foreign = {token for found in tokens.values() for token in found}
        for entry in self.entries:
            applied = tokens.get(entry.key, [])
            foreign.discard(entry.token)
            if entry.code == "ok":
                assert entry.answer is not None
                version = int(entry.answer.fields["etag"].strip('"'))
                assert entry.outcome == "applied"
                assert applied[version - 1 : version] == [entry.token], f"acknowledged and lost: {entry}"
            elif entry.outcome == "not_applied":
                assert entry.token not in applied, f"`not_applied`, and there it is: {entry}"
            else:
                assert entry.outcome == "unknown", entry
        assert not foreign, "tokens that nobody sent"


async def connect(url: str) -> Client:
    host, _, port = url.removeprefix("http://").rpartition(":")
    return Client(await trio.open_tcp_stream(host, int(port)))
