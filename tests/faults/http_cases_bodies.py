"""Bodies in chunks, several requests on one connection, and clients that end in the middle."""

from __future__ import annotations

from http_cases import CALL, HEAD, Case, accepts, breaks_off, chunked, refuses, with_lines

from inversion.http.chunks import MAX_EXTENSION_BYTES

LAST = b"0\r\n\r\n"


def extension(size: int) -> bytes:
    return b";" + b"x" * (size - 1)


CHUNKS = [
    accepts("no chunks", chunked(LAST), "7.1"),
    accepts("one chunk", chunked(b"3\r\n[1]\r\n" + LAST), "7.1", b"[1]"),
    accepts("a chunk for each byte", chunked(b"1\r\n[\r\n1\r\n1\r\n1\r\n]\r\n" + LAST), "7.1", b"[1]"),
    accepts("a size in capitals", chunked(b"A\r\n0123456789\r\n" + LAST), "7.1: hexadecimal", b"0123456789"),
    accepts("a size with zeros before it", chunked(b"00000003\r\n[1]\r\n" + LAST), "7.1", b"[1]"),
    accepts("a last size of many zeros", chunked(b"1\r\n1\r\n000\r\n\r\n"), '7.1: 1*"0"', b"1"),
    accepts("CRLF within a chunk", chunked(b"4\r\n\r\n\r\n\r\n" + LAST), "7.1: data", b"\r\n\r\n"),
    accepts("a chunk that looks like the end", chunked(b"5\r\n" + LAST + b"\r\n" + LAST), "7.1", LAST),
    accepts("an extension", chunked(b"1;a=b\r\n1\r\n" + LAST), "7.1.1: ignored", b"1"),
    accepts("an extension of the last", chunked(b"1\r\n1\r\n0;a\r\n\r\n"), "7.1.1: ignored", b"1"),
    accepts("a quoted extension", chunked(b'1;a="b;c"\r\n1\r\n' + LAST), "7.1.1: ignored", b"1"),
    accepts(
        "extensions at the limit",
        chunked(b"1%b\r\n1\r\n" % extension(MAX_EXTENSION_BYTES) + LAST),
        "7.1.1: bounded",
        b"1",
    ),
    accepts("chunks of a GET", chunked(b"1\r\n1\r\n" + LAST), "7.1", b"1"),
    accepts("1000 bytes in chunks of one", chunked(b"1\r\n1\r\n" * 1_000 + LAST), "the limit", b"1" * 1_000),
    *(
        refuses(
            f"a chunk that begins {line!r}", chunked(line + b"\r\nhello\r\n" + LAST), "7.1: a size is due"
        )
        for line in (
            *(b"", b"0x5", b"+5", b"-5", b"-0", b" 5", b"\t5", b"5 ", b"5\t", b"5 5", b"5,5", b"5.", b"5h"),
            *(b"g", b"5\0", b"\x0b5", b"'5'", b"\xd9\xa5", b"000000005", b"ffffffff5", b"f" * 17, b"5\r"),
            *(b"5 ;a", b"5\t;a", b"5;a\rb", b"5;a\0b", b"5;\x1b[2J", b"5;a\x7f"),
        )
    ),
    refuses("LF behind a size", chunked(b"5\nhello\r\n" + LAST), "2.2: bare LF"),
    refuses(
        "LF behind a size that would pass without its last digit", chunked(b"50\nhello\r\n" + LAST), "2.2"
    ),
    refuses("LF behind an extension", chunked(b"5;a\nhello\r\n" + LAST), "7.1.1: bare LF"),
    refuses("CR behind a size", chunked(b"5\rhello\r\n" + LAST), "2.2: bare CR"),
    refuses("LF behind a chunk", chunked(b"5\r\nhello\n" + LAST), "7.1"),
    refuses("CR behind a chunk", chunked(b"5\r\nhello\r" + LAST), "7.1"),
    refuses("nothing behind a chunk", chunked(b"5\r\nhello" + LAST), "7.1"),
    refuses("two bytes of its own behind a chunk", chunked(b"5\r\nhelloXX" + LAST), "7.1"),
    refuses("LF behind the last chunk", chunked(b"1\r\n1\r\n0\n\r\n"), "7.1"),
    refuses("LF behind all chunks", chunked(b"1\r\n1\r\n0\r\n\n"), "7.1"),
    refuses("a chunk longer than its size", chunked(b"4\r\nhello\r\n" + LAST), "7.1"),
    refuses("a chunk shorter than its size", chunked(b"6\r\nhello\r\n" + LAST), "7.1"),
    refuses("a trailer", chunked(b"1\r\n1\r\n0\r\nX: y\r\n\r\n"), "7.1.2: not taken"),
    refuses("a trailer that is a length", chunked(b"0\r\nContent-Length: 5\r\n\r\n"), "9110, 6.5.1"),
    refuses("a trailer without a colon", chunked(b"0\r\nGET / HTTP/1.1\r\n\r\n"), "7.1.2"),
    refuses("a folded trailer", chunked(b"0\r\n X\r\n\r\n"), "7.1.2"),
    refuses("a size line without end", chunked(b"0" * 400), "7.1: bounded"),
    refuses("an extension without end", chunked(b"1;" + b"a" * 70_000), "7.1.1: bounded"),
    refuses(
        "extensions over the limit", chunked(b"1%b\r\n1\r\n" % extension(MAX_EXTENSION_BYTES + 1)), "7.1.1"
    ),
    refuses(
        "extensions over the limit together", chunked(b"1;aaaaaa\r\n1\r\n" * 100 + LAST), "7.1.1: bounded"
    ),
    refuses("a chunk over the limit", chunked(b"3e9\r\n"), "9110, 15.5.14", 413),
    refuses("a chunk far over the limit", chunked(b"ffffffff\r\n"), "9110, 15.5.14", 413),
    refuses("chunks over the limit together", chunked(b"1\r\n1\r\n" * 1_001 + LAST), "9110, 15.5.14", 413),
]


