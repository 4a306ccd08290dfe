"""`python -m bench`: see docs/bench.md. Exit code 1: refused, or a row is invalid."""

from __future__ import annotations

import json
import signal
import sys
from collections import defaultdict
from contextlib import ExitStack
from pathlib import Path

import click

from bench import cluster, load, machine, pgbench, rows, server, spawn_limit, tables
from bench.report import Measured, Row, as_json, busy, ratios, refusal


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.option("--only", metavar="NAME,...", help=f"These rows only: {', '.join(rows.NAMES)}.")
@click.option("--seconds", default=6.0, show_default=True, help="How long each row is measured in a round.")
@click.option("--rounds", default=3, show_default=True, help="How often everything is measured, in turns.")
@click.option("--json", "json_file", type=click.Path(path_type=Path), help="Write everything to this file.")
@click.option(
    "--folder",
    type=click.Path(path_type=Path, exists=True, file_okay=False),
    help="Where the temporary folder goes: a real disk.",
)
def main(only: str | None, seconds: float, rounds: int, json_file: Path | None, folder: Path | None) -> None:
    """Drive a real server over HTTP and measure pgbench beside it on the same PostgreSQL."""
    names = _chosen(only)
    signal.signal(signal.SIGTERM, _terminated)
    described: dict[str, object] = {**machine.describe(), "load_generator": load.generator()}
    with ExitStack() as stack:
        scratch = stack.enter_context(server.scratch_folder(folder))
        limit = spawn_limit.prepare(scratch)
        load_average = machine.load_average()
        described |= {"spawn_limit": limit.said, "load_average_before": load_average}
        described["functions"] = server.CONFIG
        measured, settings = _measure(names, scratch, limit, seconds, rounds)
    found_rows = [
        Row(spec.name, spec.connections, measured[spec.name]) for spec in rows.SPECS if spec.name in measured
    ]
    if rows.FIRST_ANSWER in measured:
        found_rows.append(Row(rows.FIRST_ANSWER, 1, measured[rows.FIRST_ANSWER]))
    found = ratios(found_rows)
    click.echo("\n".join(f"{name}: {value}" for name, value in {**described, **settings}.items()))
    tables.show(found_rows, found)
    if (sentence := busy(load_average, machine.cores())) is not None:
        click.echo(sentence)
    if json_file is not None:
        json_file.write_text(json.dumps(as_json(described, settings, found_rows, found), indent=1) + "\n")
    sys.exit(1 if any(row.invalid for row in found_rows) else 0)


def _measure(
    names: tuple[str, ...], scratch: Path, limit: spawn_limit.SpawnLimit, seconds: float, rounds: int
) -> tuple[dict[str, list[Measured]], dict[str, str]]:
    """Every chosen row in every round, then the first answers; and the settings of PostgreSQL."""
    measured: dict[str, list[Measured]] = defaultdict(list)
    with server.running(scratch / "server") as started:
        _progress(f"the server answers after {started.first_answer_s:.2f} s (log: {started.log})")
        found = cluster.find(started)
        file_system = machine.file_system(found.data_folder)
        settings = found.settings()
        if (sentence := refusal(settings, file_system)) is not None:
            raise click.ClickException(sentence)
        pgbench.prepare(found)
        bench = rows.Bench(started, found, limit, scratch, seconds)
        for number in range(rounds):
            for spec in rows.SPECS:
                if spec.name in names:
                    measured[spec.name].append(spec.measure(bench, number))
                    _progress(
                        f"round {number + 1}/{rounds}  {tables.line(spec.name, measured[spec.name][-1])}"
                    )
    if rows.FIRST_ANSWER in names:
        for number in range(rows.FIRST_ANSWER_RUNS):
            measured[rows.FIRST_ANSWER].append(rows.measure_first_answer(scratch, number))
            _progress(tables.line(rows.FIRST_ANSWER, measured[rows.FIRST_ANSWER][-1]))
    return measured, {**settings, "data_folder_file_system": file_system}


def _chosen(only: str | None) -> tuple[str, ...]:
    if only is None:
        return rows.NAMES
    names = tuple(name.strip() for name in only.split(","))
    for name in names:
        if name not in rows.NAMES:
            raise click.BadParameter(f"{name!r} is none of {', '.join(rows.NAMES)}", param_hint="--only")
    return names


def _progress(sentence: str) -> None:
    click.echo(sentence, err=True)


def _terminated(*_: object) -> None:
    """SIGTERM ends the bench as Ctrl-C does: everything started is stopped."""
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
