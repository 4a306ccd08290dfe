"""The fields of a head: Host, lengths, encodings, and what a field line may look like."""

from __future__ import annotations

from http_cases import CALL, HEAD, Case, accepts, refuses, with_lines

START = b"POST " + CALL + b" HTTP/1.1\r\n"
START_1_0 = b"POST " + CALL + b" HTTP/1.0\r\n"
#: A head with all its other lines is exactly this long.
MOST = 16 << 10


def host(*lines: bytes) -> bytes:
    return with_lines(*lines, start=START)


HOSTS = [
    refuses("no Host", host(), "3.2: MUST be refused"),
    refuses("two Hosts alike", host(b"Host: a", b"Host: a"), "3.2: MUST be refused"),
    refuses("two Hosts", host(b"Host: a", b"Host: b"), "3.2: MUST be refused"),
    refuses("two Hosts in two cases", host(b"Host: a", b"hOST: b"), "3.2: MUST be refused"),
    refuses("a list of Hosts", host(b"Host: a, b"), "3.2: one host"),
    refuses("a path in Host", host(b"Host: a/b"), "3.2: one host"),
    refuses("a user in Host", host(b"Host: u@a"), "3.2: one host"),
    refuses("a blank in Host", host(b"Host: a b"), "3.2: one host"),
    refuses("a port that is none", host(b"Host: a:b"), "3.2: one host"),
    refuses("a port too long", host(b"Host: a:123456"), "3.2: one host"),
    refuses("two ports", host(b"Host: a:1:2"), "3.2: one host"),
    refuses("a bracket left open", host(b"Host: [::1"), "3986, 3.2.2"),
    refuses("UTF-8 in Host", host(b"Host: \xc3\xa9"), "3.2: one host"),
    accepts("a port", host(b"Host: a:80"), "3.2"),
    accepts("an IPv6 address", host(b"Host: [::1]:80"), "3986, 3.2.2"),
    accepts("an empty Host", host(b"Host:"), "3.2: for a target without authority"),
    accepts("tabs around Host", host(b"Host:\ta\t "), "5: optional whitespace"),
    accepts("HTTP/1.0 without Host", with_lines(start=START_1_0), "3.2: only 1.1 must", keeps=False),
    refuses("HTTP/1.0 with two", with_lines(b"Host: a", b"Host: b", start=START_1_0), "3.2"),
]

SHAPES = [
    refuses("a blank before the colon", host(b"Host : a"), "5.1: MUST be refused"),
    refuses("a tab before the colon", with_lines(b"X\t: y"), "5.1: MUST be refused"),
    refuses("a first field that is folded", host(b" Host: a"), "2.2: no whitespace there"),
    refuses("a folded value", with_lines(b"X: y", b" z"), "5.2: obs-fold"),
    refuses("a value folded with a tab", with_lines(b"X: y", b"\tz"), "5.2: obs-fold"),
    refuses("a fold of nothing", with_lines(b"X: y", b" "), "5.2: obs-fold"),
    refuses("a folded length", with_lines(b"Content-Length:", b" 1", body=b"1"), "5.2: obs-fold"),
    refuses("a folded encoding", with_lines(b"Transfer-Encoding:", b" chunked"), "5.2: obs-fold"),
    refuses("no colon", with_lines(b"X"), "5: a colon is due"),
    refuses("no name", with_lines(b": y"), "5: a name is due"),
    refuses("LF between fields", with_lines(b"X: y\nZ: z"), "2.2: bare LF"),
    refuses("CR between fields", with_lines(b"X: y\rZ: z"), "2.2: bare CR"),
    refuses("CR at the end of a value", with_lines(b"X: y\r"), "2.2: bare CR"),
    refuses("LF, then the blank line", HEAD + b"X: y\n\r\n", "2.2: bare LF"),
    refuses("NUL in a value", with_lines(b"X: a\0b"), "9110, 5.5: dangerous"),
    refuses("ESC in a value", with_lines(b"X: \x1b[2J"), "9110, 5.5"),
    refuses("VT in a value", with_lines(b"X: a\x0bb"), "9110, 5.5"),
    refuses("DEL in a value", with_lines(b"X: a\x7fb"), "9110, 5.5"),
    *(
        refuses(f"{byte!r} in a name", with_lines(b"X" + byte + b"Y: z"), "9110, 5.6.2: a token")
        for byte in (b"\0", b"\x1b", b" ", b"(", b"@", b"/", b"\\", b'"', b"[", b"\x7f", b"\xe9")
    ),
    accepts("no value", with_lines(b"X:"), "5"),
    accepts("Latin-1 in a value", with_lines(b"X: \xe9"), "9110, 5.5: obs-text"),
    accepts("a tab in a value", with_lines(b"X: a\tb"), "9110, 5.5"),
    accepts("a name of signs", with_lines(b"!#$%&'*+-.^_`|~: y"), "9110, 5.6.2"),
    accepts("100 fields", with_lines(*[b"X: y"] * 99), "5.4: the limit"),
    refuses("101 fields", with_lines(*[b"X: y"] * 100), "5.4: the limit", 431),
    accepts("16 KiB of head", with_lines(b"X: " + b"y" * (MOST - len(HEAD) - 7)), "5.4: the limit"),
    refuses(
        "a byte more than 16 KiB of head", with_lines(b"X: " + b"y" * (MOST - len(HEAD) - 6)), "5.4", 431
    ),
    refuses("a field without end", HEAD + b"X: " + b"y" * (17 << 10), "5.4: 431 before it ends", 431),
    refuses("a name without end", HEAD + b"X" * (17 << 10), "5.4: 431 before it ends", 431),
    refuses("fields without end", HEAD + b"X: y\r\n" * 3_000, "5.4: 431 before they end", 431),
]


