"""Pure: medians over rounds, ratios with their bars, and when ratios are refused.

A ratio is taken within each round (its two rows ran next to each other) and then the median over rounds.
A row with one error is invalid and so is every ratio that needs it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from enum import Enum
from statistics import median

import attrs

#: File systems that keep nothing: an fsync there costs nothing, so a durable commit cannot be measured.
VOLATILE_FILE_SYSTEMS = frozenset({"tmpfs", "ramfs", "devtmpfs"})

#: Fewer rounds than this are a look, not a measurement (the issue's rule).
ROUNDS_THAT_COUNT = 3

#: A load average above this share of the cores is somebody else's work.
QUIET_SHARE = 0.25

Detail = str | int | float | bool | None | Mapping[str, float]


@attrs.frozen
class Measured:
    """One row in one round. `invalid` says why the figures must not be used."""

    per_second: float
    p50_ms: float
    p99_ms: float
    requests: int = 0
    invalid: str | None = None
    details: Mapping[str, Detail] = attrs.field(factory=dict)


@attrs.frozen
class Row:
    """One row of the table: the same measurement in each round."""

    name: str
    connections: int
    rounds: Sequence[Measured]

    @property
    def per_second(self) -> float:
        return median(one.per_second for one in self.rounds)

    @property
    def p50_ms(self) -> float:
        return median(one.p50_ms for one in self.rounds)

    @property
    def p99_ms(self) -> float:
        return median(one.p99_ms for one in self.rounds)

    @property
    def invalid(self) -> str | None:
        """The first reason among the rounds; None: every round counts."""
        return next((one.invalid for one in self.rounds if one.invalid is not None), None)


class Bar(Enum):
    """On which side of its bar a ratio should be."""

    AT_LEAST = ">="
    AT_MOST = "<="


class Column(Enum):
    PER_SECOND = "per_second"
    P50_MS = "p50_ms"

    def of(self, measured: Measured) -> float:
        match self:
            case Column.PER_SECOND:
                return measured.per_second
            case Column.P50_MS:
                return measured.p50_ms


@attrs.frozen
class Rule:
    """How a ratio is made, and its bar. Without `under` it is the column itself."""

    name: str
    over: str
    under: str | None
    column: Column
    bar: Bar
    limit: float


RULES = (
    Rule("keys_1000_c64/pgbench_c64", "keys_1000_c64", "pgbench_c64", Column.PER_SECOND, Bar.AT_LEAST, 1.4),
    Rule(
        "one_connection_c1/pgbench_c1 p50",
        "one_connection_c1",
        "pgbench_c1",
        Column.P50_MS,
        Bar.AT_MOST,
        1.4,
    ),
    Rule("hot_key_c64/keys_1000_c64", "hot_key_c64", "keys_1000_c64", Column.PER_SECOND, Bar.AT_LEAST, 0.8),
    Rule(
        "keyed_1000_c64/keys_1000_c64",
        "keyed_1000_c64",
        "keys_1000_c64",
        Column.PER_SECOND,
        Bar.AT_LEAST,
        0.8,
    ),
    Rule(
        "exec_cat_c16/spawn_limit_c16",
        "exec_cat_c16",
        "spawn_limit_c16",
        Column.PER_SECOND,
        Bar.AT_LEAST,
        0.5,
    ),
    Rule("first_answer_s", "first_answer", None, Column.P50_MS, Bar.AT_MOST, 3.0),
)


@attrs.frozen
class Ratio:
    """A ratio over the rounds. `unknown` says why there is none."""

    rule: Rule
    per_round: Sequence[float]
    unknown: str | None = None

    @property
    def value(self) -> float | None:
        return None if self.unknown is not None else median(self.per_round)

    @property
    def holds(self) -> bool | None:
        """None: not known."""
        value = self.value
        if value is None:
            return None
        match self.rule.bar:
            case Bar.AT_LEAST:
                return value >= self.rule.limit
            case Bar.AT_MOST:
                return value <= self.rule.limit


def ratios(rows: Sequence[Row]) -> list[Ratio]:
    """Every ratio whose rows were asked for."""
    by_name = {row.name: row for row in rows}
    return [
        _ratio(rule, by_name)
        for rule in RULES
        if rule.over in by_name and (rule.under is None or rule.under in by_name)
    ]


def _ratio(rule: Rule, rows: Mapping[str, Row]) -> Ratio:
    over = rows[rule.over]
    under = None if rule.under is None else rows[rule.under]
    for row in (over, under):
        if row is not None and row.invalid is not None:
            return Ratio(rule, (), unknown=f"{row.name}: {row.invalid}")
    tops = [rule.column.of(one) for one in over.rounds]
    if under is None:
        return Ratio(rule, [top / 1000 for top in tops])  # milliseconds of a column to seconds
    bottoms = [rule.column.of(one) for one in under.rounds]
    return Ratio(rule, [top / bottom for top, bottom in zip(tops, bottoms, strict=True)])


def refusal(settings: Mapping[str, str], file_system: str) -> str | None:
    """Why no ratio may be printed on this cluster; None: it commits durably to a real disk."""
    for name in ("fsync", "synchronous_commit"):
        value = settings.get(name, "unknown")
        if value != "on":
            return (
                f"No ratios: {name} is {value} on this PostgreSQL, so its commits are not what is compared. "
                f"Set {name} = on."
            )
    if file_system in VOLATILE_FILE_SYSTEMS:
        return (
            f"No ratios: the data folder is on {file_system}, which keeps nothing. "
            "Name a folder on a real disk with --folder."
        )
    return None


def busy(load_average: float, cores: int) -> str | None:
    """Why the figures of this run should not be quoted; None: the machine was ours."""
    if load_average <= cores * QUIET_SHARE:
        return None
    return (
        f"The load average was {load_average:.1f} on {cores} cores before the run: "
        "something else used this machine, so these ratios are a look and not a measurement."
    )


def percentile(ordered: Sequence[float], share: float) -> float:
    """The nearest-rank percentile of a sorted sequence; 0.0 when it is empty."""
    if not ordered:
        return 0.0
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def as_json(
    described: Mapping[str, object], settings: Mapping[str, str], rows: Sequence[Row], found: Sequence[Ratio]
) -> dict[str, object]:
    """Everything, for --json."""
    return {
        "machine": dict(described),
        "postgresql": dict(settings),
        "rows": [
            {
                "name": row.name,
                "connections": row.connections,
                "per_second": row.per_second,
                "p50_ms": row.p50_ms,
                "p99_ms": row.p99_ms,
                "invalid": row.invalid,
                "rounds": [attrs.asdict(one) for one in row.rounds],
            }
            for row in rows
        ],
        "ratios": {
            one.rule.name: {
                "value": one.value,
                "per_round": list(one.per_round),
                "bar": f"{one.rule.bar.value} {one.rule.limit:g}",
                "holds": one.holds,
                "unknown": one.unknown,
            }
            for one in found
        },
    }
