from time import perf_counter

import pytest

from inversion.errors import (
    Abandoned,
    Code,
    Conflict,
    EffectsRefused,
    Outcome,
    Outrun,
    Overrun,
    ProcessDied,
    RetryAsked,
    RuntimeBroken,
)
from inversion.messages import Delivery, Step
from inversion.protocol.verdict import (
    GiveUp,
    How,
    RunAgain,
    cut_short,
    expired,
    judge,
    leaves_it_to_the_function_timeout,
)
from plain import a_request, a_turn

DIED = ProcessDied(Code.FUNCTION_CRASHED, "gone")
TIMEOUT = RuntimeBroken(Code.FUNCTION_TIMEOUT, "slow")
OVERRUN = Overrun(Code.STATE_TOO_LARGE, "big")
NO_EFFECT = EffectsRefused(Code.PROTOCOL_ERROR, "effects[0].send.at ...")


def decide(error, *, members=1, in_s=30.0, deaths=0, rerun=1):
    requests = [a_request(n=n, in_s=in_s) for n in range(members)]
    requests[0].deaths = deaths
    return judge(error, a_turn(*requests), requests[0], rerun=rerun, now_s=perf_counter())


@pytest.mark.parametrize(
    ("error", "facts", "how"),
    [
        (Conflict(), {}, How.TOGETHER),
        (Abandoned(), {"members": 3}, How.TOGETHER),
        (RetryAsked(), {}, How.TOGETHER),
        (RetryAsked(), {"members": 2}, How.IN_HALVES),
        (OVERRUN, {"members": 2}, How.IN_HALVES),
        (NO_EFFECT, {"members": 2}, How.IN_HALVES),
        (DIED, {}, How.ALONE),
        (DIED, {"members": 5}, How.ALONE),
        (TIMEOUT, {"members": 2}, How.ALONE),
    ],
)
def test_what_runs_again_and_how(error, facts, how):
    assert decide(error, **facts) == RunAgain(how)


@pytest.mark.parametrize(
    ("error", "facts", "code"),
    [
        (Conflict(), {"in_s": -1}, Code.CONTENDED),
        (Abandoned(), {"in_s": -1}, Code.DEADLINE),
        (RetryAsked(), {"in_s": -1}, Code.DEADLINE),
        (OVERRUN, {}, Code.STATE_TOO_LARGE),
        (NO_EFFECT, {}, Code.PROTOCOL_ERROR),
        (OVERRUN, {"members": 2, "in_s": -1}, Code.STATE_TOO_LARGE),
        (DIED, {"deaths": 1}, Code.FUNCTION_CRASHED),
        (DIED, {"rerun": 0}, Code.FUNCTION_CRASHED),
        (DIED, {"in_s": -1}, Code.FUNCTION_CRASHED),
        (TIMEOUT, {}, Code.FUNCTION_TIMEOUT),
        (ValueError("bug"), {}, Code.INTERNAL),
    ],
)
def test_what_is_the_answer(error, facts, code):
    verdict = decide(error, **facts)
    assert isinstance(verdict, GiveUp)
    assert verdict.error.code is code


@pytest.mark.parametrize(
    ("step", "commit_sent", "code", "outcome"),
    [
        (Step.LOAD_STATE, False, Code.DATABASE_UNAVAILABLE, Outcome.NOT_APPLIED),
        (Step.SEND_MESSAGE_IN, False, Code.DEADLINE, Outcome.NOT_APPLIED),
        (Step.RECEIVE_MESSAGE_OUT, False, Code.DEADLINE, Outcome.NOT_APPLIED),
        (Step.STORE_STATE, False, Code.DATABASE_UNAVAILABLE, Outcome.NOT_APPLIED),
        (Step.STORE_STATE, True, Code.DEADLINE, Outcome.UNKNOWN),
    ],
)
def test_a_deadline_says_where_it_passed(step, commit_sent, code, outcome):
    turn = a_turn(a_request())
    turn.marks, turn.commit_sent = [0.0] * list(Step).index(step), commit_sent
    error = expired(turn)
    assert (error.code, error.outcome) == (code, outcome)


@pytest.mark.parametrize(
    ("commit_sent", "code", "outcome"),
    [(False, Code.DRAINING, Outcome.NOT_APPLIED), (True, Code.DEADLINE, Outcome.UNKNOWN)],
)
def test_what_the_end_of_the_node_cuts_short_is_told_honestly(commit_sent, code, outcome):
    turn = a_turn(a_request())
    turn.commit_sent = commit_sent
    error = cut_short(turn)
    assert (error.code, error.outcome) == (code, outcome)
    assert cut_short(None).code is Code.DRAINING


def test_a_deadline_in_the_queue_is_not_applied():
    error = expired(None)
    assert (error.code, error.outcome) == (Code.DEADLINE, Outcome.NOT_APPLIED)


@pytest.mark.parametrize(
    ("step", "commit_sent", "outcome"),
    [
        (Step.RECEIVE_MESSAGE_OUT, False, Outcome.NOT_APPLIED),
        (Step.STORE_STATE, True, Outcome.UNKNOWN),
        (Step.SEND_RESPONSE, True, Outcome.APPLIED),
    ],
)
def test_an_internal_error_is_honest_about_the_commit(step, commit_sent, outcome):
    request = a_request()
    turn = a_turn(request)
    turn.marks, turn.commit_sent = [0.0] * list(Step).index(step), commit_sent
    verdict = judge(KeyError("x"), turn, request, rerun=1, now_s=perf_counter())
    assert isinstance(verdict, GiveUp)
    assert verdict.error.outcome is outcome


def test_a_message_begun_at_once_is_left_to_the_functions_own_timeout():
    request = a_request()
    assert leaves_it_to_the_function_timeout(request, request.received_s + 0.01)
    assert not leaves_it_to_the_function_timeout(request, request.received_s + 5)
    assert not leaves_it_to_the_function_timeout(request, None)
    request.caller_timeout_s = 1.0
    assert not leaves_it_to_the_function_timeout(request, request.received_s + 0.01)


@pytest.mark.parametrize("members", [1, 2])
def test_the_one_message_that_is_too_early_holds_up_no_others_of_its_turn(members):
    requests = [a_request(n=n) for n in range(members)]
    for request in requests:
        request.delivery = Delivery(request.address, "a/x", 1, 0, request.id, "call", b"1")
    decided = judge(Outrun(), a_turn(*requests), requests[0], rerun=1, now_s=perf_counter())
    if members == 1:
        assert isinstance(decided, GiveUp)
        assert decided.error.code is Code.CONTENDED
    else:
        assert decided == RunAgain(How.IN_HALVES)
