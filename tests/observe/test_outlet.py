"""Lines to a stream that may be slow, full or gone: the node never waits for it."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from typing import TextIO

import pytest

from inversion.observe.outlet import Outlet


@pytest.fixture
def pipe() -> Iterator[tuple[int, TextIO]]:
    """A pipe's reading descriptor and a writer on the other end."""
    reader, writer = os.pipe()
    os.set_blocking(reader, False)
    stream = os.fdopen(writer, "w")
    yield reader, stream
    stream.close()
    os.close(reader)


def drain(reader: int) -> bytes:
    data = b""
    try:
        while chunk := os.read(reader, 1 << 20):
            data += chunk
    except BlockingIOError:
        return data
    return data


def told(count: int) -> str:
    return f"dropped {count}"


def test_lines_arrive_in_order(pipe: tuple[int, TextIO]) -> None:
    reader, stream = pipe
    outlet = Outlet(stream, told)
    outlet.write("one")
    outlet.write("two ä")
    assert drain(reader) == "one\ntwo ä\n".encode()


def test_a_full_pipe_keeps_lines_until_there_is_room(pipe: tuple[int, TextIO]) -> None:
    reader, stream = pipe
    outlet = Outlet(stream, told)
    lines = [f"{number} ".ljust(5_000, "x") for number in range(100)]
    for line in lines:
        outlet.write(line)  # 500 kB into a pipe of 64 KiB: would wait for ever if it could wait
    received = b""
    while b"99 " not in received or not received.endswith(b"\n"):
        received += drain(reader)
        outlet.flush()
    assert received.decode().splitlines() == lines
    assert outlet.dropped == 0


def test_lines_over_the_bound_are_dropped_counted_and_told(pipe: tuple[int, TextIO]) -> None:
    reader, stream = pipe
    outlet = Outlet(stream, told)
    for _ in range(6):
        outlet.write("x" * (1 << 20))
    assert outlet.dropped > 0
    dropped = outlet.dropped
    received = b""
    while chunk := drain(reader):
        received += chunk
        outlet.flush()
    outlet.write("after")
    lines = (received + drain(reader)).decode().splitlines()
    assert lines[-2:] == [f"dropped {dropped}", "after"]
    assert len(lines) == 6 - dropped + 2


def test_a_reader_that_left_is_no_error(pipe: tuple[int, TextIO]) -> None:
    _, stream = pipe
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as gone:
        outlet = Outlet(gone, told)
        outlet.write("nobody reads this")
        assert outlet.dropped == 1
    del stream


def test_a_full_disk_is_no_error_and_keeps_what_fits(pipe: tuple[int, TextIO]) -> None:
    with open("/dev/full", "w") as full:
        outlet = Outlet(full, told)
        for _ in range(6):
            outlet.write("x" * (1 << 20))
        outlet.sweep()
        assert outlet.dropped == 3


def test_what_was_dropped_is_told_as_soon_as_there_is_room_without_another_line(
    pipe: tuple[int, TextIO],
) -> None:
    reader, stream = pipe
    outlet = Outlet(stream, told)
    for _ in range(6):
        outlet.write("x" * (1 << 20))
    received = b""
    while chunk := drain(reader):
        received += chunk
        outlet.sweep()
    assert received.decode().splitlines()[-1] == f"dropped {outlet.dropped}"


def test_the_shared_descriptor_is_not_made_non_blocking(pipe: tuple[int, TextIO]) -> None:
    _, stream = pipe
    Outlet(stream, told).write("x")
    assert os.get_blocking(stream.fileno())


def test_a_stream_in_memory_will_do() -> None:
    stream = io.StringIO()
    Outlet(stream, told).write("x")
    assert stream.getvalue() == "x\n"


def test_lines_that_may_wait_go_together_when_they_come_thick(pipe: tuple[int, TextIO]) -> None:
    reader, stream = pipe
    outlet = Outlet(stream, told)
    for number in range(40):
        outlet.write(str(number), may_wait=True)
    early = drain(reader).splitlines()
    assert early == [str(number).encode() for number in range(20)]
    outlet.sweep()
    assert drain(reader).splitlines() == [str(number).encode() for number in range(20, 40)]
    outlet.write("40", may_wait=True)
    assert drain(reader) == b"40\n"


def test_a_line_that_may_not_wait_takes_the_waiting_ones_along(pipe: tuple[int, TextIO]) -> None:
    reader, stream = pipe
    outlet = Outlet(stream, told)
    for number in range(40):
        outlet.write(str(number), may_wait=True)
    outlet.write("now")
    assert drain(reader).splitlines()[-2:] == [b"39", b"now"]
