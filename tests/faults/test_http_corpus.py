"""Row C9: what is malformed is refused and the connection closed; nobody's bytes become another's request.

h11 reads every case too: what it refuses must be refused here, and no request may be seen that it does not
see. It alone is not enough: it lets pass much that is refused here.
"""

from __future__ import annotations

import socket
import struct
from contextlib import suppress

import h11
import pytest
import trio
import trio.testing
from front_door import Answer, Client, EndOfAnswers, open_door, post
from http_cases import CALL, Case, chunked, with_lines
from http_cases_bodies import BODIES, EARLY_ENDS
from http_cases_fields import FIELDS
from http_cases_lines import LINES
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from inversion.errors import InversionError
from inversion.http.framing import HttpRequest
from inversion.http.routes import refuse
from inversion.http.service import HttpResponse

TABLES = {"lines": LINES, "fields": FIELDS, "bodies": BODIES, "early ends": EARLY_ENDS}

#: The only cases where h11 refuses and we do not. RFC 9112, 2.2: a server SHOULD ignore at least one empty
#: line before a request line, for old clients end their bodies with one that no length counts.
MORE_LENIENT = {"one empty line before it", "an empty line between two"}

NEXT = b'"next"'

_WHOLE = with_lines(b"Content-Length: 3", body=b"[1]")
WHOLE_ENDS = len(_WHOLE)
WHOLE_AND_CHUNKED = _WHOLE + chunked(b"1\r\n[\r\n2;x\r\n2]\r\n0\r\n\r\n")


async def answers_to(client: Client, case: Case) -> list[Answer]:
    answers: list[Answer] = []
    while True:
        head_only = case.head_only and not answers
        try:
            answers.append(await client.answer("HEAD" if head_only else "GET"))
        except EndOfAnswers:
            return answers
        if answers[-1].fields.get("connection") == "close":
            assert await client.at_end()
            return answers


@pytest.mark.fault("C9", "malformed requests, each on a socket of its own")
@pytest.mark.parametrize("table", TABLES)
async def test_each_case_has_its_status_and_lets_nothing_slip_through(row, table):
    failures = []
    async with open_door() as door:
        for case in TABLES[table]:
            with trio.fail_after(5):
                client = await door.connect()
                if case.hangs_up:
                    await client.send(case.raw)
                    await client.send_eof()
                else:
                    # Behind an accepted request it is answered; behind a refusal nobody may see it.
                    await client.send(case.raw + post(CALL, NEXT))
                    if case.keeps:
                        await client.send_eof()
                answers = await answers_to(client, case)
            for answer in answers:
                assert answer.status < 400 or answer.fields["content-type"] == "application/problem+json"
                assert answer.status < 400 or answer.fields["inversion-outcome"] == "not_applied"
            if answers and not (case.keeps or case.hangs_up):
                assert answers[-1].fields["connection"] == "close"
            expected = (case.statuses, case.bodies)
            if case.keeps:
                expected = ((*case.statuses, 200), (*case.bodies, NEXT))
            found = (tuple(a.status for a in answers), tuple(seen.body for seen in door.calls.seen))
            if found != expected:
                failures.append(f"{case.name}: {found} where {expected} is due ({case.why})")
            else:
                row.fired(f"{case.name}: {case.statuses}")
            door.calls.seen.clear()
            door.clients.remove(client)
            await client.aclose()
        assert await door.is_well()
        row.recovered()
    assert not failures, "\n".join(failures)


def h11_reads(raw: bytes, *, forgiving: bool = False) -> tuple[list[bytes], bool]:
    """The bodies of the requests that h11 sees in it, and whether it refuses what comes then.

    Forgiving: an empty line before a request is taken away first (see MORE_LENIENT), and a connection of
    HTTP/1.0 lives on when it asks for that (RFC 9112, C.2.2), which h11 leaves out.
    """
    bodies: list[bytes] = []
    while True:
        if forgiving:
            raw = raw.removeprefix(b"\r\n")
        connection = h11.Connection(h11.SERVER, max_incomplete_event_size=16 << 10)
        connection.receive_data(raw)
        connection.receive_data(b"")
        body = b""
        try:
            while not isinstance(event := connection.next_event(), h11.EndOfMessage):
                if isinstance(event, h11.Data):
                    body += event.data
                elif isinstance(event, h11.Request):
                    old = event.http_version == b"1.0"
                    asks = (b"connection", b"keep-alive") in [(n, v.lower()) for n, v in event.headers]
                else:
                    return bodies, False  # the end, or what is no request any more
        except h11.RemoteProtocolError:
            return bodies, True
        bodies.append(body)
        if connection.their_state is not h11.DONE and not (forgiving and old and asks):
            return bodies, False
        raw = connection.trailing_data[0]


