"""What /metrics shows of what was counted."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from inversion.errors import Code, Outcome
from inversion.observe.metrics import BUCKETS_S, Counters, Metrics


def shown(metrics: Metrics) -> dict[tuple[str, tuple[tuple[str, str], ...]], float]:
    return {
        (sample.name, tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    }


def test_counts_become_samples() -> None:
    counters = Counters.of(["cart"])
    metrics = Metrics(counters, version="1.2.3")
    counters.commits += 3
    counters.errors[Code.QUEUE_FULL] += 1
    counters.functions["cart"].stray_lines += 2
    samples = shown(metrics)
    assert samples["inversion_commits_total", ()] == 3
    assert samples["inversion_errors_total", (("code", "queue_full"),)] == 1
    assert samples["inversion_function_stray_lines_total", (("function", "cart"),)] == 2
    assert samples["inversion_build_info", (("version", "1.2.3"),)] == 1


def test_answers_are_counted_by_outcome_and_timed() -> None:
    counters = Counters.of(["cart"])
    for outcome, seconds in [(Outcome.APPLIED, 0.003), (Outcome.APPLIED, 500.0), (Outcome.UNKNOWN, 0.001)]:
        counters.functions["cart"].answered(outcome, seconds)
    samples = shown(Metrics(counters, version="1"))
    assert samples["inversion_calls_total", (("function", "cart"), ("outcome", "applied"))] == 2
    assert samples["inversion_calls_total", (("function", "cart"), ("outcome", "not_applied"))] == 0
    assert samples["inversion_calls_total", (("function", "cart"), ("outcome", "unknown"))] == 1

    def below(end: str) -> float:
        return samples["inversion_call_seconds_bucket", (("function", "cart"), ("le", end))]

    assert [below("0.001"), below("0.0025"), below("0.005"), below(str(BUCKETS_S[-1])), below("+Inf")] == [
        1,
        1,
        2,
        2,
        3,
    ]
    assert samples["inversion_call_seconds_count", (("function", "cart"),)] == 3


def test_gauges_are_read_when_asked() -> None:
    waiting = {"cart": 1.0}
    metrics = Metrics(Counters.of([]), version="1")
    metrics.gauge("ready", "Whether it serves.", lambda: 1)
    metrics.gauges("queued", "Requests that wait.", "function", lambda: waiting)
    waiting["cart"] = 7
    samples = shown(metrics)
    assert samples["inversion_ready", ()] == 1
    assert samples["inversion_queued", (("function", "cart"),)] == 7


def test_the_process_itself_is_shown() -> None:
    assert ("process_open_fds", ()) in shown(Metrics(Counters.of([]), version="1"))