def lengths(*values: bytes, body: bytes = b"1") -> bytes:
    return with_lines(*(b"Content-Length: " + value for value in values), body=body)


LENGTHS = [
    refuses("two lengths alike", lengths(b"1", b"1"), "6.3: nobody sends that in good faith"),
    refuses("two lengths", lengths(b"1", b"2"), "6.3: MUST be refused"),
    refuses("two lengths in two cases", with_lines(b"Content-Length: 1", b"content-length: 2"), "6.3"),
    refuses("length 0, then 5", lengths(b"0", b"5"), "6.3: MUST be refused"),
    *(
        refuses(f"length {value!r}", lengths(value), "9110, 8.6: digits only")
        for value in (
            *(b"", b" ", b"+1", b"-1", b"-0", b"0x1", b"1_0", b"1 1", b"1.0", b"1e1", b"1;", b'"1"', b"1h"),
            *(b"1, 1", b"1,2", b"1,", b",1", b"\xd9\xa1", b"\xb9", b"\x0b1", b"1\x0c", b"0\r", b"1\0"),
            *(b"9" * 16, b"9" * 20, b"18446744073709551617", b"4294967296" + b"0" * 10, b"9" * 5_000),
        )
    ),
    refuses("a length over the limit", lengths(b"1001"), "9110, 15.5.14", 413),
    refuses("a length far over the limit", lengths(b"9" * 15), "9110, 15.5.14", 413),
    refuses("a length with a blank before its colon", with_lines(b"Content-Length : 1", body=b"1"), "5.1"),
    accepts("a length with zeros before it", lengths(b"0001"), "9110, 8.6: digits", b"1"),
    accepts("a length with blanks around it", lengths(b" \t1\t "), "5: optional whitespace", b"1"),
    accepts("a length at the limit", lengths(b"1000", body=b"1" * 1_000), "9110, 8.6", b"1" * 1_000),
    accepts("a length in mixed case", with_lines(b"cOnTeNt-LeNgTh: 1", body=b"1"), "5.1", b"1"),
    accepts("a field that resembles a length", with_lines(b"Content_Length: 5"), "5.1: another name"),
    accepts("a length on a line of its own kind", with_lines(b"X: Content-Length: 5"), "5: a value"),
]


def encodings(*values: bytes, body: bytes = b"0\r\n\r\n") -> bytes:
    return with_lines(*(b"Transfer-Encoding: " + value for value in values), body=body)


