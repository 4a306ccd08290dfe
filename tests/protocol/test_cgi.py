"""CGI/1.1 on plain values: meta-variables, and the lines before a body."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from inversion.errors import Code, RequestRefused
from inversion.protocol.cgi import MAX_HEAD_BYTES, AnswerHead, Asked, BadAnswer, HeadReader, variables

REQUIRED = {
    "GATEWAY_INTERFACE",
    "QUERY_STRING",
    "REMOTE_ADDR",
    "REQUEST_METHOD",
    "SCRIPT_NAME",
    "SERVER_NAME",
    "SERVER_PORT",
    "SERVER_PROTOCOL",
    "SERVER_SOFTWARE",
}


def asked(path: bytes = b"", query: bytes | None = None, length: int | None = None, **more: object) -> Asked:
    settings: dict[str, object] = {
        "method": b"GET",
        "script": b"/v1/http/fn",
        "fields": {b"host": b"example.org:8080"},
        "old": False,
        "client": ("192.0.2.7", 4711),
        "server": ("127.0.0.1", 8080),
        **more,
    }
    return Asked(path=path, query=query, length=length, **settings)  # type: ignore[arg-type]


def told(path: bytes = b"", query: bytes | None = None, length: int | None = None, **more: object):
    return variables(asked(path, query, length, **more), "inversion/1")


def of_fields(*fields: tuple[bytes, bytes]) -> dict[str, str]:
    return told(fields=dict(fields))


def read(data: bytes) -> AnswerHead:
    head = HeadReader().feed(data)
    assert head is not None
    return head


def test_a_bare_request_has_what_is_required_and_nothing_that_is_not_there():
    assert told() == {
        "GATEWAY_INTERFACE": "CGI/1.1",
        "QUERY_STRING": "",
        "REMOTE_ADDR": "192.0.2.7",
        "REMOTE_HOST": "192.0.2.7",
        "REMOTE_PORT": "4711",
        "REQUEST_METHOD": "GET",
        "REQUEST_URI": "/v1/http/fn",
        "SCRIPT_NAME": "/v1/http/fn",
        "SERVER_NAME": "example.org",
        "SERVER_PORT": "8080",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "SERVER_SOFTWARE": "inversion/1",
        "HTTP_HOST": "example.org:8080",
    }


def test_the_path_is_decoded_once_and_the_query_is_not():
    env = told(b"/a%20b/%2541;v=1", b"q=%41&+x")
    assert (env["PATH_INFO"], env["QUERY_STRING"]) == ("/a b/%41;v=1", "q=%41&+x")
    assert env["REQUEST_URI"] == "/v1/http/fn/a%20b/%2541;v=1?q=%41&+x"


def test_an_empty_query_is_not_the_same_uri_as_none():
    assert told(b"/x", b"")["REQUEST_URI"] == "/v1/http/fn/x?"


@pytest.mark.parametrize(
    "path",
    [
        b"/%",
        b"/%4",
        b"/%zz",
        b"/a/../b",
        b"/%2e%2E/b",
        b"/.",
        b"/a%2f..%2fb",
        b"/a%00",
        b"/a%0d%0aX",
        b"/%7f",
    ],
)
def test_a_path_that_leads_programs_astray_is_refused(path):
    with pytest.raises(RequestRefused) as caught:
        told(path)
    assert caught.value.code is Code.BAD_REQUEST


@given(
    st.binary().filter(
        lambda value: b"%" not in value and not any(byte < 32 or byte == 127 for byte in value)
    )
)
def test_bytes_that_are_no_utf_8_come_back_from_the_environment_as_they_were(value):
    env = told(query=value, fields={b"x-any": value})
    assert env["QUERY_STRING"].encode("utf-8", "surrogateescape") == value
    assert env["HTTP_X_ANY"].encode("utf-8", "surrogateescape") == value


@pytest.mark.parametrize(
    "name",
    [
        b"authorization",
        b"proxy-authorization",
        b"proxy",
        b"connection",
        b"keep-alive",
        b"te",
        b"transfer-encoding",
        b"upgrade",
        b"expect",
        b"content-length",
        b"content-type",
        b"x_forwarded_for",
        b"x.y",
    ],
)
def test_credentials_proxies_and_what_concerns_one_connection_are_not_passed(name):
    assert not any(key.startswith("HTTP_") for key in of_fields((name, b"x")))


def test_what_connection_names_is_not_passed_either():
    env = of_fields((b"connection", b"close, X-Mine"), (b"x-mine", b"1"), (b"x-other", b"2"))
    assert env["HTTP_X_OTHER"] == "2"
    assert "HTTP_X_MINE" not in env


@given(st.dictionaries(st.from_regex(r"[!-~]{1,12}", fullmatch=True).map(str.encode), st.binary(max_size=8)))
def test_no_field_can_make_a_variable_but_http_ones_and_content_type(fields):
    env = told(fields=fields)
    assert env.keys() >= REQUIRED
    extra = env.keys() - told(fields={}).keys()
    assert all(name.startswith("HTTP_") or name == "CONTENT_TYPE" for name in extra)
    assert not extra & {"HTTP_PROXY", "HTTP_AUTHORIZATION"}


def test_a_body_has_its_length_and_type_and_one_of_unknown_length_has_no_length():
    fields = {b"content-type": b"text/plain", b"content-length": b"7"}
    env = told(length=7, fields=fields)
    assert (env["CONTENT_LENGTH"], env["CONTENT_TYPE"]) == ("7", "text/plain")
    assert "CONTENT_LENGTH" not in told(fields={b"transfer-encoding": b"chunked"})


@pytest.mark.parametrize(
    ("host", "name"),
    [(b"a.b", "a.b"), (b"[::1]:80", "[::1]"), (b"x;rm", "127.0.0.1"), (b"", "127.0.0.1"), (b"a:", "a")],
)
def test_the_servers_name_is_that_of_the_host_if_it_is_a_plain_one(host, name):
    assert of_fields((b"host", host))["SERVER_NAME"] == name


def test_without_a_host_the_servers_name_is_its_address():
    assert told(fields={}, server=("::1", 8080))["SERVER_NAME"] == "[::1]"


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_header_lines_end_with_either_newline(end):
    reader = HeadReader()
    head = reader.feed(end.join([b"Content-Type: text/plain", b"X-A:  b  ", b"", b"body\n\n"]))
    assert head == AnswerHead(200, b"", b"Content-Type: text/plain\r\nX-A: b\r\n", None)
    assert reader.rest == b"body\n\n"


@given(st.lists(st.integers(1, 30)), st.sampled_from([b"\n", b"\r\n"]), st.binary(max_size=40))
def test_however_it_comes_in_pieces_it_is_read_the_same(sizes, end, body):
    whole = end.join(
        [b"Status: 404 Gone fishing", b"Content-Length: 3", b"Set-Cookie: a", b"Set-Cookie: b", b"", body]
    )
    reader, head, at = HeadReader(), None, 0
    for size in (*sizes, len(whole)):
        head = reader.feed(whole[at : at + size])
        at += size
        if head is not None:
            break
    assert head == AnswerHead(404, b"Gone fishing", b"Set-Cookie: a\r\nSet-Cookie: b\r\n", 3)
    assert reader.rest + whole[at:] == body


@pytest.mark.parametrize("value", [b"http://x/y", b"//host/y", b"y?z", b"mailto:a"])
def test_a_location_elsewhere_is_a_client_redirect(value):
    head = read(b"Location: %b\n\n" % value)
    assert head == AnswerHead(302, b"", b"Location: %b\r\n" % value, None)


def test_a_client_redirect_may_have_a_document_and_a_status_of_its_own():
    head = read(b"Status: 301 Moved\nLocation: /here\nContent-Type: text/plain\n\nmoved")
    assert (head.status, head.local) == (301, None)
    assert head.fields == b"Content-Type: text/plain\r\nLocation: /here\r\n"


@pytest.mark.parametrize("status", [b"", b"Status: 200 OK\n"])
def test_a_path_alone_is_a_local_redirect_and_its_other_fields_are_nobodys(status):
    head = read(b"%bX-Secret: 1\nLocation: /v1/http/fn/b?c#d\n\nbody" % status)
    assert head == AnswerHead(200, b"", b"", None, local=b"/v1/http/fn/b?c")


def test_the_servers_own_fields_are_not_taken_from_a_program():
    of_server = b"Connection: x\nTransfer-Encoding: chunked\nDate: x\nKeep-Alive: x\nTrailer: q\n"
    assert read(of_server + b"X-CGI-Y: z\nServer: s\n\n").fields == b"Server: s\r\n"


@pytest.mark.parametrize(
    ("said", "why"),
    [
        (b"<html>\n", "'<html>' where a header line is due"),
        (b"\nbody", "'' where a header line is due"),
        (b"\r\nbody", "'' where a header line is due"),
        (b"HTTP/1.1 200 OK\n", "NPH"),
        (b"A: b\n folded\n\n", "' folded'"),
        (b"A: b\x00c\n\n", "header line"),
        (b"A: b\rX: c\n\n", "header line"),
        (b"A B: c\n\n", "header line"),
        (b"A : c\n\n", "header line"),
        (b"Status: 200\nStatus: 404\n\n", "status twice"),
        (b"Location: /a\nLocation: /b\n\n", "location twice"),
        (b"Status: 100 Continue\n\n", "Status"),
        (b"Status: 600\n\n", "Status"),
        (b"Status: OK\n\n", "Status"),
        (b"Status: 2000\n\n", "Status"),
        (b"Content-Length: -1\n\n", "Content-Length"),
        (b"Content-Length: 1\nContent-Length: 2\n\n", "content-length twice"),
        (b"Location: a b\n\n", "Location"),
        (b"Location:\n\n", "Location"),
        (b"A: " + b"x" * MAX_HEAD_BYTES, "header lines without an empty line"),
        (b"A: " + b"x" * MAX_HEAD_BYTES + b"\n\n", "header lines without an empty line"),
    ],
)
def test_what_is_no_cgi_response_is_refused_in_words(said, why):
    with pytest.raises(BadAnswer, match=why):
        HeadReader().feed(said)


@given(st.binary(max_size=300))
def test_any_output_is_read_refused_or_awaited(said):
    reader = HeadReader()
    try:
        head = reader.feed(said)
    except BadAnswer:
        return
    if head is not None:
        assert 200 <= head.status <= 599
        assert b"\n\n" not in head.fields
        assert head.fields.count(b"\n") == head.fields.count(b"\r\n") == head.fields.count(b"\r")


@pytest.mark.parametrize(
    ("method", "status", "has"),
    [(b"GET", 200, True), (b"HEAD", 200, False), (b"GET", 204, False), (b"GET", 304, False)],
)
def test_some_answers_have_no_body(method, status, has):
    assert read(b"Status: %d\n\n" % status).has_body(method) is has
