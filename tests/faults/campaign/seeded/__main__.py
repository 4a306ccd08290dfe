"""A node with one bug: `python tests/faults/campaign/seeded NAME serve ...`.

`each` instead of a name: puts each of them in, in a process of its own, and says so; it fails with the first
that finds nothing to break.
"""

import os
import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[4])  # this folder's names are nobody's modules

from tests.faults.altered_node import alter  # noqa: E402

if __name__ == "__main__":
    alter()
    from tests.faults.campaign.seeded import BUGS

    from inversion.cli import main

    name = sys.argv.pop(1)
    if name != "each":
        BUGS[name]()
        main()
        sys.exit()
    for name, bug in BUGS.items():
        if (child := os.fork()) == 0:
            bug()
            print(name, flush=True)
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            sys.exit(f"the bug {name} finds nothing to break")