ENCODINGS = [
    refuses(
        "a length, then chunked",
        with_lines(b"Content-Length: 1", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
        "6.1: request smuggling",
    ),
    refuses(
        "chunked, then a length",
        with_lines(b"Transfer-Encoding: chunked", b"Content-Length: 1", body=b"0\r\n\r\n"),
        "6.1: request smuggling",
    ),
    refuses(
        "chunked and a length of 0",
        with_lines(b"Content-Length: 0", b"Transfer-Encoding: chunked", body=b"0\r\n\r\n"),
        "6.1: request smuggling",
    ),
    refuses(
        "no known encoding, and a length",
        with_lines(b"Content-Length: 5", b"Transfer-Encoding: x", body=b"0\r\n\r\n"),
        "6.1: request smuggling",
    ),
    refuses(
        "chunked in HTTP/1.0",
        with_lines(b"Transfer-Encoding: chunked", body=b"0\r\n\r\n", start=START_1_0),
        "6.1: faulty framing",
    ),
    refuses("chunked twice in two fields", encodings(b"chunked", b"chunked"), "6.1: not more than once"),
    refuses("chunked, then x, in two fields", encodings(b"chunked", b"x"), "6.3: chunked is last"),
    refuses("x, then chunked, in two fields", encodings(b"x", b"chunked"), "6.1: only chunked"),
    *(
        refuses(f"encoding {value!r}", encodings(value), "6.1: only chunked, exactly")
        for value in (
            *(b"", b"x", b"gzip", b"identity", b"gzip, chunked", b"chunked, gzip", b"chunked, chunked"),
            *(b"identity, chunked", b"chunked, identity", b"xchunked", b"chunkedx", b"chunked;q=1"),
            *(b"chunked,", b",chunked", b"'chunked'", b'"chunked"', b"\x0bchunked", b"chunked\x0c"),
            *(b"chunked\0", b"chu\rnked", b"chunked\r", b"\xc2\xa0chunked", b"chun ked", b"[chunked]"),
        )
    ),
    refuses("chunked with a blank before its colon", with_lines(b"Transfer-Encoding : chunked"), "5.1"),
    refuses("chunked behind a bare CR", with_lines(b"X: y\rTransfer-Encoding: chunked"), "2.2"),
    refuses("chunked behind a bare LF", with_lines(b"X: y\nTransfer-Encoding: chunked"), "2.2"),
    refuses("chunked folded onto another", with_lines(b"X: y", b" Transfer-Encoding: chunked"), "5.2"),
    accepts("CHUNKED", encodings(b"CHUNKED"), "7: codings know no case"),
    accepts("chunked with blanks around it", encodings(b"\tchunked "), "5: optional whitespace"),
    refuses("chunked with a tab behind it", encodings(b"chunked\t"), "5: httptools wants a blank there"),
    accepts("a field that resembles it", with_lines(b"Transfer_Encoding: chunked"), "5.1: another name"),
    accepts("TE", with_lines(b"TE: trailers", b"Connection: TE"), "9110, 10.1.4: we send no trailers"),
]

REQUESTS_OF_THE_CONNECTION = [
    refuses("an upgrade to HTTP/2", with_lines(b"Connection: Upgrade", b"Upgrade: h2c"), "9110, 7.8"),
    refuses(
        "an upgrade to WebSocket", with_lines(b"Connection: upgrade", b"Upgrade: websocket"), "9110, 7.8"
    ),
    refuses("an upgrade without Connection", with_lines(b"Upgrade: h2c"), "9110, 7.8"),
    refuses("an upgrade to nothing", with_lines(b"Connection: upgrade", b"Upgrade:"), "9110, 7.8"),
    accepts("upgrade in Connection alone", with_lines(b"Connection: upgrade"), "9110, 7.8: nothing asked"),
    refuses("an announced trailer", with_lines(b"Trailer: X"), "9110, 6.6.2: not taken"),
    refuses("an expectation", with_lines(b"Expect: tea"), "9110, 10.1.1: unknown"),
    refuses("two expectations", with_lines(*[b"Expect: 100-continue"] * 2), "9110, 10.1.1: one"),
    refuses("an expectation of nothing", with_lines(b"Expect:"), "9110, 10.1.1: unknown"),
    accepts(
        "an expectation of HTTP/1.0",
        with_lines(b"Expect: 100-continue", b"Content-Length: 1", body=b"1", start=START_1_0),
        "9110, 10.1.1: MUST be ignored",
        b"1",
        keeps=False,
    ),
    accepts(
        "an expectation with its body",
        with_lines(b"expect: 100-Continue", b"Content-Length: 1", body=b"1"),
        "9110, 10.1.1: 100 may be omitted",
        b"1",
    ),
    accepts("an expectation without a body", with_lines(b"Expect: 100-continue"), "9110, 10.1.1"),
    accepts("close", with_lines(b"Connection: close"), "9.6: MUST close", keeps=False),
    accepts("close among others", with_lines(b"Connection: x, CLOSE, y"), "9.6: MUST close", keeps=False),
    accepts(
        "close in a second field", with_lines(b"Connection: x", b"Connection: close"), "9.6", keeps=False
    ),
    accepts("keep-alive and close", with_lines(b"Connection: keep-alive, close"), "9.3", keeps=False),
    accepts("a length named as hop-by-hop", with_lines(b"Connection: content-length"), "9110, 7.6.1"),
    accepts("HTTP/1.0 that stays", with_lines(b"Connection: Keep-Alive", start=START_1_0), "9.3"),
    accepts("HTTP/1.0 that goes", with_lines(start=START_1_0), "9.3: closes", keeps=False),
    accepts("Proxy-Connection", with_lines(b"Proxy-Connection: close"), "C.2.2: means nothing"),
    refuses("two content types", with_lines(b"Content-Type: a/b", b"Content-Type: c/d"), "9110, 5.3"),
    refuses("two timeouts", with_lines(b"Inversion-Timeout: 1s", b"Inversion-Timeout: 2s"), "9110, 5.3"),
    refuses("two authorizations", with_lines(b"Authorization: a", b"Authorization: b"), "9110, 5.3"),
    refuses("a gzip body", with_lines(b"Content-Encoding: gzip", b"Content-Length: 1"), "9110, 8.4", 415),
    refuses("a brotli body", with_lines(b"Content-Encoding: br"), "9110, 8.4", 415),
    refuses("gzip twice over", with_lines(b"Content-Encoding: gzip, gzip"), "9110, 8.4", 415),
    refuses(
        "gzip behind identity",
        with_lines(b"Content-Encoding: identity", b"Content-Encoding: gzip"),
        "9110, 5.3: one is enough",
    ),
    accepts("identity", with_lines(b"Content-Encoding: Identity"), "9110, 8.4: names nothing"),
]

FIELDS: list[Case] = [*HOSTS, *SHAPES, *LENGTHS, *ENCODINGS, *REQUESTS_OF_THE_CONNECTION]
