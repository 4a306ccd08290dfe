"""What was published, to its subscribers: batch by batch, of all the publications that this node has.

One trio task with a connection of its own, open while there is something to do: neither commits nor the
dispatcher wait for it. Of one publisher's on one topic the earliest comes first, so that its messages come to
each subscriber in order. After a large batch it rests for as long as that took.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from time import perf_counter
from typing import Final

import trio

from inversion.delivery.aftermath import AWAY_PAUSE_S, OUTRUN_PAUSE_S
from inversion.messages import Delivery
from inversion.observe import logs
from inversion.observe.metrics import Counters
from inversion.state.consequence_rows import LEASE_MS
from inversion.state.dialing import ConnectionLost, Settings, UnfitServer
from inversion.state.lane import Backoff, Knocking
from inversion.state.outbox import PutOff
from inversion.state.postgres import Connection, StatementFailed
from inversion.state.publications import fan_out

#: Publications that one node has; further ones are left to other nodes.
_MOST: Final = 64
#: Of a batch that made as many messages others are to notice little.
_LARGE: Final = 100
_LONGEST_REST_S: Final = 1.0
#: The connection stays for so long without work.
_IDLE_S: Final = 10.0
_log = logs.get_logger("topics")

#: The topic and its publisher; the place among that one's publications.
_Pair = tuple[str | None, str]
_Place = tuple[int, int]


class FanOut:
    """Of one node. `run` it as a task.

    `made` is called when messages were made, `give_back` with what this node cannot go on with now.
    """

    def __init__(
        self,
        conninfo: str,
        node: bytes,
        counters: Counters,
        knocking: Knocking,
        made: Callable[[], None],
        give_back: Callable[[PutOff], None],
    ) -> None:
        self._conninfo = conninfo
        self._node = node
        self._counters = counters
        self._knocking = knocking
        self._made = made
        self._give_back = give_back
        self._pairs: dict[_Pair, dict[_Place, Delivery]] = {}
        self._some = trio.Event()
        self._renewed_s = 0.0
        self._draining = False

    @property
    def held(self) -> int:
        """How many publications this node has now."""
        return sum(map(len, self._pairs.values()))

    @property
    def room(self) -> int:
        """How many more it takes."""
        return 0 if self._draining else _MOST - self.held

    def take(self, publication: Delivery) -> None:
        """It was claimed by this node."""
        pair = self._pairs.setdefault((publication.target.key, publication.sender), {})
        pair[publication.sender_version, publication.seq] = publication
        self._some.set()

    def renewals(self, now_s: float) -> Sequence[Delivery]:
        """Those whose lease is to be renewed: one that waits for an earlier one of its pair may wait long."""
        if now_s - self._renewed_s < LEASE_MS / 3_000:
            return ()
        self._renewed_s = now_s
        return self._all()

    def drain(self) -> None:
        """Give back what it has, for other nodes to go on with."""
        self._draining = True
        for publication in self._all():
            self._return(publication, 0.0)

    async def run(self) -> None:
        """Serve until cancelled; a database that is away is tried again."""
        backoff = Backoff()
        while True:
            await self._some.wait()
            if not self._pairs:
                self._some = trio.Event()
                continue
            await self._knocking.turn()
            try:
                connection = await Connection.open(self._conninfo, Settings())
            except (ConnectionLost, StatementFailed, UnfitServer) as failure:
                self._knocking.failed(failure, "no database")
                for publication in self._all():  # another node may have a connection
                    self._return(publication, AWAY_PAUSE_S)
                continue
            self._knocking.succeeded()
            try:
                await self._serve(connection, backoff)
            except ConnectionLost:  # what was sent is known by the progress that the next statement finds
                await backoff.pause()
            finally:
                connection.close()

    async def _serve(self, connection: Connection, backoff: Backoff) -> None:
        """Until there has been nothing to do for a while."""
        while True:
            while self._pairs:
                began_s = perf_counter()
                made = await self._advance(connection, [pair[min(pair)] for pair in self._pairs.values()])
                backoff.reset()
                if made:
                    self._made()
                if made >= _LARGE:
                    await trio.sleep(min(perf_counter() - began_s, _LONGEST_REST_S))
            self._some = trio.Event()
            with trio.move_on_after(_IDLE_S):
                await self._some.wait()
            if not self._pairs:
                return

    async def _advance(self, connection: Connection, publications: Sequence[Delivery]) -> int:
        """The next batch of each; how many messages were made."""
        try:
            batches = await fan_out(connection, self._node, publications)
        except StatementFailed as failure:
            if len(publications) > 1:  # whichever is at fault is to fail alone
                return sum([await self._advance(connection, [each]) for each in publications])
            _log.error("publication_refused_by_the_database", reason=str(failure))
            self._return(publications[0], AWAY_PAUSE_S)
            return 0
        for publication in publications:
            batch = batches.get(publication)
            if batch is None:
                self._return(publication, OUTRUN_PAUSE_S)  # an earlier one is elsewhere, or it was lost
            elif batch.done:
                self._counters.publications += 1
                self._drop(publication)
        made = sum(batch.made for batch in batches.values())
        self._counters.messages_published += made
        return made

    def _all(self) -> Sequence[Delivery]:
        return [publication for pair in self._pairs.values() for publication in pair.values()]

    def _return(self, publication: Delivery, pause_s: float) -> None:
        if self._drop(publication):
            self._give_back(PutOff(publication, pause_s))

    def _drop(self, publication: Delivery) -> bool:
        """Whether it was still held; it may have been given back, or claimed again, meanwhile."""
        pair = self._pairs.get(key := (publication.target.key, publication.sender))
        place = publication.sender_version, publication.seq
        if pair is None or pair.get(place) is not publication:
            return False
        del pair[place]
        if not pair:
            del self._pairs[key]
        return True
