"""Makes the table of docs/faults.md: `INVERSION_FAULT_RECORD=rows.jsonl pytest tests/faults`, then
`python tests/faults/table.py rows.jsonl`. What stands above the table in the document stays.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

import orjson

DOCUMENT = Path(__file__).parents[2] / "docs" / "faults.md"
BEGIN = "<!-- made by tests/faults/table.py: do not edit below -->"


def main(record: Path) -> None:
    rows = [orjson.loads(line) for line in record.read_bytes().splitlines()]
    rows.sort(key=lambda row: (re.sub(r"\d.*", "", row["number"]), int(re.sub(r"\D", "", row["number"]))))
    lines = [
        "| row | fault, and how it is injected | fired | worst recovery | test |",
        "|---|---|---|---|---|",
    ]
    for row in rows:
        worst_s = row["worst_recovery_s"]
        worst = "" if worst_s is None else f"{worst_s:.2f} s"
        test = row["test"].removeprefix("tests/faults/").split("::", 1)
        lines.append(
            f"| {row['number']} | {row['fault']} | {row['fires']} x | {worst} | {test[0]}: `{test[1]}` |"
        )
    above = DOCUMENT.read_text().partition(BEGIN)[0]
    DOCUMENT.write_text(f"{above}{BEGIN}\n\n" + "\n".join(lines) + "\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
