import pytest
import trio

from inversion.gate import Gate, Walk


def walked(coroutine):
    ends = []
    walk = Walk(coroutine, ends.append)
    walk.start()
    return walk, ends


def test_a_coroutine_that_never_waits_ends_at_once():
    async def turn():
        pass

    _, ends = walked(turn())
    assert ends == [None]


def test_a_parked_walk_goes_on_with_the_gatherers_result():
    gate = Gate()
    seen = []

    async def turn():
        seen.append(await gate.wait("item"))

    walk, ends = walked(turn())
    assert [parked.item for parked in gate.waiting] == ["item"]
    assert ends == []
    (taken,) = gate.take(10)
    assert taken is walk
    taken.resume("result")
    assert (seen, ends) == (["result"], [None])


def test_a_thrown_error_is_raised_where_the_coroutine_waits():
    gate = Gate()
    caught = []

    async def turn():
        try:
            await gate.wait(1)
        except KeyError as error:
            caught.append(error)
            raise

    _, ends = walked(turn())
    boom = KeyError("boom")
    gate.take(1)[0].throw(boom)
    assert caught == [boom]
    assert ends == [boom]


def test_awaiting_trio_inside_a_turn_fails_loudly():
    async def turn():
        await trio.lowlevel.cancel_shielded_checkpoint()

    _, ends = walked(turn())
    assert isinstance(ends[0], RuntimeError)
    assert "only await a gate" in str(ends[0])


async def test_a_gatherer_takes_everything_that_parked_before_it_ran():
    gate = Gate()
    batches = []

    async def gatherer():
        batch = await gate.gather(10)
        batches.append([walk.item for walk in batch])
        for walk in batch:
            walk.resume(None)

    async def turn(n):
        await gate.wait(n)

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(gatherer)
            await trio.testing.wait_all_tasks_blocked()
            ends = [walked(turn(n))[1] for n in range(5)]
    assert batches == [[0, 1, 2, 3, 4]]
    assert ends == [[None]] * 5


async def test_what_one_gatherer_leaves_the_next_one_takes():
    gate = Gate()
    batches = []

    async def gatherer():
        batches.append(len(await gate.gather(3)))

    async def turn():
        await gate.wait(None)

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(gatherer)
            nursery.start_soon(gatherer)
            await trio.testing.wait_all_tasks_blocked()
            walks = [walked(turn()) for _ in range(5)]
    assert sorted(batches) == [2, 3]
    for walk, _ in walks:
        walk.throw(RuntimeError("over"))


def test_withdraw_throws_only_into_what_is_gone():
    gate = Gate()
    ends = []
    for n in range(4):

        async def turn(n=n):
            await gate.wait(n)

        ends.append(walked(turn())[1])
    gate.withdraw(lambda n: n % 2 == 0, lambda: LookupError("gone"))
    assert [bool(end) for end in ends] == [True, False, True, False]
    assert [walk.item for walk in gate.waiting] == [1, 3]
    for walk in gate.take(10):
        walk.resume(None)


@pytest.fixture(autouse=True)
def _trio_testing():
    import trio.testing  # noqa: F401  (trio imports it lazily)
