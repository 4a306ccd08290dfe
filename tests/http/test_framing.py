from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inversion.errors import Code, RequestRefused
from inversion.http.chunks import MAX_EXTENSION_BYTES, Chunks
from inversion.http.framing import HeadParser


def code_of(raw: bytes) -> Code:
    with pytest.raises(RequestRefused) as caught:
        HeadParser(1_000).parse(raw)
    return caught.value.code


def test_a_head_is_taken_apart() -> None:
    head = HeadParser(1_000).parse(
        b"POST /a?b=c HTTP/1.1\r\nHost: h\r\nX: 1\r\nx: 2\r\nContent-Length: 5\r\n\r\n"
    )
    assert (head.method, head.path, head.query) == (b"POST", b"/a", b"b=c")
    assert head.fields[b"x"] == b"1, 2"
    assert (head.length, head.keep_alive, head.old) == (5, True, False)


def test_heads_follow_each_other_through_one_parser() -> None:
    parser = HeadParser(1_000)
    for number in range(3):
        head = parser.parse(b"POST /%d HTTP/1.1\r\nHost: h\r\nContent-Length: 3\r\n\r\n" % number)
        assert head.path == b"/%d" % number
        parser.skip(b"abc")
    parser.parse(b"POST / HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n")
    parser.restart()
    assert parser.parse(b"GET /last HTTP/1.1\r\nHost: h\r\n\r\n").path == b"/last"


def test_a_repeated_head_means_the_same_with_another_target() -> None:
    parser = HeadParser(1_000)
    fields = b"Host: h\r\nContent-Length: 1\r\nX: y\r\n\r\n"
    first = parser.parse(b"POST /a HTTP/1.1\r\n" + fields)
    parser.skip(b"1")
    second = parser.parse(b"PUT /b?c HTTP/1.1\r\n" + fields)
    parser.skip(b"2")
    assert second.fields == first.fields
    assert (second.method, second.path, second.query) == (b"PUT", b"/b", b"c")
    assert second.length == 1
    old = parser.parse(b"POST /c HTTP/1.0\r\n" + fields)
    assert (old.old, old.keep_alive) == (True, False)
    parser.skip(b"3")
    parser.parse(b"POST /again HTTP/1.1\r\n" + fields)
    parser.skip(b"4")
    with pytest.raises(RequestRefused):
        parser.parse(b"BREW /d HTTP/1.1\r\n" + fields)


_KEY_BYTES = st.lists(
    st.sampled_from([b"a", b"7", b'"', b" ", b"\t", b"\r", b"\n", b"\r\n", b"\0", b"\xe4", b"X: y"])
)


@given(
    name=st.sampled_from([b"Idempotency-Key", b"idempotency-key", b"X-Idempotency-Key"]),
    first=st.sampled_from([b"abc", b"a", b"a b"]),
    blank=st.sampled_from([b"", b" ", b"\t "]),
    behind=st.sampled_from([b"", b"X: y\r\n", b"Idempotency-Key: z\r\n"]),
    value=_KEY_BYTES.map(b"".join),
)
def test_a_head_with_another_idempotency_key_means_what_it_means_to_a_new_connection(
    name: bytes, first: bytes, blank: bytes, behind: bytes, value: bytes
) -> None:
    def head(key: bytes) -> bytes:
        return b"GET /a HTTP/1.1\r\nHost: h\r\n%b:%b%b\r\n%b\r\n" % (name, blank, key, behind)

    def meaning(parser: HeadParser, key: bytes) -> object:
        if head(key).find(b"\r\n\r\n") != len(head(key)) - 4:
            return "two heads"
        try:
            found = parser.parse(head(key))
        except RequestRefused as refusal:
            return refusal.code
        return found.method, found.path, found.query, dict(found.fields), found.length, found.keep_alive

    used = HeadParser(1_000)
    if isinstance(meaning(used, first), tuple):
        assert meaning(used, value) == meaning(HeadParser(1_000), value)
        if isinstance(meaning(HeadParser(1_000), value), tuple):
            assert meaning(used, b"last") == meaning(HeadParser(1_000), b"last")


def test_each_head_has_its_own_idempotency_key_whichever_came_before() -> None:
    parser = HeadParser(1_000)
    for key in (b"a", b"b", b"a", b"a", b"c", b"a"):
        head = b"POST /%b HTTP/1.1\r\nHost: h\r\nIdempotency-Key: %b\r\nX: y\r\n\r\n" % (key, key)
        assert parser.parse(head).fields == {b"host": b"h", b"idempotency-key": key, b"x": b"y"}


def test_lines_that_were_good_in_http_1_0_are_not_taken_as_good_in_http_1_1() -> None:
    parser = HeadParser(1_000)
    without_host = b"Connection: keep-alive\r\nContent-Length: 0\r\n\r\n"
    assert parser.parse(b"POST /a HTTP/1.0\r\n" + without_host).keep_alive
    with pytest.raises(RequestRefused, match="without a Host"):
        parser.parse(b"POST /a HTTP/1.1\r\n" + without_host)


