"""S9: a node kills itself at each moment of a message's way (message_points.py), alone and in pairs.

Entities pay, play, tell a crowd and wind timers (campaign/talking.py) while it dies and is started again. In
every snapshot of the database nothing of that is missing, and in the end all of it has come out as asked.
"""

from __future__ import annotations

import shutil
import signal
import sys
import uuid
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path

import attrs
import pytest
import trio
from message_points import POINTS
from test_crash_points import ALTERED_NODE, every_pair
from tests.faults.campaign.talking import Talking

from fix_command import RunningCommand, StartCommand
from fix_matrix import TIMES, Row
from fix_node import RUNTIMES

NUMBERS = range(1, len(POINTS) + 1)
#: Who waits for a dead node's messages waits for that.
LEASE_S = "0.5"
#: Until there is a message for the point, on a busy machine.
PATIENCE_S = 90.0

Serve = Callable[[int | None], AbstractContextManager[RunningCommand]]


@attrs.define
class Latest:
    """The door of the node that lives now."""

    url: str = ""
    up: bool = True


def couriers_folder(parent: Path) -> Path:
    """For one node more: the entities that talk, and nothing else."""
    folder = parent / uuid.uuid4().hex[:8]
    folder.mkdir()
    shutil.copy(Path(__file__).parent / "campaign" / "couriers.py", folder)
    shutil.copy(RUNTIMES / "python" / "shim.py", folder)
    (folder / "inversion.toml").write_text(
        f"""
        [functions.courier-py]
        command = ["{sys.executable}", "couriers.py"]
        sandbox = "none"
        retry = {{ attempts = 1000, pause = "20ms", longest_pause = "100ms" }}
        """
    )
    return folder


@pytest.fixture
def serve(short_folder: Path, database_url: str, start_command: StartCommand) -> Serve:
    """`serve(point)`: a node that crashes there."""
    folder = couriers_folder(short_folder)

    @contextmanager
    def start(point: int | None) -> Iterator[RunningCommand]:
        arguments = ("serve", "--config", folder, "--database-url", database_url)
        crash = {} if point is None else {"INVERSION_CRASH_AT": f"m{point}:{POINTS[point - 1][1]}"}
        environ = {"INVERSION_LEASE_S": LEASE_S, **crash}
        with start_command(*arguments, program=(ALTERED_NODE,), **environ) as command:
            yield command

    return start


async def crash(points: Iterable[int], serve: Serve, database_url: str, row: Row) -> None:
    """One life that ends at each point, and one that goes on."""
    latest, stop = Latest(), trio.Event()
    talking = Talking([latest], database_url, uuid.uuid4().hex[:6], hops=100, crowd=12, look_s=0.3)
    async with trio.open_nursery() as nursery:
        for point in points:
            name = POINTS[point - 1][0]
            with serve(point) as command:
                if not latest.url:
                    nursery.start_soon(talking.run, stop)
                latest.url = command.url
                with trio.move_on_after(PATIENCE_S):
                    while command.process.poll() is None:  # noqa: ASYNC110 (another process)
                        await trio.sleep(0.01)
                assert command.process.poll() == -signal.SIGKILL, f"it did not reach '{name}'"
            snapshot = await talking.look()
            assert snapshot is not None
            row.fired(f"it killed itself at '{name}', {snapshot.under_way} messages under way")
            assert talking.wrong == [], f"seen after it had died at '{name}'"
        with serve(None) as command:
            latest.url = command.url
            stop.set()
            await talking.drain()
            row.recovered()
    assert talking.wrong == []
    assert min(talking.counts[name] for name in ("payments", "hops", "messages to everybody")) > 0


@pytest.mark.fault(
    "S9",
    f"the node kills itself at each of {len(POINTS)} moments of a message's way, one life after the other",
)
@pytest.mark.timeout(60 * 20)
async def test_a_node_that_dies_at_any_moment_of_a_message_loses_and_repeats_none(
    serve: Serve, database_url: str, row: Row
) -> None:
    for _ in range(row.times):
        await crash(NUMBERS, serve, database_url, row)


PARTS = [
    every_pair(NUMBERS)[begin : begin + len(NUMBERS) + 1]
    for begin in range(0, len(NUMBERS) ** 2, len(NUMBERS))
]


@pytest.mark.skipif(TIMES == 1, reason="pairs of moments are for the long run: INVERSION_FAULT_TIMES")
@pytest.mark.parametrize("points", PARTS, ids=[f"part{number}" for number in range(len(PARTS))])
@pytest.mark.fault("S9", "the node kills itself at a moment of a message's way, and again at another")
@pytest.mark.timeout(60 * 20)
async def test_a_node_that_dies_again_loses_and_repeats_no_message(
    points: Sequence[int], serve: Serve, database_url: str, row: Row
) -> None:
    await crash(points, serve, database_url, row)
