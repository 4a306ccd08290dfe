"""All spawners of a node: one for each way in which children are confined, begun on first need."""

from __future__ import annotations

from collections.abc import Sequence

from inversion.processes.spawner import Confinement, Spawner
from inversion.watch import Watch


class Spawners:
    """All of a node's, by how they confine."""

    def __init__(self, watch: Watch) -> None:
        self._watch = watch
        self._spawners: dict[Confinement, Spawner] = {}

    def of(self, confinement: Confinement) -> Spawner:
        """Its process is started with the first child, or by `get_ready`."""
        spawner = self._spawners.get(confinement)
        if spawner is None:
            spawner = self._spawners[confinement] = Spawner(self._watch, confinement)
        return spawner

    def sweep(self, now_s: float) -> None:
        """Every 50 ms."""
        for spawner in self._spawners.values():
            spawner.sweep(now_s)

    @property
    def pids(self) -> Sequence[int]:
        return [spawner.pid for spawner in self._spawners.values() if spawner.pid is not None]

    async def close(self) -> None:
        """End them all and reap them. Bound it with a cancel scope; what is left is then killed."""
        try:
            for spawner in self._spawners.values():
                spawner.close()
            while any(spawner.pid is not None for spawner in self._spawners.values()):
                await self._watch.serve_once()
        finally:
            for spawner in self._spawners.values():
                spawner.kill()
