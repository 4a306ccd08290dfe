"""`check`: plays the host against any program, and says what is wrong with it and how to put it right."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections import Counter
from collections.abc import Sequence
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TYPE_CHECKING, Final

import click

from inversion import json_text, open_files
from inversion.cli.printing import EXIT_ANSWER, EXIT_USAGE, fail, is_terminal, json_option
from inversion.config import Mode
from inversion.config_file import ConfigError
from inversion.config_guess import guess
from inversion.conformance.verdict import KnownFailing, Played, Verdict

if TYPE_CHECKING:
    from rich.console import RenderableType

    from inversion.conformance.cases import Case

#: A shell says so of what Ctrl-C ended.
_EXIT_INTERRUPTED: Final = 130
#: Lines of a dialogue that are shown: what led to the fault stands at its end.
_MOST_LINES: Final = 12
_MOST_WIDTH: Final = 400
_COLOURS: Final = {
    Verdict.PASSED: "green",
    Verdict.FAILED: "bold red",
    Verdict.KNOWN: "yellow",
    Verdict.NOT_ASKED: "dim",
    Verdict.UNEXPECTED: "bold magenta",
}


@click.command(context_settings={"ignore_unknown_options": True, "allow_interspersed_args": False})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
@click.option("--interpreter", is_flag=True, help="It is a conformance interpreter: all cases.")
@click.option("--only", multiple=True, metavar="GLOB", help="Only cases of such a name, like 'state/*'.")
@click.option(
    "--timeout",
    "timeout_s",
    type=click.FloatRange(0.05, 600),
    default=5.0,
    show_default=True,
    metavar="SECONDS",
    help="How long an answer may take.",
)
@click.option(
    "--known-failing",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Cases that are expected to fail, a name and a reason a line; one that passes is a failure.",
)
@json_option
def check(
    command: tuple[str, ...],
    interpreter: bool,
    only: tuple[str, ...],
    timeout_s: float,
    known_failing: Path | None,
    as_json: bool,
) -> None:
    """Does COMMAND keep to the protocol? Its options may follow: inversion check jq -c --unbuffered .

    One file that cannot run by itself is run as `inversion dev` would. Each case that fails is shown with
    what was sent, what came back, what was expected and how to put it right. Exit code 1 when one fails, 2
    when the command cannot be started.
    """
    import trio

    from inversion.conformance.cases import Audience, load
    from inversion.conformance.playing import play
    from inversion.processes.child import CannotStart

    open_files.raise_limit()
    every = [case for case in load() if case.audience is not Audience.HOST]
    try:
        known = KnownFailing.read(known_failing.read_text("utf-8")) if known_failing else KnownFailing()
    except (OSError, ValueError) as error:
        fail(f"{known_failing}: {error}", EXIT_USAGE)
    if strangers := known.strangers(case.name for case in every):
        fail(f"{known_failing}: there is no case {', '.join(strangers)}", EXIT_USAGE)
    cases = [case for case in every if interpreter or case.audience is Audience.ANY]
    cases = [case for case in cases if not only or any(_fits(case.name, glob) for glob in only)]
    if not cases:
        fail(f"no case is named {' or '.join(only)}; see runtimes/conformance/cases", EXIT_USAGE)
    words, folder = _command(command)
    board = _Scorecard(cases) if is_terminal() and not as_json else _Board()
    try:
        with board:
            played = trio.run(play, words, folder, cases, known, timeout_s, board.add)
    except CannotStart as error:
        fail(str(error).removeprefix("function check: "), EXIT_USAGE)
    except KeyboardInterrupt:
        sys.exit(_EXIT_INTERRUPTED)
    if as_json:
        click.echo(json_text.encode(_as_json(words, played)).decode())
    else:
        _tell(words, played, known)
    sys.exit(0 if all(each.verdict.is_well for each in played) else EXIT_ANSWER)


def _fits(name: str, glob: str) -> bool:
    return fnmatchcase(name, glob) or name.startswith(f"{glob.rstrip('/')}/")


def _command(command: Sequence[str]) -> tuple[Sequence[str], Path]:
    """What is run, and where. One file is run as `inversion dev` runs it."""
    word = command[0]
    if len(command) > 1 or not Path(word).is_file() or ("/" not in word and shutil.which(word) is not None):
        return command, Path.cwd()
    try:
        (function,) = guess(Path(word), Mode.LINES).config.functions.values()
    except ConfigError as error:
        fail("; ".join(error.faults), EXIT_USAGE)
    return function.command, function.folder


class _Board:
    """What is seen while it runs: nothing, for machines."""

    def __enter__(self) -> _Board:
        return self

    def __exit__(self, *exit_info: object) -> None:
        pass

    def add(self, played: Played) -> None:
        """One more case is done."""


class _Scorecard(_Board):
    """On a terminal: a line for each group, which fills."""

    def __init__(self, cases: Sequence[Case]) -> None:
        from rich.live import Live

        self._due = Counter(case.group for case in cases)
        self._done: dict[str, list[Played]] = {group: [] for group in self._due}
        self._live = Live(self._table(), refresh_per_second=8, transient=True)

    def __enter__(self) -> _Scorecard:
        self._live.__enter__()
        return self

    def __exit__(self, *exit_info: object) -> None:
        self._live.__exit__(None, None, None)

    def add(self, played: Played) -> None:
        self._done[played.name.split("/")[0]].append(played)
        self._live.update(self._table())

    def _table(self) -> RenderableType:
        from rich.table import Table
        from rich.text import Text

        table = Table(box=None, show_header=False, padding=(0, 2, 0, 0))
        for group, due in self._due.items():
            marks = Text()
            for each in self._done[group]:
                marks.append("*" if each.verdict.is_well else "x", _COLOURS[each.verdict])
            marks.append("." * (due - len(self._done[group])), "dim")
            table.add_row(Text(f"  {group}", "bold"), f"{len(self._done[group])} of {due}", marks)
        return table


def _tell(words: Sequence[str], played: Sequence[Played], known: KnownFailing) -> None:
    """The scorecard: each failure as a dialogue, then a line for each group, then the sum."""
    from rich.console import Console
    from rich.text import Text

    console = Console(
        highlight=False, soft_wrap=True, no_color=not is_terminal(), force_terminal=is_terminal()
    )
    console.print(Text(f"\n{shlex.join(words)}\n", "bold"))
    for each in played:
        if not each.verdict.is_well:
            console.print(_failure(each))
    groups: dict[str, list[Played]] = {}
    for each in played:
        groups.setdefault(each.name.split("/")[0], []).append(each)
    width = max(map(len, groups))
    for group, ofs in groups.items():
        counts = Counter(each.verdict for each in ofs)
        well = counts[Verdict.FAILED] + counts[Verdict.UNEXPECTED] == 0
        line = Text("  ok    " if well else "  fail  ", "green" if well else "bold red")
        line.append(f"{group:<{width}}", "bold")
        line.append(f"  {counts[Verdict.PASSED]} of {len(ofs)}")
        for verdict in (Verdict.FAILED, Verdict.KNOWN, Verdict.UNEXPECTED, Verdict.NOT_ASKED):
            if counts[verdict]:
                line.append(f", {counts[verdict]} {verdict.value}", _COLOURS[verdict])
        console.print(line)
    faults = Counter(
        advice for each in played if each.verdict is Verdict.FAILED for advice in each.advice[:1]
    )
    if faults:
        console.print(Text("\nTo put right, by how many cases:", "bold"))
        by_fault = Counter(advice.fault for advice in faults.elements())
        for fault, count in by_fault.most_common():
            remedy = next(advice.remedy for advice in faults if advice.fault is fault)
            console.print(Text.assemble(f"  {count:>3}  ", (fault.value, "bold"), f": {remedy}"))
    total = Counter(each.verdict for each in played)
    sums = ", ".join(f"{total[verdict]} {verdict.value}" for verdict in Verdict if total[verdict])
    console.print(Text(f"\n{len(played)} cases: {sums}", "bold"))


def _failure(played: Played) -> RenderableType:
    from rich.text import Text

    text = Text.assemble((f"{played.verdict.value}  ", _COLOURS[played.verdict]), (played.name, "bold"))
    text.append(f"  ({played.requirement})\n      {played.sentence}\n")
    if played.verdict is Verdict.UNEXPECTED:
        return text.append("      -> it passes: take it out of the known-failing file\n", "italic")
    said = played.said
    if len(said) > _MOST_LINES:
        text.append(f"      ... {len(said) - _MOST_LINES} lines before\n", "dim")
        said = said[-_MOST_LINES:]
    for line in said:
        text.append(f"      {line.mark} {_cut(line.text)}\n", "dim" if line.mark == "-" else "")
    text.append(f"      expected: {_cut(played.expected)}\n", "green")
    for advice in played.advice:
        text.append(f"      {advice.fault.value}", "bold red")
        text.append(f": {_cut(advice.sentence)}\n")
        text.append(f"      -> {advice.remedy}\n", "italic")
    return text


def _cut(text: str) -> str:
    from inversion.observe import logs

    text = logs.escape(text)
    return text if len(text) <= _MOST_WIDTH else f"{text[: _MOST_WIDTH - 3]}..."


def _as_json(words: Sequence[str], played: Sequence[Played]) -> dict[str, object]:
    return {
        "ok": all(each.verdict.is_well for each in played),
        "command": list(words),
        "counts": {
            verdict.name.lower(): sum(each.verdict is verdict for each in played) for verdict in Verdict
        },
        "cases": [
            {
                "name": each.name,
                "requirement": each.requirement,
                "sentence": each.sentence,
                "verdict": each.verdict.name.lower(),
                "took_ms": round(each.took_s * 1e3, 1),
                "said": [f"{line.mark} {line.text}" for line in each.said],
                "expected": each.expected,
                "advice": [
                    {"fault": advice.fault.value, "sentence": advice.sentence, "remedy": advice.remedy}
                    for advice in each.advice
                ],
            }
            for each in played
        ],
    }
