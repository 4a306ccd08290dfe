"""What is done to nodes, functions, database and connections while the clients ask.

Kinds come from a bag that is filled again when it is empty, so all fire about as often; in a short run
the cuts of commits twice as often and more, in a long one the deaths of a node and of PostgreSQL eight
times. Each is seen to have happened before it counts. It is over when each function of every node that it
struck has answered a call that was sent after it; the next one waits for that.
"""

from __future__ import annotations

import os
import random
import signal
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter_ns
from typing import Final

import psycopg
import trio
from tests.faults.campaign.clients import CallingClient, Tally
from tests.faults.campaign.cuts import Cut
from tests.faults.campaign.nodes import Node
from tests.fix_postgres import Cluster

STOP_S: Final = (0.5, 2.0)
PAUSE_S: Final = (0.3, 1.5)  #: below the timeout of functions
#: A node that was away for that long must do no harm when it is back.
LONG_STOP_S: Final = 30.0
RECOVERY_S: Final = 60.0
MOST_CUTS: Final = 10  #: of one kind, one after the other
#: Of those that keep a commit for seconds; where others are to go on, what is sent again is to pass.
MOST_OF: Final = {Cut.HELD: 3, Cut.SWALLOWED: 3, Cut.PLAIN_REPLY_LOST: 2}
#: In a short run, so that each is met with every seed.
OFTEN: Final = (*Cut, *2 * [Cut.PLAIN_REPLY_LOST])
TORN: Final = 3  #: calls of each client
#: What the promises are about. A long run wants hundreds of them.
DEATHS: Final = ("node killed", "postmaster killed")
_LATER: Final = 1 << 62

Struck = Sequence[Node]


