"""How many messages of a function a node holds at once: what it gets done in a quarter of a second.

Enough that its processes never wait for a claim, few enough that a slow function's messages are left to
other nodes, that no function crowds out the others, and that callers find room in its queue.
"""

from __future__ import annotations

from typing import Final

import attrs

from inversion.config import Queues

#: A function whose speed nobody knows yet, or that is slow.
_LEAST: Final = 16
#: Of one function: a tenth of what its queue may hold, the rest is for callers.
MOST: Final = 512
_HORIZON_S: Final = 0.25
#: What of a queue messages may take, at least one place: of a node's a few functions at once.
_SHARE: Final = 4
#: How much of the old rate is left after a second.
_MEMORY: Final = 0.3


@attrs.define(slots=True, eq=False)
class Pace:
    """Of one function. Seconds are of any one clock."""

    least: int = _LEAST
    limit: int = 1 << 30  #: never more than this, however fast, and although they were born here
    held: int = 0
    paused_until_s: float = 0.0  #: its queue was full
    more: bool = False  #: the last claim took all there was room for: others wait in the database
    _rate: float = 0.0  #: messages a second
    _done: int = 0
    _looked_s: float = 0.0
    most: int = attrs.field(init=False)  #: to be held at once; reckoned anew by `look`, for it is asked often

    def __attrs_post_init__(self) -> None:
        self._reckon()

    @classmethod
    def within(cls, queues: Queues) -> Pace:
        """Of a function whose messages and callers wait in these."""
        return cls(limit=max(1, min(queues.function, queues.node) // _SHARE))

    def room(self, now_s: float) -> int:
        return 0 if now_s < self.paused_until_s else max(0, self.most - self.held)

    def done(self) -> None:
        """One was consumed."""
        self._done += 1

    def look(self, now_s: float) -> None:
        """Called now and then: measures."""
        passed_s = now_s - self._looked_s
        if passed_s >= _HORIZON_S / 5:
            weight = 1 - _MEMORY ** min(passed_s, 10.0)
            rate = self._done / passed_s
            if rate >= self._rate:
                self._rate = rate  # faster is believed at once: a burst must not wait for an average
            elif self.held:  # else it had nothing to do, which does not make it slow
                self._rate += (rate - self._rate) * weight
            self._done = 0
            self._looked_s = now_s
            self._reckon()

    def _reckon(self) -> None:
        self.most = min(self.limit, max(self.least, min(MOST, int(self._rate * _HORIZON_S))))
