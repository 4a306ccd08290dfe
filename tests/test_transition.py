"""A turn walked with plain values."""

import pytest

from inversion import transition as line
from inversion.errors import Abandoned, FunctionError, RetryAsked
from inversion.gate import Gate, Walk
from inversion.messages import Answer, Change, MessageOut, Step
from plain import PlainRuntime, PlainStore, a_request, a_turn, got


def walk(turn, store, runtime):
    ends = []
    Walk(line.transition(turn, store, runtime), ends.append).start()
    (error,) = ends
    return error


def test_a_turn_takes_its_request_through_the_six_steps():
    store, runtime = PlainStore(), PlainRuntime()
    turn = a_turn(a_request())
    assert walk(turn, store, runtime) is None
    assert turn.step is Step.SEND_RESPONSE
    (message,) = runtime.seen
    assert message.state is store.state
    assert message.id == "r1.1"
    (out,) = store.commits
    assert (out.change, out.state) == (Change.PUT, b"2")
    (response,) = got["r1"]
    assert (response.body, response.version) == (b"2", 2)
    assert len(response.marks) == len(Step) - 1  # the last step ends with the answer itself
    assert response.marks == sorted(response.marks)


def test_several_requests_share_one_state_and_one_commit():
    store, runtime = PlainStore(), PlainRuntime()
    requests = [a_request(n=n) for n in (1, 2, 3)]
    runtime.outs = [
        MessageOut(
            [
                Answer(b"2", changed=True),
                Answer(error=FunctionError("no", "not now", 409, None, retry=False)),
                Answer(b"3", changed=True),
            ],
            Change.PUT,
            b"3",
        )
    ]
    assert walk(a_turn(*requests), store, runtime) is None
    assert len(store.commits) == 1
    assert [got[f"r{n}"][0].version for n in (1, 2, 3)] == [2, 2, 3]
    assert got["r2"][0].function_error.code == "no"


@pytest.mark.parametrize("step", [step.value for step in Step])
def test_each_step_that_fails_is_where_the_turn_stops(step, monkeypatch):
    boom = RuntimeError(step)

    def fail(*_):
        raise boom

    monkeypatch.setattr(line, step, fail)
    turn = a_turn(a_request())
    assert walk(turn, PlainStore(), PlainRuntime()) is boom
    assert turn.step is (Step.RECEIVE_REQUEST if step == "receive_request" else Step(step))
    assert got["r1"] == []


def test_a_turn_with_an_answered_member_is_not_sent():
    store, runtime = PlainStore(), PlainRuntime()
    request = a_request()
    request.answered = True
    assert isinstance(walk(a_turn(request), store, runtime), Abandoned)
    assert (runtime.seen, store.commits) == ([], [])


def test_a_turn_with_a_member_answered_meanwhile_is_not_stored():
    store, runtime = PlainStore(), PlainRuntime()
    runtime.gate = Gate()
    request = a_request()
    ends = []
    Walk(line.transition(a_turn(request), store, runtime), ends.append).start()
    request.answered = True
    (waiting,) = runtime.gate.take(1)
    waiting.resume(MessageOut([Answer(b"2", changed=True)], Change.PUT, b"2"))
    assert isinstance(ends[0], Abandoned)
    assert store.commits == []


def test_an_answer_that_asks_for_a_retry_discards_the_turn_three_times_and_then_stands():
    store, runtime = PlainStore(), PlainRuntime()
    request = a_request()
    error = FunctionError("busy", "again please", 500, None, retry=True)
    for _ in range(3):
        runtime.outs = [MessageOut([Answer(error=error)])]
        assert isinstance(walk(a_turn(request), store, runtime), RetryAsked)
    runtime.outs = [MessageOut([Answer(error=error)])]
    assert walk(a_turn(request), store, runtime) is None
    assert got["r1"][0].function_error is error
