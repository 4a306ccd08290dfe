"""The only door to prometheus_client: counts on the hot path, and /metrics.

Counts are plain integers in slots (an increment costs tens of nanoseconds; a prometheus Counter takes a
lock and a microsecond) and become metric families only when somebody asks. Labels are bounded: a function
is a configured one, an outcome or a code one of a closed list.
One `Counters` per node, made by app.py and handed to the parts that count.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Final

import attrs
from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

from inversion.errors import Code, Outcome
from inversion.protocol.outgoing import Ending

#: Upper ends in seconds: from a cached read to the longest timeout anybody sets.
BUCKETS_S: Final = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 120.0)

#: What generate_latest writes.
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


#: Members of an Enum are looked up slowly, and this is for each request.
_APPLIED: Final = Outcome.APPLIED


class Latency:
    """How long calls took, in fixed buckets."""

    __slots__ = ("counts", "sum_s")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS_S) + 1)
        self.sum_s = 0.0

    def observe(self, seconds: float) -> None:
        self.counts[bisect_left(BUCKETS_S, seconds)] += 1
        self.sum_s += seconds


@attrs.define(slots=True, eq=False)
class FunctionCounters:
    """What is counted for each function."""

    applied: int = 0  #: calls by their outcome
    not_applied: int = 0
    unknown: int = 0
    failed_answers: int = 0  #: answers that were the function's own `error`
    replayed: int = 0  #: answers that were recorded ones: their Idempotency-Key was known
    failed_turns: int = 0  #: turns that ended in an error or ran again: conflict, crash, retry, overrun
    starts: int = 0  #: processes started
    deaths: int = 0  #: processes that ended without being told to
    timeouts: int = 0  #: processes ended because of the function's timeout
    states_refused: int = 0  #: turns over limits.in_flight, by their states
    stderr_lines: int = 0
    stray_lines: int = 0  #: stdout lines that were no frames
    latency: Latency = attrs.field(factory=Latency)

    def answered(self, outcome: Outcome, seconds: float) -> None:
        """One call was answered."""
        if outcome is _APPLIED:
            self.applied += 1
        elif outcome is Outcome.NOT_APPLIED:
            self.not_applied += 1
        else:
            self.unknown += 1
        self.latency.observe(seconds)


@attrs.define(slots=True, eq=False)
class Counters:
    """What a node counts. Plain attributes: `counters.commits += len(batch)`."""

    functions: dict[str, FunctionCounters] = attrs.field(factory=dict)
    errors: dict[Code, int] = attrs.field(factory=lambda: dict.fromkeys(Code, 0))
    loads: int = 0  #: states read from the database
    load_batches: int = 0
    cache_hits: int = 0
    cache_misses: int = 0
    commits: int = 0  #: turns committed
    commit_batches: int = 0
    transitions: int = 0  #: messages whose change was committed
    conflicts: int = 0  #: turns that lost the compare-and-set
    checks: int = 0  #: reads found to be the newest
    unknown_outcomes: int = 0  #: commits whose answer was lost
    database_losses: int = 0  #: connections that broke
    messages_claimed: int = 0  #: taken from the database; those born here and run at once are not
    messages_delivered: int = 0  #: consumed by a turn of this node
    messages_failed: int = 0  #: attempts that count against retry.attempts
    messages_sent: int = 0  #: by /v1/send, stored here
    messages_dead: int = 0  #: dead letters
    messages_published: int = 0  #: made for subscribers of topics
    publications: int = 0  #: that all their subscribers have
    cron_fired: int = 0  #: messages that schedules were
    cron_faults: int = 0  #: schedules in hellos that will not do
    outgoing: dict[Ending, int] = attrs.field(factory=lambda: dict.fromkeys(Ending, 0))

    @classmethod
    def of(cls, functions: Iterable[str]) -> Counters:
        """Counters with a place for each configured function."""
        return cls({name: FunctionCounters() for name in functions})


#: Attribute of Counters -> what /metrics says of it.
_NODE_HELP: Final = {
    "loads": "States read from the database.",
    "load_batches": "Statements that read states.",
    "cache_hits": "Turns that began with a cached state.",
    "cache_misses": "Turns that had to load their state.",
    "commits": "Turns committed.",
    "commit_batches": "Statements that committed turns.",
    "transitions": "Messages whose change was committed.",
    "conflicts": "Turns that lost the compare-and-set and ran again.",
    "checks": "Reads that were found to be the newest.",
    "unknown_outcomes": "Commits whose answer was lost.",
    "database_losses": "Database connections that broke.",
    "messages_claimed": "Messages taken from the database by polling.",
    "messages_delivered": "Messages consumed by a committed turn.",
    "messages_failed": "Attempts at messages that failed.",
    "messages_sent": "Messages from outside that were stored.",
    "messages_dead": "Messages that became dead letters.",
    "messages_published": "Messages made for the subscribers of topics.",
    "publications": "Publications of which each subscriber has its message.",
    "cron_fired": "Messages that this node fired by schedules.",
    "cron_faults": "Schedules that functions declare and that cannot be kept.",
}
_FUNCTION_HELP: Final = {
    "failed_answers": "Answers that were the function's own error.",
    "replayed": "Answers that repeated a recorded one.",
    "failed_turns": "Turns that failed; what could be helped ran again.",
    "starts": "Processes started.",
    "deaths": "Processes that ended without being told to.",
    "timeouts": "Processes ended because of the function's timeout.",
    "stderr_lines": "Lines of standard error.",
    "stray_lines": "Lines of standard output that were no frames.",
}


@attrs.frozen(slots=True)
class _Shown:
    family: type[GaugeMetricFamily] | type[CounterMetricFamily]
    name: str
    help: str
    label: str | None
    read: Callable[[], Mapping[str, float]]


class Metrics:
    """What /metrics shows: the counters, and gauges that are read when asked."""

    def __init__(self, counters: Counters, *, version: str) -> None:
        self._counters = counters
        self._version = version
        self._shown: list[_Shown] = []
        self._registry = CollectorRegistry(auto_describe=False)
        self._registry.register(_Families(self._collect))
        ProcessCollector(registry=self._registry)
        PlatformCollector(registry=self._registry)

    def gauge(self, name: str, help: str, read: Callable[[], float]) -> None:
        """Show `inversion_<name>`, read whenever somebody asks."""
        self._shown.append(_Shown(GaugeMetricFamily, name, help, None, lambda: {"": read()}))

    def gauges(self, name: str, help: str, label: str, read: Callable[[], Mapping[str, float]]) -> None:
        """As `gauge`, one value for each value of a bounded label."""
        self._shown.append(_Shown(GaugeMetricFamily, name, help, label, read))

    def counter(self, name: str, help: str, read: Callable[[], float]) -> None:
        """Show `inversion_<name>_total`, which somebody else counts."""
        self._shown.append(_Shown(CounterMetricFamily, name, help, None, lambda: {"": read()}))

    def counters(self, name: str, help: str, label: str, read: Callable[[], Mapping[str, float]]) -> None:
        """As `counter`, one value for each value of a bounded label."""
        self._shown.append(_Shown(CounterMetricFamily, name, help, label, read))

    def text(self) -> bytes:
        """The body of /metrics (CONTENT_TYPE)."""
        return generate_latest(self._registry)

    def _collect(self) -> Iterator[Metric]:
        build = GaugeMetricFamily("inversion_build_info", "The version that runs.", labels=["version"])
        build.add_metric([self._version], 1)
        yield build
        for name, text in _NODE_HELP.items():
            yield CounterMetricFamily(f"inversion_{name}", text, value=getattr(self._counters, name))
        yield from self._calls()
        for name, text in _FUNCTION_HELP.items():
            family = CounterMetricFamily(f"inversion_function_{name}", text, labels=["function"])
            for function, counters in self._counters.functions.items():
                family.add_metric([function], getattr(counters, name))
            yield family
        errors = CounterMetricFamily("inversion_errors", "Refusals and failures by code.", labels=["code"])
        for code, count in self._counters.errors.items():
            errors.add_metric([code.wire], count)
        yield errors
        outgoing = CounterMetricFamily(
            "inversion_outgoing_requests", "Attempts at outgoing requests.", labels=["outcome"]
        )
        for ending, count in self._counters.outgoing.items():
            outgoing.add_metric([ending.value], count)
        yield outgoing
        for each in self._shown:
            labels = [] if each.label is None else [each.label]
            shown = each.family(f"inversion_{each.name}", each.help, labels=labels)
            for label, value in each.read().items():
                shown.add_metric([label] if labels else [], value)
            yield shown

    def _calls(self) -> Iterator[Metric]:
        calls = CounterMetricFamily("inversion_calls", "Calls answered.", labels=["function", "outcome"])
        latency = HistogramMetricFamily(
            "inversion_call_seconds", "From receipt to answer.", labels=["function"]
        )
        for function, counters in self._counters.functions.items():
            for outcome in Outcome:
                calls.add_metric([function, outcome.value], getattr(counters, outcome.value))
            below = 0
            buckets: list[tuple[str, float]] = []
            for end, count in zip((*map(str, BUCKETS_S), "+Inf"), counters.latency.counts, strict=True):
                below += count
                buckets.append((end, below))
            latency.add_metric([function], buckets, counters.latency.sum_s)
        yield calls
        yield latency


class _Families(Collector):
    def __init__(self, collect: Callable[[], Iterator[Metric]]) -> None:
        self._collect = collect

    def collect(self) -> Iterator[Metric]:
        return self._collect()