@pytest.mark.parametrize("body", [b"", b"Content-Length: 0\r\n", b"Content-Length: 1\r\n"])
@pytest.mark.parametrize(
    ("version", "lines", "keep_alive"),
    [
        (b"1.1", b"", True),
        (b"1.1", b"Connection: close\r\n", False),
        (b"1.1", b"Connection: X, Close\r\n", False),
        (b"1.1", b"Connection: x\r\nConnection: close\r\n", False),
        (b"1.1", b"Connection: keep-alive, close\r\n", False),
        (b"1.1", b"Connection: closed\r\n", True),
        (b"1.0", b"", False),
        (b"1.0", b"Connection: Keep-Alive\r\n", True),
        (b"1.0", b"Connection: keep-alive, close\r\n", False),
    ],
)
def test_a_connection_is_kept_as_its_fields_say_with_or_without_a_body(
    version: bytes, lines: bytes, keep_alive: bool, body: bytes
) -> None:
    head = HeadParser(10).parse(b"POST /a HTTP/%b\r\nHost: h\r\n%b%b\r\n" % (version, lines, body))
    assert head.keep_alive is keep_alive


def test_every_request_that_expects_continue_does_so_anew() -> None:
    parser = HeadParser(1_000)
    for _ in range(2):
        head = parser.parse(
            b"POST /a HTTP/1.1\r\nHost: h\r\nExpect: 100-continue\r\nContent-Length: 1\r\n\r\n"
        )
        assert head.expects_continue
        parser.skip(b"1")


@pytest.mark.parametrize(
    ("target", "path"),
    [(b"http://h/x", b"/x"), (b"HTTP://h/x", b"/x"), (b"https://h/", b"/")],
)
def test_the_absolute_form_is_taken_when_it_names_the_host(target: bytes, path: bytes) -> None:
    head = HeadParser(1_000).parse(b"GET %b HTTP/1.1\r\nHost: h\r\n\r\n" % target)
    assert head.path == path


@pytest.mark.parametrize("target", [b"http://other/x", b"ftp://h/x", b"*", b"h:80", b"//h@http://h/x#y"])
def test_other_targets_are_refused(target: bytes) -> None:
    assert code_of(b"GET %b HTTP/1.1\r\nHost: h\r\n\r\n" % target) is Code.BAD_REQUEST


@given(
    body=st.binary(max_size=300),
    sizes=st.lists(st.integers(1, 50), max_size=20),
    cuts=st.lists(st.integers(1, 40), max_size=30),
    rest=st.binary(max_size=20),
)
def test_chunks_mean_the_same_however_they_are_cut(
    body: bytes, sizes: list[int], cuts: list[int], rest: bytes
) -> None:
    raw = bytearray()
    position = 0
    for size in [*sizes, len(body) or 1]:
        piece = body[position : position + size]
        position += size
        if piece:
            raw += b"%x\r\n%b\r\n" % (len(piece), piece)
    raw += b"0\r\n\r\n" + rest
    chunks = Chunks(300)
    got = bytearray()
    fed = 0
    for cut in [*cuts, len(raw)]:
        piece = bytes(raw[fed : fed + cut])
        fed += len(piece)
        left = chunks.feed(piece)
        if left is not None:
            got += left
            break
    assert chunks.body == body
    assert bytes(got) + bytes(raw[fed:]) == rest


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"5\r\nhello!\r\n0\r\n\r\n", Code.BAD_REQUEST),
        (b"6\r\nhello\r\n0\r\n\r\n", Code.BAD_REQUEST),
        (b"5\nhello\r\n0\r\n\r\n", Code.BAD_REQUEST),
        (b"50\nhello\r\n0\r\n\r\n", Code.BAD_REQUEST),  # read without its last digit it would pass
        (b"5\r\nhelloXX0\r\n\r\n", Code.BAD_REQUEST),
        (b"5\r\nhello\n0\r\n\r\n", Code.BAD_REQUEST),
        (b"\r\n", Code.BAD_REQUEST),
        (b"0x5\r\nhello\r\n", Code.BAD_REQUEST),
        (b"-1\r\n", Code.BAD_REQUEST),
        (b"+5\r\nhello\r\n", Code.BAD_REQUEST),
        (b" 5\r\nhello\r\n", Code.BAD_REQUEST),
        (b"5 \r\nhello\r\n", Code.BAD_REQUEST),
        (b"g\r\n", Code.BAD_REQUEST),
        (b"000000005\r\nhello\r\n", Code.BAD_REQUEST),
        (b"0\r\nX: y\r\n\r\n", Code.BAD_REQUEST),
        (b"5;a\rb\r\nhello\r\n", Code.BAD_REQUEST),
        (b"f" * 400, Code.BAD_REQUEST),
        (b"b\r\n", Code.BODY_TOO_LARGE),
        (b"ffffffff\r\n", Code.BODY_TOO_LARGE),
        (b"a\r\n0123456789\r\n1\r\n", Code.BODY_TOO_LARGE),
    ],
)
def test_chunks_that_two_readers_could_read_differently_are_refused(raw: bytes, code: Code) -> None:
    for cut in (len(raw), 1):
        with pytest.raises(RequestRefused) as caught:
            feed_in_pieces(Chunks(10), raw, cut)
        assert caught.value.code is code


def feed_in_pieces(chunks: Chunks, raw: bytes, size: int) -> None:
    for begin in range(0, len(raw), size):
        chunks.feed(raw[begin : begin + size])


@pytest.mark.parametrize(("excess", "passes"), [(-1, True), (0, True), (1, False)])
def test_chunk_extensions_have_a_limit(excess: int, passes: bool) -> None:
    extension = b";" + b"x" * (MAX_EXTENSION_BYTES + excess - 1)
    chunks = Chunks(10)
    if passes:
        assert chunks.feed(b"1%b\r\na\r\n0\r\n\r\nrest" % extension) == b"rest"
    else:
        with pytest.raises(RequestRefused):
            chunks.feed(b"1%b\r\na\r\n0\r\n\r\n" % extension)
