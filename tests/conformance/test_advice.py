"""What is said of a program, by what was seen of it."""

from __future__ import annotations

import pytest

from inversion.conformance.advice import advise
from inversion.conformance.faults import Fault, Sighting

ANSWER = b'{"id":"a.1","response":1}'
HELLO = b'{"hello":{"protocol":1}}'


@pytest.mark.parametrize(
    ("seen", "fault"),
    [
        (Sighting(in_flight=["a.1"], after_eof=[HELLO, ANSWER]), Fault.UNFLUSHED),
        (Sighting(in_flight=["a.1"], after_more=[ANSWER]), Fault.LATE),
        (Sighting(in_flight=["a.1"], after_more=[b'{"id":"b.1"}']), Fault.SILENT),
        (Sighting(in_flight=["a.1"], held=ANSWER), Fault.NO_NEWLINE),
        (Sighting(in_flight=["a.1"], held=b'{"id":"a.1",'), Fault.NO_NEWLINE),
        (Sighting(in_flight=["a.1"], has_u2028=True), Fault.U2028),
        (Sighting(in_flight=["a.1"], untaken_bytes=90_000, last_bytes=100_000), Fault.STOPPED_READING),
        (Sighting(in_flight=["a.1"], output_is_over=True), Fault.CLOSED),
        (Sighting(in_flight=["b.1"], answered=["a.1"], status=0), Fault.LEFT),
        (Sighting(in_flight=["a.1"], status=0), Fault.LEFT_AT_ONCE),
        (Sighting(in_flight=["a.1"], status=1), Fault.DIED),
        (Sighting(in_flight=["a.1"], signal="SIGSEGV", last_bytes=70_000), Fault.DIED_OF_SIZE),
        (Sighting(line=b'{"response":1}', in_flight=["a.1"]), Fault.NO_ID),
        (Sighting(line=b'{"id":1}', in_flight=["a.1"]), Fault.ID_CHANGED),
        (Sighting(line=b'{"id":"z"}', wanted={"id": "a.1"}, in_flight=["a.1"]), Fault.WRONG_ID),
        (Sighting(line=ANSWER, wanted={"id": "b.1"}, answered=["a.1"], in_flight=["b.1"]), Fault.TWICE),
        (Sighting(line=ANSWER, wanted={"id": "b.1"}, in_flight=["a.1", "b.1"]), Fault.SWAPPED),
        (Sighting(line=HELLO, answered=["a.1"]), Fault.HELLO_LATE),
        (Sighting(line=HELLO), Fault.HELLO_AGAIN),
        (Sighting(line=b"starting up"), Fault.PRINTS),
        (Sighting(line=b"working..." + ANSWER), Fault.GLUED),
        (Sighting(line=b"\xef\xbb\xbf" + ANSWER), Fault.BYTE_ORDER_MARK),
        (Sighting(line=b'{"id":"a.1","response":"\xfc"}'), Fault.NOT_UTF8),
        (Sighting(line=b"{"), Fault.SEVERAL_LINES),
        (Sighting(line=b'{"id":"a.1","response":NaN}'), Fault.NOT_JSON),
        (Sighting(line=b"{'id': 'a.1'}"), Fault.NOT_JSON),
        (Sighting(wants_end=True, input_is_over=True), Fault.STAYED),
        (Sighting(wants_end=True, input_is_over=True, status=1), Fault.EXIT_STATUS),
        (Sighting(wants_end=True, input_is_over=True, line=ANSWER, status=0), Fault.RAN_TORN_LINE),
    ],
)
def test_what_was_seen_has_a_name_and_a_remedy(seen: Sighting, fault: Fault) -> None:
    first = advise(seen)[0]
    assert first.fault is fault
    assert first.remedy


def test_the_remedy_for_a_buffer_is_that_of_the_program() -> None:
    def remedy(*program: str) -> str:
        return advise(Sighting(program=program, in_flight=["a.1"], after_eof=[ANSWER]))[0].remedy

    assert "jq --unbuffered" in remedy("/usr/bin/jq", "-c", ".")
    assert "flush=True" in remedy("python3.11", "f.py")
    assert "stdbuf" in remedy("./a-program")


def test_a_death_is_told_with_the_end_of_its_stderr() -> None:
    seen = Sighting(in_flight=["a.1"], status=1, log="Traceback\nKeyError: 'qty'\n")
    assert "KeyError: 'qty'" in advise(seen)[0].sentence
