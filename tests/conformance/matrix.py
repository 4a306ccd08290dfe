"""Which case is failed by which fault of the sabotage runtime.

`python -m tests.conformance.matrix` plays every case against every fault, some minutes, and prints what no
fault fails; with `--write` it makes aimed.json of it: for each fault the cases that it is tried with, so many
that each case is failed by one at least.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import trio

from inversion.conformance.cases import Audience, Case, load
from inversion.conformance.playing import play
from inversion.conformance.verdict import KnownFailing, Played, Verdict

SABOTAGE = Path(__file__).with_name("sabotage.py")
AIMED = Path(__file__).with_name("aimed.json")
#: At a time: each is a process that mostly waits to be given up.
AT_A_TIME = 6
#: Of a fault that fails nearly all, so many failures are enough.
ENOUGH = 25


class _Enough(Exception):
    pass


async def play_against(
    faults: Mapping[str, Sequence[Case]], timeout_s: float, enough: int = 1_000
) -> Mapping[str, Sequence[Played]]:
    """Play these cases against the sabotage runtime with each fault."""
    results: dict[str, list[Played]] = {fault: [] for fault in faults}
    limit = trio.CapacityLimiter(AT_A_TIME)

    async def one(fault: str, cases: Sequence[Case]) -> None:
        def tell(played: Played) -> None:
            results[fault].append(played)
            if len(failed(results[fault])) >= enough:
                raise _Enough

        async with limit:
            command = [sys.executable, "-S", str(SABOTAGE), fault]
            with suppress(_Enough):
                await play(command, SABOTAGE.parent, cases, KnownFailing(), timeout_s, tell)
        if enough < 1_000:
            print(fault, len(failed(results[fault])), flush=True)

    async with trio.open_nursery() as nursery:
        for fault, cases in faults.items():
            nursery.start_soon(one, fault, cases)
    return results


def runtime_cases() -> list[Case]:
    return [case for case in load() if case.audience is not Audience.HOST]


def failed(played: Iterable[Played]) -> Sequence[Played]:
    return [each for each in played if each.verdict is Verdict.FAILED]


def main() -> None:
    from tests.conformance.sabotage import FAULTS

    cases = runtime_cases()
    by_rarity = sorted(cases, key=lambda case: (case.is_alone, case.name))
    results = trio.run(play_against, dict.fromkeys(FAULTS, by_rarity), 1.0, ENOUGH)
    fails = {
        fault: {each.name: each.advice[0].fault.value for each in failed(results[fault])} for fault in FAULTS
    }
    for fault, names in fails.items():
        print(
            f"{fault}: {len(names)}: {', '.join(f'{name}={said}' for name, said in list(names.items())[:6])}"
        )
    print("failed by nothing:")
    for case in cases:
        if not any(case.name in names for names in fails.values()):
            print(f"  {case.name}")
    if "--write" in sys.argv:
        AIMED.write_text(json.dumps(aimed(fails), indent=1) + "\n")


def aimed(fails: Mapping[str, Mapping[str, str]]) -> dict[str, object]:
    """Each case with the fault that fails fewest others; each fault with one case at least."""
    chosen: dict[str, list[str]] = {fault: [] for fault in fails}
    for name in sorted({name for names in fails.values() for name in names}):
        rarest = min((fault for fault in fails if name in fails[fault]), key=lambda fault: len(fails[fault]))
        chosen[rarest].append(name)
    for fault, names in chosen.items():
        if not names and fails[fault]:
            names.append(min(fails[fault]))
    return {
        fault: {"named": Counter(fails[fault][name] for name in names).most_common(1)[0][0], "cases": names}
        for fault, names in chosen.items()
        if names
    }


if __name__ == "__main__":
    main()
