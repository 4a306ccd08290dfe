"""When a schedule fires: five fields and a time zone -> instants; (last instant, now) -> what is to be fired.

Instants are whole seconds since 1970, of UTC. There is no clock here: `now_s` is the database's. The fields
and the time zones are cronsim's, which keeps to Debian's cron: a time of day that the spring change leaves
out comes at the first minute after it, one that the autumn change repeats comes once, and what is repeated
through the hours (`*`, `*/5` in one of the first two fields) follows the minutes that really pass.
"""

from __future__ import annotations

import difflib
import re
import zoneinfo
from collections.abc import Iterator
from datetime import UTC, datetime, tzinfo
from enum import Enum
from itertools import islice, takewhile
from typing import TYPE_CHECKING, Final, NamedTuple

import attrs

if TYPE_CHECKING:
    from cronsim import CronSim

#: The sender of a firing's message is this, the function, a slash and the schedule; no user's can be.
SENDER: Final = "~cron/"
#: So long after its instant a firing is on time: a slow start, a failover of the database, a busy minute.
ON_TIME_S: Final = 60
#: `missed = "all"` makes up for so many at most: a function that was away for long must not be drowned.
MOST_MISSED: Final = 100
#: Between two instants lies at least a minute: so an hour has few of them.
_STEP_S: Final = 60
#: Instants looked at in one window before a shorter one is tried: milliseconds.
_MOST_LOOKED_AT: Final = 4 * MOST_MISSED
_MOST_CHARACTERS: Final = 200
_FIELD: Final = re.compile(r"[0-9A-Za-z*/,#-]+")
_ZONE: Final = re.compile(r"[A-Za-z][A-Za-z0-9_+/-]{0,99}")
#: Any day will do to see whether an expression ever comes.
_SOME_DAY_S: Final = 1_767_225_600


class Missed(Enum):
    """What becomes of instants that passed while nobody was there to fire them."""

    SKIP = "skip"
    ONCE = "once"  #: where nothing is on time, the newest of them is fired
    ALL = "all"  #: the newest MOST_MISSED of them are


@attrs.frozen(slots=True)
class Schedule:
    """When a function is sent a message by itself, and which."""

    name: str
    expression: str  #: five fields, one blank between two
    zone: str = "UTC"
    key: str | None = None  #: None: a call without a key
    handler: str = "call"
    message: bytes = b"null"  #: JSON
    missed: Missed = Missed.ONCE

    @property
    def rule(self) -> str:
        """What makes it another schedule when it changes."""
        return f"{self.expression} {self.zone}"


class Firing(NamedTuple):
    """What is due of a schedule."""

    instants_s: tuple[int, ...]  #: to be fired, in order; perhaps none
    last_s: int  #: the newest that is dealt with
    left_out: tuple[int, int] | None  #: the first that is not fired, and before which they all are not


def fault_of(expression: str, zone: str) -> tuple[str, str] | None:
    """Which of the two will not do, `schedule` or `zone`, and why (a sentence's end). None: both do."""
    if len(expression) > _MOST_CHARACTERS:
        return "schedule", f"has more than {_MOST_CHARACTERS} characters"
    fields = expression.split()
    if len(fields) != 5 or not all(_FIELD.fullmatch(field) for field in fields):
        return "schedule", (
            'must be five fields, minute hour day month weekday, such as "*/5 * * * *" or '
            f'"30 4 * * MON-FRI", not "{expression}"'
        )
    from cronsim import CronSimError

    try:
        if next_after(expression, "UTC", _SOME_DAY_S) is None:
            return "schedule", f'= "{expression}" never comes'
    except (CronSimError, ValueError) as error:
        field = (
            str(error).removeprefix("Bad ").replace("day-of-month", "day").replace("day-of-week", "weekday")
        )
        return "schedule", f'= "{expression}" has a bad {field}: the fields are minute hour day month weekday'
    if _zone(zone) is None:
        near = difflib.get_close_matches(zone, zoneinfo.available_timezones(), n=1, cutoff=0.5)
        advice = f'; did you mean "{near[0]}"?' if near else ""
        return "zone", f'must be a time zone such as "UTC" or "Europe/Berlin", not "{zone}"{advice}'
    return None


def next_after(expression: str, zone: str, after_s: int) -> int | None:
    """The first instant after that one; None: there is none within fifty years."""
    return next(_instants(expression, zone, after_s), None)


def plan(schedule: Schedule, last_s: int, now_s: int) -> Firing | None:
    """What is to be fired now, `last_s` being dealt with; None: nothing is due."""
    expression, zone = schedule.expression, schedule.zone
    first_s = next_after(expression, zone, last_s)
    if first_s is None or first_s > now_s:
        return None
    on_time_s = max(last_s, now_s - ON_TIME_S - 1)
    fired = _newest(expression, zone, on_time_s, now_s, ON_TIME_S)
    if schedule.missed is Missed.ALL:
        missed = _newest(expression, zone, last_s, on_time_s, MOST_MISSED)
        fired = missed + fired
    elif not fired and schedule.missed is Missed.ONCE:
        fired = _newest(expression, zone, last_s, now_s, 1)
    newest_s = fired[-1] if fired else _newest(expression, zone, last_s, now_s, 1)[-1]
    before_s = fired[0] if fired else newest_s + 1
    return Firing(tuple(fired), newest_s, (first_s, before_s) if first_s < before_s else None)


def meta_of(sender: str, instant_s: int) -> tuple[str, str]:
    """What a function is told of its firing: the schedule's name and the time it was due."""
    return sender.rpartition("/")[2], words_of(instant_s)


def words_of(instant_s: int) -> str:
    """An instant in RFC 3339."""
    return datetime.fromtimestamp(instant_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _newest(expression: str, zone: str, after_s: int, until_s: int, most: int) -> list[int]:
    """The last instants of those in (after, until], `most` at most.

    Only forwards does cronsim get the changes of summer time right. So windows are tried that end at
    `until`: each twice as long as the one before, until one holds enough; where it holds far too many (a
    rule may come every minute of one month), one halfway back to the one before.
    """
    short_s = 0  # holds fewer than `most`
    window_s = most * _STEP_S
    while True:
        begin_s = max(after_s, until_s - window_s)
        instants = takewhile(lambda instant_s: instant_s <= until_s, _instants(expression, zone, begin_s))
        found = list(islice(instants, _MOST_LOOKED_AT + 1))
        if len(found) > _MOST_LOOKED_AT:
            window_s = (short_s + window_s) // 2
        elif len(found) >= most or begin_s == after_s:
            return found[-most:]
        else:
            short_s, window_s = window_s, 2 * window_s


def _instants(expression: str, zone: str, after_s: int) -> Iterator[int]:
    """The instants after that one. Of what cronsim says only what goes forwards is believed."""
    newest_s = after_s
    for moment in _simulation(expression, datetime.fromtimestamp(after_s, _zone(zone) or UTC)):
        instant_s = int(moment.timestamp())
        if instant_s > newest_s:
            newest_s = instant_s
            yield instant_s


def _simulation(expression: str, begin: datetime) -> CronSim:
    from cronsim import CronSim  # here, for most nodes have no schedule

    return CronSim(expression, begin)


def _zone(name: str) -> tzinfo | None:
    """None: there is no such time zone."""
    if name == "UTC":
        return UTC
    if _ZONE.fullmatch(name) is None:
        return None
    try:
        return zoneinfo.ZoneInfo(name)  # remembers those it has read
    except (KeyError, ValueError, OSError):
        return None
