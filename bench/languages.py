"""Every language that has a shim: `python -m bench.languages [SECONDS [ROUNDS]] [--write]`.

Of each: the cases of the conformance kit that its interpreter passes, by group; how long its counter takes
from its start to its hello; how many calls a second it answers through the whole server, in rounds of all
languages; the lines of its shim. `--write` puts the table into docs/languages.md. What is not installed is
skipped by name.
"""

from __future__ import annotations

import shutil
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

import attrs
import trio

from bench import load, machine, server
from inversion import templates
from inversion.conformance.cases import Audience
from inversion.conformance.cases import load as load_cases
from inversion.conformance.playing import play
from inversion.conformance.verdict import KnownFailing, Played, Verdict
from inversion.templates import Language

CONNECTIONS = 64
KEYS = 1_000
STARTS = 7  #: of each counter; their median is told
LINE_S = 30.0
_DOCS = Path(__file__).resolve().parent.parent / "docs" / "languages.md"
_FROM, _TO = "<!-- made by bench/languages.py: do not edit from here -->", "<!-- to here -->"


@attrs.define
class Found:
    """What was measured of one language."""

    language: Language
    command: Sequence[str]  #: of its counter, seen from a folder beside its own
    played: Sequence[Played] = ()
    start_ms: float = 0.0
    per_second: list[float] = attrs.field(factory=list)

    @property
    def shim_lines(self) -> int:
        (shim,) = (name for name in self.language.files if name.startswith("shim."))
        return len((self.language.folder / shim).read_text(encoding="utf-8").splitlines())


def main() -> None:
    numbers = [float(word) for word in sys.argv[1:] if word != "--write"]
    seconds, rounds = [*numbers, *(3.0, 3.0)[len(numbers) :]][:2]
    with server.scratch_folder(None) as folder:
        found = [each for language in templates.languages().values() if (each := _made(language, folder))]
        for each in found:
            each.played = _play(each.language, folder)
            each.start_ms = _start_ms(each.command, folder / "beside")
            print(f"{each.language.title}: {_passed(each.played)} cases, {each.start_ms:.0f} ms", flush=True)
        for each in found:
            name = each.language.name
            server.CONFIG[f"in-{name}"] = f"command = {list(each.command)}"
        names = ("counter", *(f"in-{each.language.name}" for each in found))
        with server.running(folder / "server", names) as running:
            for round_ in range(-1, int(rounds)):  # the first one warms processes and caches
                for each in found:
                    path = f"/v1/call/in-{each.language.name}/k%d/add"
                    asked = load.Load(running.port, path, KEYS, "1", CONNECTIONS)
                    driven = load.drive(asked, seconds if round_ >= 0 else 0.5, seed=round_)
                    if driven.errors:
                        raise SystemExit(f"{path}: {driven.errors}")
                    if round_ >= 0:
                        each.per_second.append(driven.per_second)
    table = _table(found, seconds, int(rounds))
    print(table)
    if "--write" in sys.argv:
        text = _DOCS.read_text(encoding="utf-8")
        before, after = text.split(_FROM)[0], text.split(_TO)[1]
        _DOCS.write_text(f"{before}{_FROM}\n\n{table}\n{_TO}{after}", encoding="utf-8")


def _made(language: Language, folder: Path) -> Found | None:
    """Its counter, built in a folder of its own."""
    if missing := [program for program in language.needs if shutil.which(program) is None]:
        print(f"{language.title}: skipped, {', '.join(missing)} is not installed")
        return None
    made = templates.made(language, "counter", f"../{language.name}")
    _build(folder / language.name, made.files, made.build)
    (folder / "beside").mkdir(exist_ok=True)
    return Found(language, _command(language, f"../{language.name}/"))


def _build(folder: Path, files: Mapping[str, bytes], line: str | None) -> None:
    folder.mkdir()
    for name, content in files.items():
        (folder / name).write_bytes(content)
    if line is not None:
        subprocess.run(["sh", "-c", line], cwd=folder, check=True, stdout=2)


def _command(language: Language, within: str) -> list[str]:
    return [word.replace("{dir}", within) for word in language.command]


def _play(language: Language, folder: Path) -> list[Played]:
    """Every case, against the interpreter, which is built as a function is."""
    made = templates.made(language, "interpreter", "")
    files = dict(made.files)
    for source in language.folder.glob("interpreter.*"):
        files[source.name] = source.read_bytes()
    (folder / f"{language.name}-kit").mkdir(exist_ok=True)
    place = folder / f"{language.name}-kit" / "interpreter"
    _build(place, files, made.build)
    command = [word.replace("counter", "interpreter") for word in _command(language, "")]
    command = [word.replace("Counter", "Interpreter") for word in command]
    known = KnownFailing.read((language.folder / "known-failing.txt").read_text(encoding="utf-8"))
    cases = [case for case in load_cases() if case.audience is not Audience.HOST]
    return trio.run(play, command, place, cases, known, LINE_S, lambda played: None)


def _passed(played: Sequence[Played]) -> str:
    asked = [each for each in played if each.verdict is not Verdict.NOT_ASKED]
    passed = sum(each.verdict is Verdict.PASSED for each in asked)
    return str(passed) if passed == len(asked) else f"{passed} of {len(asked)}"


def _start_ms(command: Sequence[str], folder: Path) -> float:
    took_ms = []
    for _ in range(STARTS):
        begun_s = time.perf_counter()
        pipe = subprocess.PIPE
        with subprocess.Popen(
            command, cwd=folder, stdin=pipe, stdout=pipe, stderr=subprocess.DEVNULL
        ) as process:
            assert process.stdout is not None
            assert process.stdin is not None
            line = process.stdout.readline()
            took_ms.append((time.perf_counter() - begun_s) * 1e3)
            assert line.startswith(b'{"hello"'), line
            process.stdin.close()
    return statistics.median(took_ms)


def _table(found: Sequence[Found], seconds: float, rounds: int) -> str:
    groups = Counter(each.name.partition("/")[0] for each in found[0].played)
    about = machine.describe()
    lines = [
        f"{time.strftime('%Y-%m-%d')}, {about['cores']} cores, {about['cpu']}. Median of {STARTS} starts."
        f" Calls with {CONNECTIONS} connections over {KEYS:,} keys, median of {rounds} x {seconds:g} s;"
        " beside it, how many times Python's that is.",
        "",
        "| language | shim, lines | start | calls a second | |",
        "|---|---|---|---|---|",
    ]
    python = next((each for each in found if each.language.name == "python"), found[0])
    for each in found:
        ratio = statistics.median(a / b for a, b in zip(each.per_second, python.per_second, strict=True))
        rate = statistics.median(each.per_second)
        cells = (each.shim_lines, f"{each.start_ms:.0f} ms", f"{rate:,.0f}", f"{ratio:.2f}")
        lines.append(f"| {each.language.title} | {' | '.join(map(str, cells))} |")
    lines += ["", f"| cases passed | {' | '.join(groups)} |", "|---" * (len(groups) + 1) + "|"]
    for each in found:
        of = [[one for one in each.played if one.name.startswith(f"{group}/")] for group in groups]
        lines.append(f"| {each.language.title} | {' | '.join(map(_passed, of))} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
