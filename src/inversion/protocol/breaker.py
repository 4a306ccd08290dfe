"""When a function's next process may start after others died: back-off, then a breaker. Pure.

A death is an end that nobody asked for: exit, signal, broken rule, timeout. It counts when the process had
answered nothing since its start; one that had has paid for its successor. Between counted deaths the pauses
double, with full jitter. Five in 30 s without an answer open the breaker: calls are refused unless an older
process serves them, and after each pause one process, the probe, tries one message. An answer from a process
younger than the trouble ends it; so does a hello if none had come that far, and 60 s of life.
An answer between the deaths keeps it closed for 30 s more: then it is some messages that kill, not all.
"""

from __future__ import annotations

from collections import deque
from typing import Final

FIRST_PAUSE_S: Final = 0.1
LONGEST_PAUSE_S: Final = 30.0
#: A program that lacks a file dies so often within two seconds; one that was killed by hand does not.
DEATHS: Final = 5
WINDOW_S: Final = 30.0
#: While it is closed callers wait for the next start: no longer than that.
LONGEST_CLOSED_PAUSE_S: Final = FIRST_PAUSE_S * 2 ** (DEATHS - 1)
#: Full jitter alone may draw short pauses in a row. With these at most 12 processes start in a minute.
PROBES: Final = 3
PROBES_IN_S: Final = 30.0
HEALTHY_S: Final = 60.0

_NEVER_S: Final = float("-inf")


class Breaker:
    """Of one function on one node. Times are those of one monotonic clock."""

    def __init__(self) -> None:
        self.open = False
        self.streak = 0  #: counted deaths since all was well
        self.next_start_s = _NEVER_S
        self._longest_s = 0.0  # the next pause is drawn from 0 to this
        self._since_s = _NEVER_S  # the first death of the streak
        self._spoken = False  # one of the dead had said hello
        self._deaths: deque[float] = deque(maxlen=DEATHS)
        self._probes: deque[float] = deque(maxlen=PROBES)
        self._survived_s = _NEVER_S  # when an answer last ended a streak that had not opened it

    def may_start(self, now_s: float) -> bool:
        """Is the pause over? While it is open the caller sees to it that there is one probe at a time."""
        return now_s >= self.next_start_s

    def started(self, now_s: float) -> None:
        """A process was started."""
        if self.open:
            self._probes.append(now_s)

    def died(self, now_s: float, chance: float, *, spoken: bool, overdue: bool = False) -> None:
        """A process died that had answered nothing. `chance` is 0 to 1.

        `overdue`: its required hello did not come in time. Its callers waited long enough: open at once.
        """
        if self.streak and not self.open and now_s - self._deaths[-1] >= HEALTHY_S:
            self._forget()
        if not self.streak:
            self._since_s = now_s
        self.streak += 1
        self._spoken = self._spoken or spoken
        self._deaths.append(now_s)
        self._longest_s = max(FIRST_PAUSE_S, min(2 * self._longest_s, LONGEST_PAUSE_S))
        if not self.open and (overdue or self._hopeless(now_s)):
            self.open = True
            self._longest_s = max(self._longest_s, LONGEST_CLOSED_PAUSE_S)
        if not self.open:
            self._longest_s = min(self._longest_s, LONGEST_CLOSED_PAUSE_S)
        self.next_start_s = now_s + chance * self._longest_s
        if len(self._probes) == PROBES:
            self.next_start_s = max(self.next_start_s, self._probes[0] + PROBES_IN_S)

    def _hopeless(self, now_s: float) -> bool:
        return (
            len(self._deaths) == DEATHS
            and now_s - self._deaths[0] < WINDOW_S
            and now_s - self._survived_s >= WINDOW_S
        )

    def answered(self, now_s: float, started_s: float) -> None:
        """A process that was started at `started_s` has answered. To be told while there is a streak."""
        if started_s >= self._since_s:  # an older one does not show that processes can be started
            survived_s = _NEVER_S if self.open else now_s
            self._forget()
            self._survived_s = survived_s

    def greeted(self, started_s: float) -> None:
        """A process has said hello."""
        if started_s >= self._since_s and not self._spoken:
            self._forget()

    def lives(self, now_s: float, started_s: float) -> None:
        """A process is there and well."""
        if started_s >= self._since_s and now_s - started_s >= HEALTHY_S:
            self._forget()

    def _forget(self) -> None:
        self.open = False
        self.streak = 0
        self.next_start_s = _NEVER_S
        self._longest_s = 0.0
        self._spoken = False
        self._deaths.clear()
        self._probes.clear()
