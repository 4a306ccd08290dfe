import gc
import itertools
import weakref
from time import perf_counter

import pytest

from inversion import mailbox
from inversion.config import Function, Limits, Queues
from inversion.errors import (
    Code,
    Conflict,
    FunctionError,
    Outcome,
    Overrun,
    ProcessDied,
    RequestRefused,
    RuntimeBroken,
    StoreUnavailable,
)
from inversion.gate import Gate
from inversion.mailbox import CONTESTED_S, LONGEST_YIELD_S, PostOffice
from inversion.messages import Answer, Change, MessageOut
from plain import PlainRuntime, PlainStore, a_request, got

DIED = ProcessDied(Code.FUNCTION_CRASHED, "exit status 1")


@pytest.fixture
def store():
    return PlainStore()


@pytest.fixture
def runtime():
    return PlainRuntime(batch=64)


@pytest.fixture
def failures():
    return []


@pytest.fixture
def pauses():
    """(seconds, what is called then) of every pause that was asked for."""
    return []


@pytest.fixture
def office(store, runtime, failures, pauses, tmp_path):
    function = Function(name="counter", command=("true",), folder=tmp_path)
    limits = Limits(queue=Queues(entity=3, function=5, node=6))
    return PostOffice(
        store,
        {"counter": runtime},
        {"counter": function},
        limits,
        lambda *what: failures.append(what),
        lambda *what: pauses.append(what),
    )


def out_for(message):
    return MessageOut([Answer(b"2", changed=True) for _ in message.turn.requests], Change.PUT, b"2")


def test_a_request_is_answered_and_leaves_nothing_behind(office):
    office.post(a_request())
    assert got["r1"][0].body == b"2"
    assert office.live == set()
    assert office._mailboxes == {}


def test_requests_that_wait_for_a_turn_share_the_next_one(office, runtime):
    runtime.gate = Gate()
    for n in (1, 2, 3):
        office.post(a_request(n=n))
    (first,) = runtime.gate.take(9)
    assert [request.id for request in first.item.turn.requests] == ["r1"]
    first.resume(out_for(first.item))
    (second,) = runtime.gate.take(9)
    assert [request.id for request in second.item.turn.requests] == ["r2", "r3"]
    second.resume(out_for(second.item))
    assert all(got[f"r{n}"] for n in (1, 2, 3))


def test_stateless_requests_never_wait_for_each_other(office, runtime):
    runtime.gate = Gate()
    office.post(a_request(key=None, n=1))
    office.post(a_request(key=None, n=2))
    walks = runtime.gate.take(9)
    assert len(walks) == 2
    for walk in walks:
        walk.resume(out_for(walk.item))


def test_each_full_queue_refuses_with_429_and_names_itself(office, runtime):
    runtime.gate = Gate()
    for n in range(4):  # one runs, three wait
        office.post(a_request(n=n))
    with pytest.raises(RequestRefused, match="this entity") as refusal:
        office.post(a_request(n=5))
    assert refusal.value.code is Code.QUEUE_FULL
    assert refusal.value.retry_after_s == 1
    office.post(a_request(key="other", n=6))
    with pytest.raises(RequestRefused, match="function counter"):
        office.post(a_request(key="third", n=7))
    while walks := runtime.gate.take(9):
        for walk in walks:
            walk.resume(out_for(walk.item))


def test_a_conflict_runs_the_turn_again(office, store, runtime, failures):
    store.fail["store_state"] = Conflict()
    runtime.gate = Gate()
    office.post(a_request())
    runtime.gate.take(1)[0].resume(MessageOut([Answer(b"2", changed=True)], Change.PUT, b"2"))
    assert got["r1"] == []
    store.fail.clear()
    (again,) = runtime.gate.take(1)
    assert again.item.id == "r1.2"
    again.resume(out_for(again.item))
    assert got["r1"][0].error is None
    assert len(failures) == 1


def test_a_conflict_after_the_deadline_is_contended(office, store):
    store.fail["store_state"] = Conflict()
    office.post(a_request(in_s=-1))
    assert got["r1"][0].error.code is Code.CONTENDED
    assert got["r1"][0].error.outcome is Outcome.NOT_APPLIED


def test_a_death_is_forgiven_once_and_the_second_is_the_answer(office, runtime):
    runtime.errors = [DIED, DIED]
    office.post(a_request())
    assert [message.exclusive for message in runtime.seen] == [True, True]  # the request, after the fact
    assert got["r1"][0].error is DIED


