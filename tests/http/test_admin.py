from __future__ import annotations

import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from front_door import Answer, CallsDouble, Client, Door, get, open_door, post

from inversion.http.admin import Admin, FunctionReport, Sources
from inversion.http.server import open_unix
from inversion.messages import Handler, Hello, State

TOKEN = b"Authorization: Bearer s3cret"
OPEN = [b"/livez", b"/readyz", b"/metrics"]
GUARDED = [b"/v1/functions", b"/v1/state/cart/k", b"/v1/call/cart/k", b"/errors/bad_json", b"/nothing"]


class Node:
    """What the admin door asks."""

    def __init__(self) -> None:
        self.reasons: list[str] = []
        hello = Hello(runtime="python/3.11", pipeline=64, batch=64, handlers={"add": Handler("add")})
        self.reports = [
            FunctionReport("cart", "lines", None, 2, hello),
            FunctionReport("pure", "exec", "no such program: frob", 0, None),
        ]

    def sources(self) -> Sources:
        return Sources(lambda: self.reasons, lambda: b"inversion_up 1\n", lambda: self.reports)


@asynccontextmanager
async def open_admin(
    node: Node | None = None, *, token: str | None = "s3cret", hosts: tuple[str, ...] = ()
) -> AsyncIterator[Door]:
    calls = CallsDouble()
    calls.states["cart", "k"] = State(b"[1]", 5, b"t" * 16)
    admin = Admin(calls, (node or Node()).sources(), token=token, hosts=hosts)
    async with open_door(calls, application=admin) as door:
        yield door


def code(answer: Answer) -> str:
    return str(json.loads(answer.body)["code"])


@pytest.mark.parametrize("path", OPEN)
async def test_health_and_metrics_need_no_token(path: bytes) -> None:
    async with open_admin(token=None) as door:
        (answer,) = await door.exchange(get(path))
    assert answer.status == 200


async def test_not_ready_says_why() -> None:
    node = Node()
    async with open_admin(node) as door:
        (ready,) = await door.exchange(get(b"/readyz"))
        node.reasons = ["draining", "no database"]
        not_ready, alive = await door.exchange(get(b"/readyz") + get(b"/livez"))
    assert (ready.status, json.loads(ready.body)) == (200, {"ready": True, "reasons": []})
    assert (not_ready.status, alive.status) == (503, 200)
    assert json.loads(not_ready.body)["reasons"] == ["draining", "no database"]


async def test_metrics_are_the_bytes_of_their_source() -> None:
    async with open_admin() as door:
        (answer,) = await door.exchange(get(b"/metrics"))
    assert answer.body == b"inversion_up 1\n"
    assert answer.fields["content-type"].startswith("text/plain; version=0.0.4")


@pytest.mark.parametrize("path", GUARDED)
@pytest.mark.parametrize(
    "line",
    [
        b"X: y",
        b"Authorization: Bearer wrong",
        b"Authorization: Bearer",
        b"Authorization: Bearer ",
        b"Authorization: Basic s3cret",
        b"Authorization: s3cret",
    ],
)
async def test_everything_else_needs_the_token(path: bytes, line: bytes) -> None:
    async with open_admin() as door:
        (answer,) = await door.exchange(get(path, line))
    assert (answer.status, code(answer)) == (401, "unauthenticated")
    assert answer.fields["www-authenticate"].startswith("Bearer")


@pytest.mark.parametrize("token", [None, ""])
@pytest.mark.parametrize("given", [b"", b"None", b"null"])
async def test_without_a_configured_token_nothing_is_let_in(token: str | None, given: bytes) -> None:
    async with open_admin(token=token) as door:
        (answer,) = await door.exchange(get(b"/v1/functions", b"Authorization: Bearer " + given))
    assert answer.status == 401


async def test_with_the_token_functions_states_and_calls_are_open() -> None:
    async with open_admin() as door:
        (functions,) = await door.exchange(get(b"/v1/functions", TOKEN))
        (state,) = await door.exchange(get(b"/v1/state/cart/k", TOKEN))
        (called,) = await door.exchange(post(b"/v1/call/cart/k/add", b"2", b"authorization: bearer s3cret"))
    assert json.loads(functions.body) == {
        "functions": [
            {
                "name": "cart",
                "mode": "lines",
                "problem": None,
                "processes": 2,
                "hello": {
                    "runtime": "python/3.11",
                    "protocol": 1,
                    "pipeline": 64,
                    "batch": 64,
                    "handlers": ["add"],
                },
            },
            {
                "name": "pure",
                "mode": "exec",
                "problem": "no such program: frob",
                "processes": 0,
                "hello": None,
            },
        ]
    }
    assert (state.body, state.fields["etag"]) == (b"[1]", '"5"')
    assert called.body == b"2"


@pytest.mark.parametrize(
    ("host", "good"),
    [
        (b"localhost", True),
        (b"LOCALHOST:9080", True),
        (b"127.0.0.1:9080", True),
        (b"[::1]:9080", True),
        (b"10.1.2.3", True),
        (b"node.example:9080", True),
        (b"evil.example", False),
        (b"localhost.evil.example", False),
        (b"127.0.0.1.evil.example:9080", False),
        (b"", False),
    ],
)
@pytest.mark.parametrize("path", [b"/livez", b"/v1/functions"])
async def test_a_rebound_name_is_kept_out(host: bytes, good: bool, path: bytes) -> None:
    raw = get(path, TOKEN).replace(b"Host: localhost", b"Host: " + host)
    async with open_admin(hosts=("node.example",)) as door:
        (answer,) = await door.exchange(raw)
    if good:
        assert answer.status == 200
    else:
        assert (answer.status, code(answer)) == (403, "bad_host")


@pytest.mark.parametrize(
    ("origin", "good"),
    [
        (b"http://localhost", True),
        (b"http://evil.example", False),
        (b"http://localhost:8081", False),
        (b"null", False),
        (b"", False),
    ],
)
async def test_a_foreign_page_is_kept_out(origin: bytes, good: bool) -> None:
    async with open_admin() as door:
        (answer,) = await door.exchange(get(b"/v1/functions", TOKEN, b"Origin: " + origin))
    if good:
        assert answer.status == 200
    else:
        assert (answer.status, code(answer)) == (403, "bad_origin")


async def test_the_unix_socket_needs_neither_token_nor_host(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    admin = Admin(CallsDouble(), Node().sources(), token=None, trusted=True)
    async with open_door(application=admin, listener=open_unix(path)) as door:
        client = Client(await trio.open_unix_socket(path))
        door.clients.append(client)
        await client.send(get(b"/v1/functions").replace(b"localhost", b"inversion.internal"))
        assert (await client.answer()).status == 200


async def test_what_is_read_is_not_posted() -> None:
    async with open_admin() as door:
        for path in OPEN:
            (answer,) = await door.exchange(post(path))
            assert (answer.status, answer.fields["allow"]) == (405, "GET, HEAD")
