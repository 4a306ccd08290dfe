"""Unknown outcomes: found out, never guessed."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from proxy import through_proxy
from walking import a_store, commit, load, put, putting, read, running, turn_of, walk

from inversion.errors import Conflict, InversionError, Outcome
from inversion.state.resolver import Finding, decide

T, P, X, Y = (bytes([letter]) * 16 for letter in b"TPXY")


@pytest.mark.parametrize(
    ("replaced", "returned", "row", "finding"),
    [
        (P, True, None, Finding.APPLIED),
        (P, False, (T, P), Finding.APPLIED),
        (P, False, (X, T), Finding.APPLIED),
        (P, False, (X, P), Finding.NEVER_LANDS),
        (P, False, (P, Y), Finding.SEND_AGAIN),
        (P, False, (X, Y), Finding.UNKNOWN),
        (P, False, None, Finding.UNKNOWN),
        (None, False, None, Finding.SEND_AGAIN),
        (None, False, (T, None), Finding.APPLIED),
        (None, False, (X, T), Finding.APPLIED),
        (None, False, (X, None), Finding.NEVER_LANDS),
        (None, False, (X, Y), Finding.UNKNOWN),
    ],
)
def test_what_is_found_decides_what_is_said(
    replaced: bytes | None, returned: bool, row: tuple[bytes, bytes | None] | None, finding: Finding
) -> None:
    assert decide(T, replaced, returned=returned, row=row) is finding


@pytest.mark.parametrize(
    ("replaced", "row", "record", "finding"),
    [
        (P, (T, P), T, Finding.APPLIED),
        (P, (X, Y), T, Finding.APPLIED),  # moved on by two or more, and its record stays
        (P, (X, P), X, Finding.NEVER_LANDS),
        (P, (X, Y), X, Finding.NEVER_LANDS),
        (P, (X, Y), None, Finding.NEVER_LANDS),  # it would have left a record
        (P, None, None, Finding.NEVER_LANDS),
        (P, (P, Y), None, Finding.SEND_AGAIN),
        (None, (X, Y), None, Finding.NEVER_LANDS),
        (None, None, None, Finding.SEND_AGAIN),
        (None, None, X, Finding.NEVER_LANDS),  # a stateless call: another's answer was first
        (None, None, T, Finding.APPLIED),
    ],
)
def test_with_a_key_the_record_tells_what_the_entity_no_longer_does(
    replaced: bytes | None, row: tuple[bytes, bytes | None] | None, record: bytes | None, finding: Finding
) -> None:
    assert decide(T, replaced, returned=False, row=row, keyed=True, record=record) is finding


@pytest.mark.parametrize(
    ("replaced", "row", "outrun", "finding"),
    [
        (P, (T, P), True, Finding.APPLIED),  # gone by this turn itself
        (P, (X, T), True, Finding.APPLIED),
        (P, (X, P), False, Finding.NEVER_LANDS),
        (P, (X, Y), False, Finding.NEVER_LANDS),  # moved on, and its message still there: deliver again
        (P, (X, Y), True, Finding.UNKNOWN),  # gone, by this turn or by another: done
        (P, (P, Y), False, Finding.SEND_AGAIN),
        (P, (P, Y), True, Finding.NEVER_LANDS),
        (None, None, False, Finding.SEND_AGAIN),
        (None, None, True, Finding.UNKNOWN),  # of no entity
    ],
)
def test_what_a_turn_consumes_tells_whether_it_may_still_land(
    replaced: bytes | None, row: tuple[bytes, bytes | None] | None, outrun: bool, finding: Finding
) -> None:
    assert decide(T, replaced, returned=False, row=row, consumes=True, outrun=outrun) is finding


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("lost", ["request", "reply"])
async def test_a_commit_whose_connection_breaks_is_applied_exactly_once(
    database_url: str, socket_folder: Path, lost: str, new: bool
) -> None:
    async with through_proxy(database_url, socket_folder) as (store, proxy):
        if not new:
            await put(store, "k", b"0")
        setattr(proxy, f"lose_{lost}", True)
        before = await load(store, "k")
        stored = await put(store, "k", b"1")
        assert proxy.cuts == 1
        assert stored.versions == [before.version + 1]
        found = await read(store, "k")
        assert (found.value, found.version) == (b"1", before.version + 1)
        assert store.doubtful == 0
        assert (await put(store, "k", b"2")).versions == [before.version + 2]


@pytest.mark.parametrize("new", [True, False])
async def test_a_request_that_arrives_after_all_was_resolved_changes_nothing(
    database_url: str, socket_folder: Path, new: bool
) -> None:
    async with through_proxy(database_url, socket_folder) as (store, proxy):
        if not new:
            await put(store, "k", b"0")
        proxy.delay_request = True
        version = (await put(store, "k", b"1")).versions[0]
        assert version is not None
        await put(store, "k", b"2")
        await proxy.release()
        found = await read(store, "k")
        assert (found.value, found.version) == (b"2", version + 1)


@pytest.mark.parametrize(("others", "error"), [(1, Conflict), (2, InversionError)])
async def test_a_lost_commit_of_an_entity_that_moved_on_is_told_apart_or_called_unknown(
    database_url: str, socket_folder: Path, others: int, error: type[InversionError]
) -> None:
    async with (
        through_proxy(database_url, socket_folder) as (store, proxy),
        running(a_store(database_url)) as other,
    ):
        await put(store, "k", b"0")
        state = await load(store, "k")
        proxy.lose_request = True
        outcome: list[InversionError] = []

        async def lost_commit() -> None:
            with pytest.raises(InversionError) as raised:
                await commit(store, "k", state, putting(b"lost"))
            outcome.append(raised.value)

        async with trio.open_nursery() as nursery:
            for n in range(others):
                await put(other, "k", b"%d" % n)
            nursery.start_soon(lost_commit)
        assert proxy.cuts == 1
        assert type(outcome[0]) is error
        assert outcome[0].outcome is (Outcome.NOT_APPLIED if others == 1 else Outcome.UNKNOWN)
        assert (await read(store, "k")).value == b"%d" % (others - 1)


async def test_an_unknown_outcome_is_let_go_when_nobody_waits_for_it(
    database_url: str, socket_folder: Path
) -> None:
    async with through_proxy(database_url, socket_folder) as (store, proxy):
        state = await load(store, "k")
        turn = turn_of("k")
        proxy.lose_request = True
        outcome: list[InversionError] = []

        async def lost_commit() -> None:
            with pytest.raises(InversionError) as raised:
                await walk(lambda: store.store_state(turn, state, putting(b"1")))
            outcome.append(raised.value)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(lost_commit)
            with trio.fail_after(5):
                await proxy.happened.wait()
                proxy.silent = True  # nothing can be resolved now
                while not store.doubtful:
                    await trio.lowlevel.checkpoint()
            assert turn.commit_sent
            turn.requests[0].answered = True  # the node's sweep said 504 `unknown`
            store.sweep(0.0)
        assert outcome[0].outcome is Outcome.UNKNOWN
        assert store.doubtful == 0
