"""How many outgoing requests to one host a node has, and when one that is too many comes back.

So many run at a time and as many again wait for them; more would keep the requests to other hosts out of
the node. What is turned away gets a time at which, going by how long the host takes, it is its turn.
Seconds are of any one clock.
"""

from __future__ import annotations

from typing import Final

import attrs

#: To one host at a time: more than a browser's six, for these have no user who waits for one page.
AT_ONCE: Final = 16
#: In the node for one host, with those that run: the next one starts without a look into the database.
MOST: Final = 2 * AT_ONCE
#: Nobody is put off for longer: a host that is quick again is noticed. Shorter, and a hundred thousand that
#: wait for a dead one would keep the database busy with coming and going.
_LONGEST_PAUSE_S: Final = 300.0
_LEAST_PAUSE_S: Final = 0.2
#: What one request is taken to last before any has, and how far a single one moves that.
_FIRST_GUESS_S: Final = 0.1
_WEIGHT: Final = 0.2


@attrs.define(slots=True, eq=False)
class Host:
    """Requests to one host name."""

    held: int = 0
    took_s: float = _FIRST_GUESS_S
    _turn_s: float = 0.0  #: when the last one that was turned away is to come back

    @property
    def is_full(self) -> bool:
        return self.held >= MOST

    def leave(self) -> None:
        """One is not held any more."""
        self.held -= 1
        if self.held < AT_ONCE:
            self._turn_s = 0.0  # nobody waits: who comes next need not come back late

    def took(self, seconds: float) -> None:
        """One request has ended."""
        self.took_s += (seconds - self.took_s) * _WEIGHT

    def turn_away(self, now_s: float) -> float:
        """The pause for one that is too many."""
        self._turn_s = max(self._turn_s, now_s + _LEAST_PAUSE_S) + self.took_s / AT_ONCE
        self._turn_s = min(self._turn_s, now_s + _LONGEST_PAUSE_S)
        return self._turn_s - now_s