def test_after_a_death_the_members_of_a_turn_run_one_at_a_time_in_order(office, runtime):
    runtime.gate = Gate()
    for n in (1, 2, 3):
        office.post(a_request(n=n))
    first = runtime.gate.take(1)[0]
    first.resume(out_for(first.item))
    runtime.gate.take(1)[0].throw(DIED)
    order = []
    while walks := runtime.gate.take(9):
        (walk,) = walks
        order.append([request.id for request in walk.item.turn.requests])
        assert walk.item.exclusive
        walk.resume(out_for(walk.item))
    assert order == [["r2"], ["r3"]]


def test_an_overrun_of_several_runs_again_in_halves_and_alone_it_is_the_answer(office, runtime):
    overrun = Overrun(Code.RESPONSE_TOO_LARGE, "too large")
    runtime.gate = Gate()
    for n in (1, 2, 3):
        office.post(a_request(n=n))
    first = runtime.gate.take(1)[0]
    first.resume(out_for(first.item))
    runtime.gate.take(1)[0].throw(overrun)
    half = runtime.gate.take(1)[0]
    assert [request.id for request in half.item.turn.requests] == ["r2"]
    half.throw(overrun)
    assert got["r2"][0].error is overrun
    rest = runtime.gate.take(1)[0]
    rest.resume(out_for(rest.item))
    assert got["r3"][0].error is None


@pytest.mark.parametrize(
    "error",
    [
        RuntimeBroken(Code.PROTOCOL_ERROR, "wrong id"),
        RuntimeBroken(Code.NO_RUNTIME, "no such command"),
        RuntimeBroken(Code.FUNCTION_TIMEOUT, "30 s passed"),
        StoreUnavailable("refused"),
    ],
)
def test_errors_that_nothing_helps_are_the_answer(office, runtime, error):
    runtime.errors = [error]
    office.post(a_request())
    assert got["r1"][0].error is error


def test_a_bug_is_internal_names_its_step_and_says_nothing_else(office, store, failures):
    store.fail["load_state"] = ZeroDivisionError("secret")
    office.post(a_request())
    error = got["r1"][0].error
    assert error.code is Code.INTERNAL
    assert error.extra == {"step": "load_state"}
    assert "secret" not in error.detail
    assert error.outcome is Outcome.NOT_APPLIED
    assert isinstance(failures[0][1], ZeroDivisionError)


def test_a_long_queue_of_failing_turns_needs_no_deep_stack(office, store, runtime):
    runtime.batch = 1
    office.limits = Limits()
    runtime.gate = Gate()
    for n in range(1000):
        office.post(a_request(n=n))
    store.fail["load_state"] = StoreUnavailable("down")
    walk = runtime.gate.take(1)[0]
    walk.resume(out_for(walk.item))
    assert all(got[f"r{n}"] for n in range(1000))
    assert office.live == set()


def test_the_sweep_answers_what_waits_too_long_and_its_late_result_is_not_stored(office, store, runtime):
    runtime.gate = Gate()
    office.post(a_request(n=1, in_s=1))
    office.post(a_request(n=2, in_s=1))
    office.sweep(perf_counter() + 2)
    assert [got[f"r{n}"][0].error.code for n in (1, 2)] == [Code.DEADLINE, Code.DEADLINE]
    assert office.live == set()
    (walk,) = runtime.gate.take(9)
    walk.resume(out_for(walk.item))
    assert store.commits == []
    assert office._mailboxes == {}


def test_a_turn_goes_on_without_the_member_whose_deadline_passed(office, store, runtime):
    runtime.gate = Gate()
    office.post(a_request(n=1))
    office.post(a_request(n=2, in_s=1))
    office.post(a_request(n=3))
    first = runtime.gate.take(1)[0]
    first.resume(out_for(first.item))
    both = runtime.gate.take(1)[0]
    office.sweep(perf_counter() + 2)
    both.resume(out_for(both.item))
    alone = runtime.gate.take(1)[0]
    assert [request.id for request in alone.item.turn.requests] == ["r3"]
    alone.resume(out_for(alone.item))
    assert len(store.commits) == 2
    assert got["r3"][0].error is None


def test_a_retry_in_a_turn_of_several_runs_again_in_halves(office, runtime):
    runtime.gate = Gate()
    for n in (1, 2, 3):
        office.post(a_request(n=n))
    first = runtime.gate.take(1)[0]
    first.resume(out_for(first.item))
    busy = FunctionError("busy", "", 500, None, retry=True)
    runtime.gate.take(1)[0].resume(MessageOut([Answer(b"1"), Answer(error=busy)]))
    sizes = []
    while walks := runtime.gate.take(9):
        sizes.append(len(walks[0].item.turn.requests))
        walks[0].resume(out_for(walks[0].item))
    assert sizes == [1, 1]


