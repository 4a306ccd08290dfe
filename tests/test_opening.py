"""What goes wrong at start, as a person is told of it."""

from __future__ import annotations

import trio

from inversion.opening import StartError, start_error


async def group_of(failure: Exception, *, cancelled: bool) -> BaseExceptionGroup[BaseException]:
    """What a nursery makes of a failure in it."""
    with trio.CancelScope() as scope:
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.sleep_forever)
                if cancelled:
                    scope.cancel()
                    await trio.lowlevel.cancel_shielded_checkpoint()
                raise failure
        except BaseExceptionGroup as group:
            return group
    raise AssertionError("it raised nothing")


async def test_a_start_that_fails_while_it_is_cancelled_is_told_of_all_the_same() -> None:
    for cancelled in (False, True):
        group = await group_of(StartError("no database"), cancelled=cancelled)
        assert (group.split(trio.Cancelled)[0] is not None) == cancelled
        assert str(start_error(group)) == "no database"


async def test_a_bug_at_start_is_no_sentence_for_people() -> None:
    assert start_error(await group_of(KeyError("x"), cancelled=False)) is None
