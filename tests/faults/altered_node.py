"""The `inversion` command with something altered for a test: `python altered_node.py serve ...`.

The alterations live here and replace parts of a node that runs; nothing of them ships.
INVERSION_SWEEP_S: recorded answers past their retention are looked for so often.
INVERSION_CRASH_AT: where it kills itself (crash_points.py).
"""

from __future__ import annotations

import os

from inversion.state import sweeper


def main() -> None:
    if pause_s := os.environ.get("INVERSION_SWEEP_S"):
        sweeper.PAUSE_S = float(pause_s)  # type: ignore[misc]
    if crash_at := os.environ.get("INVERSION_CRASH_AT"):
        import crash_points

        crash_points.arm(crash_at)
    from inversion.cli import main as run

    run()


if __name__ == "__main__":
    main()
