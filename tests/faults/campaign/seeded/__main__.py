"""A node with one bug: `python tests/faults/campaign/seeded NAME serve ...`."""

import sys
from pathlib import Path

sys.path[0] = str(Path(__file__).parents[4])  # this folder's names are nobody's modules

from tests.faults.campaign.seeded import BUGS  # noqa: E402

from inversion.cli import main  # noqa: E402

if __name__ == "__main__":
    BUGS[sys.argv.pop(1)]()
    main()