def test_what_h11_refuses_is_refused():
    every = [case for table in TABLES.values() for case in table]
    assert len(every) >= 150
    assert len({case.name for case in every}) == len(every)
    more_lenient = {case.name for case in every if case.statuses[-1:] == (200,) and h11_reads(case.raw)[1]}
    assert more_lenient <= MORE_LENIENT


def test_every_case_that_is_accepted_means_the_same_to_h11():
    for case in (case for table in TABLES.values() for case in table):
        if case.bodies and case.name not in MORE_LENIENT:
            assert tuple(h11_reads(case.raw)[0][: len(case.bodies)]) == case.bodies, case.name


#: Requests that are well, to be spoilt.
SOUND = [case.raw for table in TABLES.values() for case in table if case.bodies and len(case.raw) < 400]
#: What spoils them, put in anywhere or in place of something.
SPICES = [
    *(
        b"\r",
        b"\n",
        b"\r\n",
        b"\r\n\r\n",
        b"\n\n",
        b" ",
        b"\t",
        b"\0",
        b",",
        b":",
        b";",
        b"\x0b",
        b"\xff",
        b"0",
        b"1",
    ),
    *(b"Content-Length: 1\r\n", b"content-length: 0\r\n", b"Transfer-Encoding: chunked\r\n", b"Host: b\r\n"),
    *(
        b"chunked",
        b"Connection: close\r\n",
        b"Expect: 100-continue\r\n",
        b" HTTP/1.0",
        b"0\r\n\r\n",
        b"-",
        b"+",
    ),
]


@st.composite
def spoilt(draw: st.DrawFn) -> bytes:
    raw = b"".join(draw(st.lists(st.sampled_from(SOUND), min_size=1, max_size=3)))
    for _ in range(draw(st.integers(1, 3))):
        at = draw(st.integers(0, len(raw)))
        gone = draw(st.sampled_from((0, 0, 0, 1, 2, 5)))
        raw = raw[:at] + draw(st.sampled_from(SPICES)) + raw[at + gone :]
    return raw


class Recorder:
    """An application that takes everything."""

    def __init__(self) -> None:
        self.bodies: list[bytes] = []

    async def answer(self, request: HttpRequest) -> HttpResponse:
        self.bodies.append(request.body)
        return HttpResponse(200, b"", b"")

    def refuse(self, error: InversionError) -> HttpResponse:
        return refuse(error)


@given(spoilt(), st.floats(0, 1))
@example(b"\rPOST " + CALL + b" HTTP/1.1\r\nHost: a\r\n\r\n", 0.0)
@example(chunked(b"1 ;a=b\r\n1\r\n0\r\n\r\n"), 0.0)
@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
async def test_no_spoilt_request_is_an_error_of_ours_or_seen_otherwise_than_by_h11(raw, cut):
    recorder = Recorder()
    async with open_door(application=recorder) as door:
        answers = await door.exchange(raw)
        seen = recorder.bodies.copy()
        # In two pieces it is the same.
        recorder.bodies.clear()
        client = await door.connect()
        client.stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        await client.send(raw[: int(len(raw) * cut)])
        await trio.testing.wait_all_tasks_blocked(0.0001)
        await client.send(raw[int(len(raw) * cut) :])
        with suppress(OSError):  # it has been closed
            await client.send_eof()
        again = await client.answers_to_the_end()
        assert [answer.status for answer in again] == [answer.status for answer in answers]
        assert recorder.bodies == seen
        assert [answer.status for answer in await door.exchange(post(CALL, NEXT))] == [200]
    assert all(answer.status < 500 for answer in answers)
    read, _refused = h11_reads(raw, forgiving=True)
    assert seen == read[: len(seen)]


async def test_a_client_may_break_off_at_any_byte():
    raw = WHOLE_AND_CHUNKED
    ends = [WHOLE_ENDS, len(raw)]
    async with open_door() as door:
        for cut in range(len(raw) + 1):
            answers = await door.exchange(raw[:cut])
            whole = sum(end <= cut for end in ends)
            statuses = [200] * whole + [400] * (cut not in (0, *ends))
            assert [answer.status for answer in answers] == statuses, cut
            assert len(door.calls.seen) == whole, cut
            door.calls.seen.clear()


async def test_a_client_may_be_reset_at_any_byte():
    raw = WHOLE_AND_CHUNKED
    async with open_door(connections=1_000) as door:
        for cut in range(len(raw) + 1):
            client = await door.connect()
            client.stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            await client.send(raw[:cut])
            await client.aclose()
        while door.server.counters.connections_open:
            await trio.testing.wait_all_tasks_blocked(0.01)
        assert all(seen.body in (b"[1]", b"[2]") for seen in door.calls.seen)
        assert door.server.counters.requests_by_class[5] == 0
        assert await door.is_well()
