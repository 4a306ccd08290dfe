"""What a child prints, on its way to the log."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from inversion.processes.log_lines import LINE_BYTES, SECOND_BYTES, TAIL_BYTES, LogLines


def lines() -> tuple[LogLines, list[str]]:
    told: list[str] = []
    return LogLines("fn", "stderr", lambda function, stream, text: told.append(text)), told


def test_whole_lines_are_told_as_they_come():
    stream, told = lines()
    stream.feed(b"one\ntw", 0.0)
    assert told == ["one"]
    stream.feed(b"o\r\n\n", 0.0)
    assert told == ["one", "two", ""]


def test_the_end_makes_a_line_of_what_has_no_newline():
    stream, told = lines()
    stream.feed(b"last", 0.0)
    stream.end()
    assert told == ["last"]


def test_bytes_that_are_no_text_are_shown_all_the_same():
    stream, told = lines()
    stream.feed(b"\xff\n", 0.0)
    assert told == ["\ufffd"]


def test_a_long_line_is_cut_and_the_next_one_is_whole():
    stream, told = lines()
    for _ in range(3):
        stream.feed(b"x" * LINE_BYTES, 0.0)
    stream.feed(b"\nnext\n", 0.0)
    assert told == ["x" * LINE_BYTES + f" [cut at {LINE_BYTES} bytes]", "next"]


def test_more_than_a_seconds_worth_is_counted_instead():
    stream, told = lines()
    line = b"x" * 1_023 + b"\n"
    stream.feed(line * 100, 10.0)
    assert len(told) == SECOND_BYTES // len(line)
    stream.feed(line * 100, 10.9)
    assert len(told) == SECOND_BYTES // len(line)
    stream.feed(b"again\n", 11.0)
    dropped, again = told[-2:]
    assert dropped.startswith("[139264 bytes dropped")  # 136 lines
    assert again == "again"


def test_dropping_goes_on_to_the_end_of_a_line():
    stream, told = lines()
    stream.feed(b"x\n" * SECOND_BYTES, 0.0)
    stream.feed(b"half a li", 0.1)
    stream.feed(b"ne\nwhole\n", 2.0)
    assert told[-1] == "whole"
    assert "ne" not in told


def test_the_tail_is_the_last_of_it():
    stream, _ = lines()
    stream.feed(b"a" * TAIL_BYTES, 0.0)
    stream.feed(b"end\n", 0.0)
    assert stream.tail == "a" * (TAIL_BYTES - 4) + "end"


@given(st.binary(max_size=200), st.lists(st.integers(0, 200), max_size=6))
def test_any_chunking_gives_the_same_lines(text, cuts):
    def told_of(chunks):
        stream, told = lines()
        for chunk in chunks:
            stream.feed(chunk, 0.0)
        stream.end()
        return told

    points = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    assert told_of([text[a:b] for a, b in pairwise(points)]) == told_of([text])
