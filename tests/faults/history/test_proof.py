"""The proof of the checkers, small: `python -m tests.faults.history` runs it in full."""

from tests.faults.history import __main__ as proof
from tests.faults.history import replay


def test_both_checkers_agree_on_random_histories():
    report = proof.agree(600, seed=7)
    assert report["wrong"] == []
    assert {finding.split(": ")[1] for finding in report["findings"]} == {"linearizable", "violation"}


def test_every_mutated_history_is_caught():
    report = proof.catch(140, seed=7)
    assert report["wrong"] == []
    assert min(report["mutations"].values()) == 20


def test_a_replay_that_forgets_the_clock_is_found_out(monkeypatch):
    monkeypatch.setattr(replay, "_against_the_clock", lambda ordered: None)
    assert proof.agree(600, seed=7)["wrong"]
    assert any(sentence.startswith("stale") for sentence in proof.catch(140, seed=7)["wrong"])


def test_a_long_history_goes_through_a_file():
    report = proof.go_far(20_000, seed=7)
    assert report["wrong"] == []
    assert report["operations"] >= 20_000
