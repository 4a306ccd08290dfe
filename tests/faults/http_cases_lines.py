"""The first line of a request, and what stands before it."""

from __future__ import annotations

from http_cases import CALL, HEAD, Case, accepts, declines, refuses

HOST = b"\r\nHost: a\r\n\r\n"


def line(raw: bytes) -> bytes:
    """A head with this first line."""
    return raw + HOST


def to(target: bytes) -> bytes:
    return line(b"POST " + target + b" HTTP/1.1")


NO_HTTP = [
    refuses("words", b"GARBAGE\r\n\r\n", "3: no request line"),
    refuses("a TLS hello", b"\x16\x03\x01\x02\x00\x01\r\n\r\n", "3: no request line"),
    refuses("the preface of HTTP/2", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "9113, 3.4: not spoken here"),
    refuses("HTTP/0.9", b"GET " + CALL + b"\r\n\r\n", "3: a version is due"),
    refuses("a response", b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", "3: no request line"),
    refuses("SMTP", b"EHLO example.org\r\n\r\n", "3: no request line"),
    refuses("a blank, then a request", b" " + to(CALL), "2.2: no whitespace before the line"),
    refuses("a tab, then a request", b"\t" + to(CALL), "2.2: no whitespace before the line"),
    refuses("NUL, then a request", b"\0" + to(CALL), "3: a method is a token"),
    refuses("a byte order mark", b"\xef\xbb\xbf" + to(CALL), "3: a method is a token"),
    refuses("LF, then a request", b"\n" + to(CALL), "2.2: bare LF"),
    refuses("CR, then a request", b"\r" + to(CALL), "2.2: bare CR"),
    refuses("a line of blanks before it", b" \r\n" + to(CALL), "2.2: only an empty line"),
    refuses("two empty lines before it", b"\r\n\r\n" + to(CALL), "2.2: one is enough"),
    accepts("one empty line before it", b"\r\n" + to(CALL), "2.2: one SHOULD be ignored"),
]

VERSIONS = [
    refuses(f"version {version!r}", line(b"POST " + CALL + version), "2.3: HTTP/1.1 or HTTP/1.0")
    for version in (
        b" HTTP/2.0",
        b" HTTP/0.9",
        b" HTTP/1.2",
        b" HTTP/1.10",
        b" HTTP/01.1",
        b" HTTP/1",
        b" HTTP/11",
        b" HTTP/1,1",
        b" HTTP/+1.1",
        b" HTTP/1.1x",
        b" HTTP/1.1 ",
        b" HTTP/1.1\t",
        b" http/1.1",
        b" HTTPS/1.1",
        b" HTTP /1.1",
        b" ICE/1.0",
        b" 1.1",
    )
]

BLANKS = [
    refuses(f"{blank!r} between {where}", line(raw), "3: single spaces")
    for where, blank, raw in (
        ("method and target", b"  ", b"POST  " + CALL + b" HTTP/1.1"),
        ("method and target", b"\t", b"POST\t" + CALL + b" HTTP/1.1"),
        ("method and target", b"\x0b", b"POST\x0b" + CALL + b" HTTP/1.1"),
        ("method and target", b"\xa0", b"POST\xa0" + CALL + b" HTTP/1.1"),
        ("target and version", b"  ", b"POST " + CALL + b"  HTTP/1.1"),
        ("target and version", b"\t", b"POST " + CALL + b"\tHTTP/1.1"),
        ("target and version", b"\x0c", b"POST " + CALL + b"\x0cHTTP/1.1"),
        ("target and version", b"\r", b"POST " + CALL + b"\rHTTP/1.1"),
    )
]

METHODS = [
    refuses("no method", line(b" " + CALL + b" HTTP/1.1"), "3.1: a method is due"),
    refuses("a method in lower case", line(b"post " + CALL + b" HTTP/1.1"), "3.1: case-sensitive"),
    refuses("a method nobody knows", line(b"BREW " + CALL + b" HTTP/1.1"), "9110, 9.1"),
    refuses("a method with a blank", line(b"PO ST " + CALL + b" HTTP/1.1"), "3.1: a token"),
    refuses("a method with NUL", line(b"POST\0 " + CALL + b" HTTP/1.1"), "3.1: a token"),
    refuses("a method with a colon", line(b"POST: " + CALL + b" HTTP/1.1"), "3.1: a token"),
    refuses("a method of 600 bytes", line(b"P" * 600 + b" " + CALL + b" HTTP/1.1"), "3: bounded"),
    refuses("CONNECT to an authority", line(b"CONNECT a:1 HTTP/1.1"), "3.2.3: no proxy"),
    refuses("CONNECT to a path", line(b"CONNECT " + CALL + b" HTTP/1.1"), "3.2.3: no proxy"),
    declines("DELETE of a call", line(b"DELETE " + CALL + b" HTTP/1.1"), "9110, 15.5.6", 405),
    declines("GET of a call", line(b"GET " + CALL + b" HTTP/1.1"), "9110, 15.5.6", 405),
    declines("TRACE", line(b"TRACE " + CALL + b" HTTP/1.1"), "9110, 9.3.8: never echoed", 405),
    declines("OPTIONS of a call", line(b"OPTIONS " + CALL + b" HTTP/1.1"), "9110, 15.5.6", 405),
    Case(
        "HEAD of a call", line(b"HEAD " + CALL + b" HTTP/1.1"), "9110, 9.3.2", (405,), (), True, False, True
    ),
    Case(
        "HEAD of a page",
        line(b"HEAD /errors/bad_json HTTP/1.1"),
        "9110, 9.3.2: fields and no body",
        (200,),
        keeps=True,
        head_only=True,
    ),
]

TARGETS = [
    accepts("http and this host", to(b"http://a" + CALL), "3.2.2: absolute form"),
    accepts("HTTP and this host", to(b"HTTP://a" + CALL), "9110, 4.2.3: schemes know no case"),
    accepts("https and this host", to(b"https://a" + CALL), "3.2.2: a proxy ended TLS"),
    refuses("http and another host", to(b"http://b" + CALL), "3.2.2: it would override Host"),
    refuses("http and another port", to(b"http://a:81" + CALL), "3.2.2: it would override Host"),
    refuses("http and a user", to(b"http://u@a" + CALL), "9110, 4.2.4: userinfo"),
    refuses("http and no path", to(b"http://a"), "3.2.2: nothing to call there"),
    refuses("http and no host", to(b"http:///v1/call/cart/k"), "9110, 4.2.1: a host is due"),
    refuses("ftp", to(b"ftp://a" + CALL), "3.2.2"),
    refuses("another URL's path that holds ours", to(b"/x@http://a" + CALL + b"#"), "3.2: a fragment"),
    refuses("an authority", to(b"a:80"), "3.2.3: for CONNECT only"),
    refuses("an asterisk", to(b"*"), "3.2.4: for OPTIONS only"),
    refuses("OPTIONS and an asterisk", line(b"OPTIONS * HTTP/1.1"), "3.2.4: nothing to say of the server"),
    refuses("no target", line(b"POST  HTTP/1.1"), "3.2"),
    refuses("a target without its slash", to(b"v1/call/cart/k"), "3.2.1: origin form"),
    refuses("a query alone", to(b"?a=b"), "3.2.1: origin form"),
    refuses("a backslash first", to(b"\\v1\\call\\cart\\k"), "3.2.1: origin form"),
    refuses("a fragment", to(CALL + b"#x"), "3.2: none is sent"),
    refuses("a blank in the target", to(CALL + b" x"), "3.2: percent-encoded"),
    refuses("UTF-8 in the target", to(CALL + b"\xc3\xa9"), "3.2: percent-encoded"),
    refuses("NUL in the target", to(CALL + b"\0"), "3.2: percent-encoded"),
    refuses("ESC in the target", to(CALL + b"\x1b[2J"), "3.2: percent-encoded"),
    refuses("DEL in the target", to(CALL + b"\x7f"), "3.2: percent-encoded"),
    declines("NUL as %00 in a key", to(CALL + b"%00"), "no control characters in keys"),
    declines("a broken escape", to(CALL + b"%4"), "3986, 2.1"),
    declines("a key that is no UTF-8", to(CALL + b"%ff"), "keys are UTF-8"),
    declines("an overlong slash", to(CALL + b"%c0%af"), "3629, 3: overlong forms"),
    declines("steps upwards", to(b"/x/../v1/call/cart/k"), "3986, 6.2.2.3: nobody resolves them here"),
    declines("a slash too many", to(b"//v1/call/cart/k"), "there is no such path"),
    declines("a query", to(CALL + b"?x=1"), "a call takes none"),
    declines("an encoded question mark", to(CALL + b"/c%3fall"), "a handler is a name"),
    accepts("an encoded slash in a key", to(CALL + b"%2Fx"), "3986, 2.2: split first, decoded once"),
    accepts("an escape of an escape in a key", to(CALL + b"%252e"), "3986, 2.4: decoded once"),
    accepts("two points as a key", to(b"/v1/call/cart/.."), "a key like any other"),
    declines("8 KiB of target", to(b"/" + b"x" * ((8 << 10) - 1)), "3: there is no such path"),
    refuses("a byte more than 8 KiB of target", to(b"/" + b"x" * (8 << 10)), "3", 414),
    refuses("a target without end", b"POST /" + b"x" * (17 << 10), "3: 414 before it ends", 414),
    refuses("a first line without end", b"P" * (17 << 10), "3: 414 before it ends", 414),
]

ENDS = [
    refuses("LF behind the first line", HEAD.replace(b"\r\n", b"\n", 1) + b"\r\n", "2.2: bare LF"),
    refuses("LF everywhere", HEAD.replace(b"\r\n", b"\n") + b"\n\r\n\r\n", "2.2: bare LF"),
    refuses("CR behind the first line", HEAD.replace(b"\r\n", b"\r", 1) + b"\r\n", "2.2: bare CR"),
    refuses("CR CR LF behind it", HEAD.replace(b"\r\n", b"\r\r\n", 1) + b"\r\n", "2.2: bare CR"),
    refuses("LF CR behind it", HEAD.replace(b"\r\n", b"\n\r", 1) + b"\r\n\r\n", "2.2: bare LF"),
]

LINES: list[Case] = [*NO_HTTP, *VERSIONS, *BLANKS, *METHODS, *TARGETS, *ENDS]