def sized(body: bytes, *lines: bytes) -> bytes:
    return with_lines(b"Content-Length: %d" % len(body), *lines, body=body)


def in_turn(name: str, raw: bytes, why: str, statuses: tuple[int, ...], *bodies: bytes) -> Case:
    """Several requests of which the last ends the connection."""
    return Case(name, raw, why, statuses, bodies)


BOTH = with_lines(b"Content-Length: 5", b"Transfer-Encoding: chunked", body=LAST)
PIPELINES = [
    accepts("two requests", sized(b"1") + sized(b"2"), "9.3.2: answered in order", b"1", b"2"),
    accepts(
        "fifty requests",
        b"".join(sized(b"%d" % n) for n in range(50)),
        "9.3.2",
        *(b"%d" % n for n in range(50)),
    ),
    accepts(
        "chunked between others",
        sized(b"1") + chunked(b"1\r\n2\r\n" + LAST) + sized(b"3"),
        "9.3.2",
        b"1",
        b"2",
        b"3",
    ),
    accepts("chunked behind chunked", chunked(b"1\r\n1\r\n" + LAST) * 2, "9.3.2", b"1", b"1"),
    accepts("an empty line between two", sized(b"1") + b"\r\n" + sized(b"2"), "2.2: old clients", b"1", b"2"),
    accepts("a body that looks like a request", sized(sized(b"1")), "6.3: so long is it", sized(b"1")),
    in_turn("garbage behind a request", sized(b"1") + b"GARBAGE\r\n\r\n", "9.3.2", (200, 400), b"1"),
    in_turn("smuggling behind a request", sized(b"1") + BOTH, "6.1", (200, 400), b"1"),
    in_turn("two empty lines between two", sized(b"1") + b"\r\n\r\n" + sized(b"2"), "2.2", (200, 400), b"1"),
    in_turn(
        "a body longer than its length", with_lines(b"Content-Length: 1", body=b"12"), "6.3", (200, 400), b"1"
    ),
    in_turn("a body with a length of 0", with_lines(b"Content-Length: 0", body=b"1"), "6.3", (200, 400), b""),
    in_turn("a body without a length", with_lines(body=b"[1]"), "6.3: none", (200, 400), b""),
    in_turn(
        "HTTP/1.0, then another",
        with_lines(start=b"POST " + CALL + b" HTTP/1.0\r\n") + sized(b"2"),
        "9.3",
        (200,),
        b"",
    ),
    in_turn("close, then another", sized(b"1", b"Connection: close") + sized(b"2"), "9.6", (200,), b"1"),
    in_turn(
        "the same head twice, once with a bare LF",
        sized(b"1") + sized(b"2").replace(b"a\r\n", b"a\n"),
        "2.2",
        (200, 400),
        b"1",
    ),
    in_turn(
        "a head that is known, with a bad line",
        sized(b"1") + sized(b"2").replace(b"POST", b"post"),
        "3.1",
        (200, 400),
        b"1",
    ),
    refuses("garbage before a request", b"GARBAGE\r\n\r\n" + sized(b"1"), "9.6: nothing behind it is read"),
    refuses("four megabytes behind a refusal", BOTH + b"x" * (4 << 20), "9.6: read and thrown away"),
]

WHOLE = sized(b"[1]")
IN_CHUNKS = chunked(b"3\r\n[1]\r\n" + LAST)
EARLY_ENDS = [
    breaks_off("at once", b"", "9.6: nothing to say"),
    breaks_off("behind an empty line", b"\r\n", "9.6: nothing to say"),
    breaks_off("in the method", b"PO", "8: incomplete", 400),
    breaks_off("behind the first line", HEAD[: HEAD.index(b"Host")], "8: incomplete", 400),
    breaks_off("in a field", HEAD[:-3], "8: incomplete", 400),
    breaks_off("before the blank line", HEAD, "8: incomplete", 400),
    breaks_off("in the blank line", HEAD + b"\r", "8: incomplete", 400),
    breaks_off("before its body", WHOLE[:-3], "8: incomplete", 400),
    breaks_off("in its body", WHOLE[:-1], "8: incomplete", 400),
    breaks_off("behind a request", WHOLE, "9.6: half closed", 200, bodies=(b"[1]",)),
    breaks_off("in the second request", WHOLE + WHOLE[:-1], "8: incomplete", 200, 400, bodies=(b"[1]",)),
    *(
        breaks_off(f"{behind} bytes before the end of its chunks", IN_CHUNKS[:-behind], "8: incomplete", 400)
        for behind in range(1, len(IN_CHUNKS) - IN_CHUNKS.index(b"\r\n\r\n") - 3)
    ),
    breaks_off(
        "before the body it expects to be asked for",
        with_lines(b"Expect: 100-continue", b"Content-Length: 1"),
        "9110, 10.1.1",
        100,
        400,
    ),
]

BODIES: list[Case] = [*CHUNKS, *PIPELINES]
