"""The pure parts of the bench: ratios, bars, refusals, and when a load is not believed."""

from __future__ import annotations

import json

import pytest
from bench.report import Measured, Row, as_json, busy, percentile, ratios, refusal
from bench.verify import Tally, durable, landed

DURABLE = {"fsync": "on", "synchronous_commit": "on"}


def row(name: str, *rates: float, p50_ms: float = 1.0, invalid: str | None = None) -> Row:
    return Row(name, 64, [Measured(rate, p50_ms, 2.0, invalid=invalid) for rate in rates])


def test_a_ratio_is_the_median_of_the_rounds_own_ratios() -> None:
    (found,) = ratios([row("keys_1000_c64", 200, 900, 300), row("pgbench_c64", 100, 300, 300)])
    assert found.per_round == [2.0, 3.0, 1.0]
    assert found.value == 2.0
    assert found.holds is True


def test_a_rate_under_its_bar_does_not_hold() -> None:
    (found,) = ratios([row("keys_1000_c64", 139), row("pgbench_c64", 100)])
    assert found.holds is False


@pytest.mark.parametrize(("ours_ms", "holds"), [(1.4, True), (1.5, False)])
def test_one_connection_is_compared_by_its_median_latency(ours_ms: float, holds: bool) -> None:
    (found,) = ratios([row("one_connection_c1", 1, p50_ms=ours_ms), row("pgbench_c1", 9, p50_ms=1.0)])
    assert found.value == ours_ms
    assert found.holds is holds


def test_the_first_answer_is_given_in_seconds() -> None:
    (found,) = ratios([row("first_answer", 0, 0, 0, p50_ms=2500)])
    assert found.value == 2.5
    assert found.holds is True


def test_an_invalid_row_makes_its_ratios_unknown_and_says_why() -> None:
    (found,) = ratios([row("keys_1000_c64", 200, invalid="3 status errors"), row("pgbench_c64", 100)])
    assert found.value is None
    assert found.holds is None
    assert found.unknown == "keys_1000_c64: 3 status errors"


def test_a_ratio_whose_rows_were_not_measured_is_left_out() -> None:
    assert ratios([row("keys_1000_c64", 200)]) == []


@pytest.mark.parametrize("setting", ["fsync", "synchronous_commit"])
@pytest.mark.parametrize("value", ["off", "local"])
def test_ratios_are_refused_when_commits_are_not_durable(setting: str, value: str) -> None:
    sentence = refusal({**DURABLE, setting: value}, "ext4")
    assert sentence is not None
    assert f"{setting} is {value}" in sentence


def test_ratios_are_refused_when_a_setting_is_not_known() -> None:
    assert refusal({"fsync": "on"}, "ext4") is not None


def test_ratios_are_refused_on_a_file_system_in_memory() -> None:
    sentence = refusal(DURABLE, "tmpfs")
    assert sentence is not None
    assert "tmpfs" in sentence


def test_a_durable_cluster_on_a_disk_is_not_refused() -> None:
    assert refusal(DURABLE, "ext4") is None


@pytest.mark.parametrize(("counts", "believed"), [(99, False), (100, True), (116, True), (117, False)])
def test_counts_must_cover_what_was_acknowledged_and_what_was_in_flight(counts: int, believed: bool) -> None:
    assert (landed(100, 16, Tally(counts, 100)) is None) is believed
    assert (landed(100, 16, Tally(100, counts)) is None) is believed


def test_more_answers_than_the_flushes_of_the_log_can_free_are_not_durable() -> None:
    assert durable(acknowledged=6400, in_flight=64, fsyncs=100) is None
    assert durable(acknowledged=6400, in_flight=64, fsyncs=10) is not None


def test_a_busy_machine_is_said() -> None:
    assert busy(0.2, 2) is None
    sentence = busy(4.1, 2)
    assert sentence is not None
    assert "4.1 on 2 cores" in sentence


def test_percentiles_of_nothing_are_zero() -> None:
    assert percentile([], 0.99) == 0.0
    assert percentile([1.0, 2.0, 3.0, 4.0], 0.5) == 3.0
    assert percentile([1.0], 0.99) == 1.0


def test_the_json_names_each_row_and_ratio_and_can_be_written() -> None:
    rows = [row("keys_1000_c64", 200), row("pgbench_c64", 100)]
    written = json.loads(json.dumps(as_json({"cores": 2}, DURABLE, rows, ratios(rows))))
    assert [one["name"] for one in written["rows"]] == ["keys_1000_c64", "pgbench_c64"]
    assert written["ratios"]["keys_1000_c64/pgbench_c64"]["holds"] is True
