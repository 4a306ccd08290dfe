"""Bugs on purpose, each a promise of storage.md that somebody might forget, for the campaign to find.

They live here and replace parts of a node that runs; nothing of them ships. What it takes to see one is the
business of the ordinary campaign. `python seeded NAME serve ...` is a node with that bug.

switch     replaces, and notices when there is nothing to replace
commits    what a commit checks, and what it may say
outcomes   what is not known yet
keys       requests that come again
reads      answers that commit nothing, and the cache
messages   who has a message, what a commit says of it, when a timer is due
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from tests.faults.campaign.seeded import commits, keys, messages, outcomes, reads

BUGS: Final[dict[str, Callable[[], None]]] = {
    each.__name__: each for part in (commits, outcomes, keys, reads, messages) for each in part.BUGS
}