def test_what_waited_too_long_takes_no_room_in_the_queue(office, runtime):
    runtime.gate = Gate()
    for n in range(4):
        office.post(a_request(n=n, in_s=1))
    office.sweep(perf_counter() + 2)
    for n in (5, 6, 7):
        office.post(a_request(n=n))
    while walks := runtime.gate.take(9):
        for walk in walks:
            walk.resume(out_for(walk.item))
    assert all(got[f"r{n}"][0].error is None for n in (5, 6, 7))


def test_a_caller_whose_next_request_comes_with_its_answer_waits_for_what_runs_again(office, runtime):
    runtime.gate = Gate()
    office.limits = Limits()
    requests = [a_request(n=n) for n in range(3)]
    requests[1].respond = lambda response: office.post(a_request(n=9))
    for request in requests:
        office.post(request)
    first = runtime.gate.take(1)[0]
    first.resume(out_for(first.item))
    both = runtime.gate.take(1)[0]
    requests[1].deaths = 1  # its second death is its answer; the other runs again
    both.throw(DIED)
    order = []
    while walks := runtime.gate.take(9):
        (walk,) = walks  # never two turns of one entity
        order.append([request.id for request in walk.item.turn.requests])
        walk.resume(out_for(walk.item))
    assert order == [["r2"], ["r9"]]


def test_a_caller_whose_next_request_comes_with_its_answer_is_not_counted_twice(office, runtime):
    office.limits = Limits(queue=Queues(entity=3, function=1, node=1))
    request = a_request(n=1)
    request.respond = lambda response: office.post(a_request(n=2))
    office.post(request)
    assert got["r2"][0].error is None


def test_behind_a_turn_that_waits_for_the_database_the_deadline_names_the_database(office, store, runtime):
    gate = Gate()

    async def load_state(turn):
        return await gate.wait(turn)

    store.load_state = load_state
    office.post(a_request(n=1, in_s=60))
    office.post(a_request(n=2, in_s=1))
    office.sweep(perf_counter() + 2)
    assert got["r2"][0].error.code is Code.DATABASE_UNAVAILABLE
    gate.take(1)[0].resume(store.state)
    assert got["r1"][0].error is None


def test_a_request_is_freed_by_count_as_soon_as_it_is_answered(office, runtime, store):
    gc.disable()  # a cycle would stay
    try:
        office.post(a_request())
        (message,) = runtime.seen
        gone = [weakref.ref(message.turn), weakref.ref(message.turn.requests[0])]
        del message
        for keeping in (runtime.seen, store.commits, got):
            keeping.clear()
        assert [ref() for ref in gone] == [None, None]
    finally:
        gc.enable()


def test_the_winner_of_a_contested_entity_leaves_it_alone_for_a_while(office, runtime, pauses, monkeypatch):
    clock = itertools.count(0, 0.01)
    monkeypatch.setattr(mailbox, "perf_counter", lambda: next(clock))
    runtime.errors = [Conflict()]
    office.post(a_request(n=1))
    now_s = next(clock) - 0.01
    clock = itertools.repeat(now_s)
    assert got["r1"][0].error is None
    assert len(runtime.seen) == 2
    office.post(a_request(n=2))
    assert got["r2"] == []
    ((seconds, go_on),) = pauses
    assert 0 < seconds <= LONGEST_YIELD_S
    office.post(a_request(n=3))
    assert len(pauses) == 1
    clock = itertools.repeat(now_s + 1)
    go_on()
    assert len(got["r2"]) == len(got["r3"]) == 1
    assert runtime.seen[-1].turn.looks


def test_the_loser_of_a_race_runs_again_at_once(office, runtime, pauses):
    runtime.errors = [Conflict(), Conflict(), Conflict()]
    office.post(a_request(n=1))
    assert got["r1"][0].error is None
    assert pauses == []


def test_an_entity_that_nobody_else_wants_any_more_is_contested_no_longer(office, runtime, pauses):
    runtime.errors = [Conflict()]
    office.post(a_request(n=1))
    office.sweep(perf_counter() + CONTESTED_S + 1)
    office.post(a_request(n=2))
    assert got["r2"][0].error is None
    assert pauses == []


def test_other_entities_do_not_wait_for_a_contested_one(office, runtime, pauses):
    runtime.errors = [Conflict()]
    office.post(a_request(n=1))
    office.post(a_request("other", n=2))
    assert got["r2"][0].error is None
    assert pauses == []


def test_a_stateless_call_whose_key_was_answered_before_makes_nobody_yield(office, runtime, pauses):
    runtime.errors = [Conflict()]
    office.post(a_request(None, n=1))
    office.post(a_request(None, n=2))
    assert got["r2"][0].error is None
    assert (pauses, office.contests) == ([], {})
