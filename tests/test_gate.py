import trio

from inversion.gate import Bridge, Gate, GatheredGate, Walk


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


class Loop:
    """One that passes when told."""

    def __init__(self):
        self.calls = []

    def later(self, call):
        self.calls.append(call)

    def pass_once(self):
        calls, self.calls = self.calls, []
        for call in calls:
            call()


def test_a_gatherer_takes_everything_that_parked_before_it_ran():
    loop = Loop()
    gate = GatheredGate(loop.later)
    batches = []

    async def gatherer():
        while True:
            batch = await gate.gather(10)
            batches.append([walk.item for walk in batch])
            for walk in batch:
                walk.resume(None)

    async def turn(n):
        await gate.wait(n)

    walked(gatherer())
    ends = [walked(turn(n))[1] for n in range(5)]
    assert batches == []
    loop.pass_once()
    assert batches == [[0, 1, 2, 3, 4]]
    assert ends == [[None]] * 5
    walked(turn(5))
    loop.pass_once()
    assert batches[1:] == [[5]]


def test_what_one_gatherer_leaves_the_next_one_takes():
    loop = Loop()
    gate = GatheredGate(loop.later)
    batches = []

    async def gatherer():
        batches.append(len(await gate.gather(3)))

    async def turn():
        await gate.wait(None)

    walked(gatherer())
    walked(gatherer())
    walks = [walked(turn())[0] for _ in range(5)]
    loop.pass_once()
    assert batches == [3, 2]
    for walk in walks:
        walk.throw(RuntimeError("over"))


def test_gatherers_that_are_stirred_get_nothing_and_may_wait_again():
    loop = Loop()
    gate = GatheredGate(loop.later)
    batches = []

    async def gatherer():
        while True:
            batch = await gate.gather(10)
            batches.append([walk.item for walk in batch])
            for walk in batch:
                walk.resume(None)

    async def turn():
        await gate.wait(1)

    walked(gatherer())
    gate.stir()
    assert batches == [[]]
    walked(turn())
    loop.pass_once()
    assert batches == [[], [1]]


def test_a_gatherer_that_comes_late_finds_what_waits():
    gate = GatheredGate(Loop().later)

    async def turn():
        await gate.wait(1)

    got = []

    async def gatherer():
        got.extend(await gate.gather(9))

    walked(turn())
    walked(gatherer())
    assert [walk.item for walk in got] == [1]


async def test_a_bridge_brings_back_what_a_trio_task_returns_or_raises():
    seen = []

    async def in_trio(n):
        await trio.lowlevel.checkpoint()
        if n < 0:
            raise ValueError(n)
        return n * 2

    async def turn(bridge):
        seen.append(await bridge.run(in_trio, 21))
        await bridge.run(in_trio, -1)

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            _, ends = walked(turn(Bridge(nursery)))
    assert seen == [42]
    assert isinstance(ends[0], ValueError)


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
