"""The report for people: one table of rows, one of ratios."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table

from bench.report import ROUNDS_THAT_COUNT, Detail, Measured, Ratio, Row

#: Where there is no terminal to ask: wide enough that no cell is cut.
_FILE_WIDTH = 130


def line(name: str, measured: Measured) -> str:
    """One measurement while the bench runs: its figures and what was verified."""
    if not measured.per_second:
        return f"{name}: {measured.p50_ms / 1000:.2f} s"
    said = f"{name}: {measured.per_second:,.0f}/s, p50 {measured.p50_ms:.2f} ms, p99 {measured.p99_ms:.2f} ms"
    details = measured.details
    if "counted" in details:
        said += (
            f"; {measured.requests} acknowledged, counts +{details['counted']}, "
            f"versions +{details['versions']}, about {details['wal_fsyncs']} flushes"
        )
    if "forks" in details:
        said += f"; {measured.requests} acknowledged, {details['forks']} processes started"
    return said if measured.invalid is None else f"{said}; INVALID: {measured.invalid}"


def show(rows: Sequence[Row], found: Sequence[Ratio]) -> None:
    """To stdout."""
    console = Console() if sys.stdout.isatty() else Console(width=_FILE_WIDTH)
    console.print(_rows(rows))
    if found:
        console.print(_ratios(found))
    for row in rows:
        if row.invalid is not None:
            console.print(f"INVALID {row.name}: {row.invalid}", markup=False)
    if any(len(row.rounds) < ROUNDS_THAT_COUNT for row in rows):
        console.print(f"Fewer than {ROUNDS_THAT_COUNT} rounds: a look, not a measurement.")


def _rows(rows: Sequence[Row]) -> Table:
    table = Table(title="median over rounds (lowest to highest); CPU in processors")
    table.add_column("name")
    for header in ("conn.", "per second", "", "p50 ms", "p99 ms", "server", "functions", "postgres", "load"):
        table.add_column(header, justify="right")
    for row in rows:
        rates = [one.per_second for one in row.rounds]
        rate, spread = f"{row.per_second:,.0f}", f"{min(rates):,.0f}-{max(rates):,.0f}"
        if not row.per_second:
            rate = spread = "-"
        cpu = _shares(row.rounds[-1].details.get("cpu"))
        figures = (str(row.connections), rate, spread, f"{row.p50_ms:,.2f}", f"{row.p99_ms:,.2f}", *cpu)
        table.add_row(row.name, *figures, style="red" if row.invalid else None)
    return table


def _shares(cpu: Detail) -> list[str]:
    roles = ("server", "functions", "postgres", "load")
    return [f"{cpu[role]:.2f}" for role in roles] if isinstance(cpu, Mapping) else ["", "", "", ""]


def _ratios(found: Sequence[Ratio]) -> Table:
    table = Table(title="ratios: median of each round's own")
    for header in ("ratio", "value", "per round", "bar", "holds"):
        table.add_column(header, justify="left" if header == "ratio" else "right")
    for ratio in found:
        value, holds = ratio.value, ratio.holds
        if value is None:
            table.add_row(ratio.rule.name, "not known", ratio.unknown, "", "")
            continue
        bar = f"{ratio.rule.bar.value} {ratio.rule.limit:g}"
        each = " ".join(f"{one:.2f}" for one in ratio.per_round)
        style = "green" if holds else "red"
        table.add_row(ratio.rule.name, f"{value:.2f}", each, bar, "yes" if holds else "NO", style=style)
    return table
