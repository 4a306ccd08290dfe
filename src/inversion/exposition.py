"""What /metrics shows of one node beside its counters, and /v1/functions: read from the parts when asked."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final

from inversion import __version__
from inversion.delivery.cron import Cron, Shown
from inversion.delivery.dispatcher import Dispatcher
from inversion.delivery.outgoing import Outgoing
from inversion.http.admin import FunctionReport
from inversion.http.server import Server
from inversion.http.service import Held
from inversion.mailbox import PostOffice
from inversion.observe.metrics import Counters, Metrics
from inversion.processes.supervisor import Pool, Supervisor
from inversion.state.outbox import Backlog
from inversion.state.store import PostgresStore

#: Counters of http/service.py -> what /metrics says of them.
_DOOR_HELP: Final = {
    "connections_total": "HTTP connections accepted.",
    "connections_refused": "HTTP connections over the limit.",
    "framing_refused": "Requests refused for how they were framed.",
    "clients_gone": "Clients that went before they took their answer.",
    "timeouts": "Connections ended because the client was too slow.",
    "accept_failures": "Times no connection could be accepted.",
}

#: Name of a gauge, what /metrics says of it, what it is of a function's backlog.
_BACKLOG: Final[Sequence[tuple[str, str, Callable[[Backlog], float]]]] = (
    ("messages_due", "Messages and timers that are due, up to 20,000.", lambda backlog: backlog.due),
    ("messages_waiting", "Messages in the database, up to 10,000.", lambda backlog: backlog.messages),
    ("timers_waiting", "Timers in the database, up to 10,000.", lambda backlog: backlog.timers),
    ("messages_lag_seconds", "How long the oldest that is due has been so.", lambda backlog: backlog.lag_s),
    ("dead_letters", "Dead letters in the database, up to 10,000.", lambda backlog: backlog.dead),
)


#: The same of a schedule.
_SCHEDULE: Final[Sequence[tuple[str, str, Callable[[Shown], float]]]] = (
    ("cron_next_seconds", "When a schedule is due next, since 1970; 0: never.", lambda shown: shown.next_s),
    (
        "cron_fired_seconds",
        "When a schedule was last fired, since 1970; 0: never.",
        lambda shown: shown.fired_s,
    ),
    ("cron_lag_seconds", "How long a schedule is due and not yet fired.", lambda shown: shown.lag_s),
)


def metrics_of(
    counters: Counters,
    store: PostgresStore,
    office: PostOffice,
    pools: Mapping[str, Pool],
    held: Held,
    servers: Callable[[], Sequence[Server]],
    dispatcher: Dispatcher,
    cron: Cron,
    outgoing: Outgoing,
) -> Metrics:
    """The node's metrics; `servers` is asked late, for the doors open last."""
    metrics = Metrics(counters, version=__version__)
    metrics.gauge("live_requests", "Requests that wait or run.", lambda: len(office.live))
    metrics.gauge("cache_bytes", "Bytes of cached states.", lambda: store.cache.held_bytes)
    metrics.gauge("database_up", "1 while a connection is up.", lambda: float(store.available))
    metrics.gauge("database_waiting", "Turns that wait for a statement.", lambda: store.waiting)

    def backlog(read: Callable[[Backlog], float]) -> Callable[[], Mapping[str, float]]:
        return lambda: {name: read(each) for name, each in dispatcher.backlog.items()}

    metrics.gauge("messages_held", "Messages that this node has.", lambda: dispatcher.held)
    publications = "Publications that this node brings to their subscribers."
    metrics.gauge("publications_held", publications, lambda: dispatcher.publications)
    metrics.gauge("outgoing_under_way", "Outgoing requests being made.", lambda: outgoing.under_way)
    for name, text, read in _BACKLOG:
        metrics.gauges(name, text, "function", backlog(read))

    def schedules(read: Callable[[Shown], float]) -> Callable[[], Mapping[str, float]]:
        return lambda: {name: read(each) for name, each in cron.shown.items()}

    for name, text, of_schedule in _SCHEDULE:
        metrics.gauges(name, text, "schedule", schedules(of_schedule))

    def refusals() -> Mapping[str, float]:
        return {
            **office.refusals,
            "connections": at_the_doors("connections_refused"),
            "in_flight": held.requests_refused,
            "states": sum(function.states_refused for function in counters.functions.values()),
        }

    def at_the_doors(name: str) -> int:
        return sum(getattr(server.counters, name) for server in servers())

    metrics.gauge("held_request_bytes", "Bytes of requests over 16 KiB.", lambda: held.request_bytes)
    metrics.gauge("held_answer_bytes", "Bytes of answers not yet taken.", lambda: held.answer_bytes)
    metrics.counter(
        "http_answers_dropped",
        "Answers over limits.in_flight, their clients reset.",
        lambda: held.answers_dropped,
    )
    metrics.counters("queue_refusals", "Requests over a limit.", "queue", refusals)
    metrics.gauge("connections_open", "Open HTTP connections.", partial(at_the_doors, "connections_open"))
    for name, text in _DOOR_HELP.items():
        metrics.counter(f"http_{name.removesuffix('_total')}", text, partial(at_the_doors, name))

    def of_pools(read: Callable[[Pool], float]) -> Callable[[], Mapping[str, float]]:
        return lambda: {name: read(pool) for name, pool in pools.items()}

    metrics.gauges("processes", "Processes alive.", "function", of_pools(lambda pool: len(pool.processes)))
    waiting = of_pools(lambda pool: pool.waiting)
    metrics.gauges("waiting_turns", "Turns without a process.", "function", waiting)
    breaker_open = of_pools(lambda pool: pool.breaker_open)
    metrics.gauges(
        "function_breaker_open",
        "1 while calls are refused because the processes keep dying before they answer.",
        "function",
        breaker_open,
    )
    return metrics


def function_reports(supervisor: Supervisor) -> Sequence[FunctionReport]:
    """How each function does."""
    pools = supervisor.pools
    return [
        FunctionReport(
            name,
            pools[name].function.mode.value,
            None if well else sentence,
            len(pools[name].processes),
            pools[name].hello,
        )
        for name, well, sentence in supervisor.reports()
    ]
