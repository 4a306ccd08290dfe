"""Schedules of the campaign: each minute once over all nodes, in its order, told before or still under way.

All are of every minute; what is due is made so by setting a row back that has never fired, one after the
other. `last_at` of a row says up to which minute there are messages.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Final

import psycopg
import trio
from tests.faults.campaign.snapshots import FUNCTION, Snapshot

CHIMES: Final = 60
MINUTES: Final = 20
PAUSE_S: Final = 0.7
#: What goes into inversion.toml.
TOML: Final = f"\n[functions.{FUNCTION}.cron]\n" + "".join(
    f'c{number} = {{ schedule = "* * * * *", key = "chime-{number}", handler = "strike", missed = "all" }}\n'
    for number in range(CHIMES)
)
_SET_BACK: Final = """
    UPDATE inversion.cron
       SET last_at = date_trunc('minute', now()) - %s * interval '1 minute'
     WHERE function = %s AND name = %s AND fired_at IS NULL
    RETURNING extract(epoch FROM last_at)::int8 / 60
"""


class Chimes:
    """Of one run."""

    def __init__(self, database_url: str) -> None:
        self.keys = [f"chime-{number}" for number in range(CHIMES)]
        self._database_url = database_url
        self._begun: dict[str, int] = {}  #: by key, the minute before the first one

    async def set_back_for_ever(self, stop: trio.Event) -> None:
        """Until all are; one that may have been set back is not looked at more closely."""
        for key in self.keys:
            with trio.move_on_after(PAUSE_S):
                await stop.wait()
                return
            minute = await trio.to_thread.run_sync(self._set_back, key)
            if minute is not None:
                self._begun[key] = minute

    def _set_back(self, key: str) -> int | None:
        try:
            with psycopg.connect(self._database_url, autocommit=True, connect_timeout=5) as connection:
                name = f"c{key.rpartition('-')[2]}"
                row = connection.execute(_SET_BACK, (MINUTES, FUNCTION, name)).fetchone()
                return None if row is None else int(row[0])
        except psycopg.Error:
            return None

    def begun(self) -> Mapping[str, int]:
        """Before a look."""
        return dict(self._begun)

    def faults_of(self, snapshot: Snapshot, begun: Mapping[str, int]) -> Iterator[str]:
        ways = Counter(each.key for each in snapshot.messages if each.handler == "strike")
        for key in self.keys:
            struck, last = snapshot.states.get(key), snapshot.schedules.get(key)
            if last is None or (struck is None and key not in begun):
                continue  # not adopted, or nobody knows where it began
            first = begun[key] + 1 if key in begun else struck["first"] if struck is not None else 0
            if struck is not None and struck["first"] != first:
                yield f"{key} began with {struck['first']}, not {first}"
            heard = 0 if struck is None else struck["last"] - struck["first"] + 1
            if first + heard + ways[key] != last + 1:
                yield f"{key}: {heard} of {last + 1 - first} have struck, and {ways[key]} are under way"

    def counted(self, snapshot: Snapshot) -> int:
        """How many have struck."""
        states = [snapshot.states[key] for key in self.keys if key in snapshot.states]
        return sum(state["last"] - state["first"] + 1 for state in states)
