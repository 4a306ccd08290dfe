"""Both checkers on what was written by hand, beside a third that tries everything, and out of time."""

import random
from itertools import permutations

import pytest
from tests.faults.history import replay as replay_module
from tests.faults.history.by_hand import IMPOSSIBLE, IMPOSSIBLE_VERSIONS, POSSIBLE, told, unknown
from tests.faults.history.check import check_hidden, check_versions
from tests.faults.history.deeds import deeds_of
from tests.faults.history.models import ABSENT, MODELS, step
from tests.faults.history.replay import replay
from tests.faults.history.search import search
from tests.faults.history.simulate import Bug, Plan, simulate
from tests.faults.history.verdict import Finding, Impossible


def checked(history):
    """(by versions, by the search with versions, by the search without)."""
    model = MODELS[history[0].entity.partition("/")[0]] if history else MODELS["register"]
    verdicts = replay(history, model), search(history, model, versions=True), search(history, model)
    return tuple(verdict.finding for verdict in verdicts)


@pytest.mark.parametrize("history", POSSIBLE.values(), ids=POSSIBLE)
def test_what_can_be_passes(history):
    assert checked(history) == (Finding.LINEARIZABLE,) * 3


@pytest.mark.parametrize("history", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_what_cannot_be_is_found(history):
    assert checked(history) == (Finding.VIOLATION,) * 3


@pytest.mark.parametrize("history", IMPOSSIBLE_VERSIONS.values(), ids=IMPOSSIBLE_VERSIONS)
def test_what_only_the_versions_show_is_found_with_versions(history):
    assert checked(history)[:2] == (Finding.VIOLATION,) * 2


def test_the_order_of_the_lines_does_not_matter():
    for histories in (POSSIBLE, IMPOSSIBLE, IMPOSSIBLE_VERSIONS):
        for history in histories.values():
            assert checked(history[::-1]) == checked(history)


def tried_out(history, model):
    """Every subset of what is unknown in every order: slow, and too simple to be wrong."""
    try:
        deeds = deeds_of(history)
    except Impossible:
        return False
    maybe = [deed for deed in deeds if not deed.known]
    known = [deed for deed in deeds if deed.known]
    for chosen in range(1 << len(maybe)):
        there = known + [deed for number, deed in enumerate(maybe) if chosen >> number & 1]
        if any(_fits(order, model) for order in permutations(there)):
            return True
    return False


def _fits(order, model):
    state, version, latest_ns = ABSENT, 0, 0
    for deed in order:
        if deed.completed_ns < latest_ns:
            return False
        latest_ns = max(latest_ns, deed.invoked_ns)
        state, answer, wrote = step(
            model, state, version, deed.kind, deed.input, deed.if_match, deed.none_match
        )
        version += wrote
        if deed.known and (answer, version) != (deed.answer, deed.version):
            return False
    return True


def test_trying_out_everything_comes_to_the_same():
    findings = set()
    for number in range(250):
        dice = random.Random(number)
        plan = Plan(dice.choice(list(MODELS)), operations=3, clients=2, lost=0.2, bug=dice.choice(list(Bug)))
        history = simulate(plan, dice)
        possible = tried_out(history, MODELS[plan.model])
        findings.add(possible)
        assert checked(history)[:2] == (Finding.LINEARIZABLE if possible else Finding.VIOLATION,) * 2, history
    assert findings == {True, False}


def test_a_search_that_runs_out_of_time_has_not_passed():
    # 30 overlapping adds and a sum that no subset of them makes: 2 ** 30 configurations.
    history = [unknown("add", 2 * number + 2, 1, of="counter") for number in range(30)]
    history.append(told("read", None, (5, 6), 501, 30, of="counter"))
    verdict = search(history, MODELS["counter"], limit_s=0.2)
    assert verdict.finding is Finding.OUT_OF_TIME
    assert not verdict.passed
    assert list(check_hidden(history, limit_s=0.2).failed) == ["counter/1"]


def test_a_replay_with_too_many_guesses_has_not_passed(monkeypatch):
    monkeypatch.setattr(replay_module, "MOST_GUESSES", 500)
    history = [unknown("add", 1 << number, 1, of="counter") for number in range(30)]
    history.append(told("read", None, (5, 6), 7, 10, of="counter"))
    verdict = replay(history, MODELS["counter"])
    assert verdict.finding is Finding.OUT_OF_TIME
    assert list(check_versions(history).failed) == ["counter/1"]


def test_many_unknown_of_the_same_are_no_effort():
    history = [unknown("add", 5, number, of="counter") for number in range(200)]
    history.append(told("read", None, (900, 901), 500, 100, of="counter"))
    assert checked(history)[:2] == (Finding.LINEARIZABLE,) * 2
    history[-1] = told("read", None, (900, 901), 1005, 201, of="counter")
    assert checked(history)[0] is Finding.VIOLATION


def test_an_answer_without_a_version_is_no_pass_for_the_replay():
    history = [told("write", "a", (1, 2), None, None)]
    assert checked(history)[0] is Finding.VIOLATION
    assert checked(history)[2] is Finding.LINEARIZABLE


def test_one_key_with_two_messages_is_found():
    history = [
        told("add", 1, (1, 2), 1, 1, of="counter", key="k"),
        told("add", 2, (3, 4), 1, 1, of="counter", key="k"),
    ]
    assert checked(history) == (Finding.VIOLATION,) * 3


def test_a_history_of_many_entities_names_the_one_that_is_wrong():
    good = simulate(Plan("counter"), random.Random(1), "good")
    bad = [told("write", "a", (1, 2), None, 1), told("read", None, (3, 4), None, 1)]
    report = check_versions([*good, *bad])
    assert list(report.failed) == ["register/1"]
    assert report.failed["register/1"].evidence == (bad[1],)
    assert "does not follow" in report.sentences()[0]
    assert report.operations == len(good) + 2
    assert report.told["register/read applied"] == 1
