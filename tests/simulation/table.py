"""Makes the table of docs/detection.md: how soon the simulation finds each seeded bug, from three seeds.

`PYTHONPATH=tests python tests/simulation/table.py`; what stands outside the table's marks stays.
"""

from __future__ import annotations

from pathlib import Path
from time import perf_counter

import pytest
from test_seeded_bugs import BUGS, histories_until_found
from test_simulation import run

DOCUMENT = Path(__file__).parents[2] / "docs" / "detection.md"
BEGIN = "<!-- made by tests/simulation/table.py: do not edit from here -->"
END = "<!-- to here -->"
SEEDS = (0, 1_000_000, 2_000_000)
#: The unbroken build must raise no alarm in at least as many histories as any bug was given.
UNBROKEN = 10_000


def main() -> None:
    lines = ["| seeded bug | histories until it was found, from three seeds | longest |", "|---|---|---|"]
    for bug in BUGS:
        found, longest_s = [], 0.0
        for seed in SEEDS:
            begun_s = perf_counter()
            with pytest.MonkeyPatch.context() as patch:
                found.append(histories_until_found(bug, seed, patch))
            longest_s = max(longest_s, perf_counter() - begun_s)
        shown = ", ".join("not found" if count is None else str(count) for count in found)
        lines.append(f"| {bug.__name__.replace('_', ' ')} | {shown} | {longest_s:.2f} s |")
        print(lines[-1], flush=True)
    for seed in range(UNBROKEN):
        run(seed)
    lines += ["", f"Without a bug: no alarm in {UNBROKEN:,} histories."]
    above, _, rest = DOCUMENT.read_text().partition(BEGIN)
    below = rest.partition(END)[2]
    DOCUMENT.write_text(f"{above}{BEGIN}\n\n" + "\n".join(lines) + f"\n\n{END}{below}")


if __name__ == "__main__":
    main()