class Faults:
    def __init__(
        self,
        nodes: list[Node],
        postgres: Cluster,
        clients: list[CallingClient],
        tally: Tally,
        functions: Sequence[str],
        *,
        long: bool,
        dice: random.Random,
    ) -> None:
        self._nodes = nodes
        self._postgres = postgres
        self._clients = clients
        self._tally = tally
        self._functions = functions
        self._long = long
        self._dice = dice
        self.fired: Counter[str] = Counter()
        self.recovery_s: dict[str, list[float]] = {}
        self.wrong: list[str] = []
        self.kinds: dict[str, Callable[[], Awaitable[Struck]]] = {
            "function killed": self._kill_function,
            "function stopped": self._stop_function,
            "function paused": self._pause_function,
            "node killed": self._kill_node,
            "node stopped": self._stop_node,
            "node drained": self._drain_node,
            "postmaster killed": self._kill_postmaster,
            "backend killed": self._kill_backend,
            "backends terminated": self._terminate_backends,
            "connections torn": self._tear,
            **{cut.value: partial(self._cut, cut) for cut in Cut},
        }

    @property
    def all_fired(self) -> bool:
        return all(self.fired[kind] for kind in self.kinds)

    async def run(self, stop: trio.Event, every_s: float) -> None:
        bag: list[str] = []
        while not stop.is_set():
            with trio.move_on_after(every_s * self._dice.uniform(0.5, 1.5)):
                await stop.wait()
                return
            if not bag:
                more = 7 * DEATHS if self._long else [cut.value for cut in OFTEN]
                # Each once before any again: on a busy machine a short run has time for few.
                bag = [
                    *self._dice.sample(more, len(more)),
                    *self._dice.sample([*self.kinds], len(self.kinds)),
                ]
            await self.strike(bag.pop())

    async def strike(self, kind: str) -> None:
        """One fault, until all that it struck is well again."""
        begun_ns = perf_counter_ns()
        try:
            struck = await self.kinds[kind]()
        except ProcessLookupError:
            struck = ()  # it ended by itself before it was struck, or while it was stopped
        if not struck:
            return  # it found nothing to strike
        self.fired[kind] += 1
        with trio.move_on_after(RECOVERY_S) as waiting:
            await _until(lambda: all(self._well(node) for node in struck))
        if waiting.cancelled_caught:
            self.wrong.append(f"{kind}: no recovery within {RECOVERY_S:g} s")
        self.recovery_s.setdefault(kind, []).append((perf_counter_ns() - begun_ns) / 1e9)

    def _well(self, node: Node) -> bool:
        """Each of its functions has answered a call that was sent after the blow."""
        good_ns = self._tally.good_ns
        since_ns = max(node.disturbed_ns, node.struck_ns)
        return all(good_ns.get((node.name, function), 0) > since_ns for function in self._functions)

    def _struck(self, nodes: Sequence[Node]) -> Struck:
        for node in nodes:
            node.struck_ns = perf_counter_ns()
        return nodes

    # Functions.

    async def _kill_function(self) -> Struck:
        node = self._dice.choice(self._nodes)
        pids = node.functions()
        if not pids:
            return ()
        pid = self._dice.choice(pids)
        os.kill(pid, signal.SIGKILL)
        await _until(partial(_gone, pid))
        return self._struck([node])

    async def _stop_function(self) -> Struck:
        """It hangs until the function's timeout ends it."""
        node = self._dice.choice(self._nodes)
        pids = node.functions()
        if not pids:
            return ()
        os.kill(self._dice.choice(pids), signal.SIGSTOP)
        return self._struck([node])

    async def _pause_function(self) -> Struck:
        """It answers after all, perhaps when nobody waits for that any more."""
        node = self._dice.choice(self._nodes)
        pids = node.functions()
        if not pids:
            return ()
        pid = self._dice.choice(pids)
        os.kill(pid, signal.SIGSTOP)
        await trio.sleep(self._dice.uniform(*PAUSE_S))
        os.kill(pid, signal.SIGCONT)
        return self._struck([node])

    # Nodes.

    async def _kill_node(self) -> Struck:
        node = self._dice.choice(self._nodes)
        status = await node.end(signal.SIGKILL)
        assert status == -signal.SIGKILL, f"{node.name} had ended with {status} before"
        await node.start()
        return [node]

    async def _drain_node(self) -> Struck:
        node = self._dice.choice(self._nodes)
        status = await node.end(signal.SIGTERM)
        if status != 0:
            self.wrong.append(f"{node.name} drained and ended with {status}")
        await node.start()
        return [node]

    async def _stop_node(self) -> Struck:
        node = self._dice.choice(self._nodes)
        long = self._long and len(self._nodes) > 1 and self._dice.random() < 0.1
        node.signal(signal.SIGSTOP)
        node.disturbed_ns = _LATER  # whatever is late meanwhile is not its fault
        await trio.sleep(LONG_STOP_S if long else self._dice.uniform(*STOP_S))
        node.signal(signal.SIGCONT)
        return [node]

    # The database.

    async def _kill_postmaster(self) -> Struck:
        pid = self._postgres.embedded.pid
        if pid is None:
            return ()
        os.kill(pid, signal.SIGKILL)
        # Its backends live on for a moment; then there is nothing, and then another postmaster.
        with trio.fail_after(RECOVERY_S):
            await _until(lambda: self._postgres.embedded.pid not in (None, pid))
        return self._struck(self._nodes)

    async def _kill_backend(self) -> Struck:
        """PostgreSQL ends all its backends then and recovers."""
        pids = await self._ask("SELECT pid FROM pg_stat_activity WHERE application_name = 'inversion'")
        if not pids:
            return ()
        os.kill(self._dice.choice(pids), signal.SIGKILL)
        with trio.fail_after(RECOVERY_S):
            await _until(lambda: all(map(_gone, pids)))
        return self._struck(self._nodes)

    async def _terminate_backends(self) -> Struck:
        ended = await self._ask(
            "SELECT pg_terminate_backend(pid)::int FROM pg_stat_activity WHERE application_name = 'inversion'"
        )
        return self._struck(self._nodes) if any(ended) else ()

    async def _ask(self, text: str) -> list[int]:
        def ask() -> list[int]:
            try:
                url = self._postgres.conninfo
                with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
                    return [int(row[0]) for row in connection.execute(text).fetchall()]
            except psycopg.Error:
                return []

        return await trio.to_thread.run_sync(ask)

    # Connections.

    async def _cut(self, cut: Cut) -> Struck:
        """At some of the next commits of a node."""
        node = self._dice.choice(self._nodes)
        cuts = node.wire.cuts[cut]
        node.wire.plan(cut, self._dice.randint(1, MOST_OF.get(cut, MOST_CUTS)))
        with trio.move_on_after(10):
            await _until(lambda: not node.wire.left)
        node.wire.left = 0
        return self._struck([node]) if node.wire.cuts[cut] > cuts else ()

    async def _tear(self) -> Struck:
        """Clients leave as soon as they have sent: what became of it they learn by the key, or never."""
        torn = self._tally.torn
        for client in self._clients:
            client.tear = TORN
        with trio.move_on_after(10):
            await _until(lambda: self._tally.torn > torn)
        return self._struck(self._nodes) if self._tally.torn > torn else ()


async def _until(true: Callable[[], bool]) -> None:
    while not true():  # noqa: ASYNC110 (asks other processes)
        await trio.sleep(0.01)


def _gone(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except OSError:
        return True
