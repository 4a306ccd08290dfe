"""Outgoing requests of a real node: at least once, one key, answered, tried again, given up, refused."""

from __future__ import annotations

import io
from typing import Any

import orjson
import pytest
import trio
from outside import Behaviour, Heard, Outside, answer, outside, says
from test_dead_letters import TOKEN, ask
from test_messages import sql, state_of, until, until_sql

from fix_node import LiveNode, StartNode
from inversion.observe import logs

PATIENCE_S = 30.0
RETRY = '{ attempts = 3, pause = "20ms", longest_pause = "50ms" }'


def toml(functions: str, allow: str = '"127.0.0.1"', retry: str = RETRY, **more: str) -> str:
    lines = "".join(f"{key} = {value}\n" for key, value in more.items())
    return f"{functions}\n[http]\nallow = [{allow}]\nretry = {retry}\n{lines}"


def http(server: Outside, path: str = "/hook", **more: object) -> dict[str, object]:
    """An `http` effect."""
    return {"http": {"url": f"http://127.0.0.1:{server.port}{path}", **more}}


async def do(node: LiveNode, *effects: object, entity: str = "a/x") -> None:
    said = await node.call(entity, {"do": effects})
    assert said.status == 200, said.body


async def until_heard(server: Outside, count: int) -> list[Heard]:
    with trio.fail_after(PATIENCE_S):
        while len(server.heard) < count:  # noqa: ASYNC110 (tests poll)
            await trio.sleep(0.01)
    return server.heard


async def reply_to(node: LiveNode, entity: str = "a/x") -> Any:
    """What came to its handler, when one reply has come."""
    await until(node, entity, answered=1)
    message, is_reply = (await state_of(node, entity))["replies"][0]
    assert is_reply
    return message


async def count_of(node: LiveNode, outcome: str) -> float:
    text = (await node.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", admin=True)).body.decode()
    name = f'inversion_outgoing_requests_total{{outcome="{outcome}"}} '
    return next(float(line.removeprefix(name)) for line in text.splitlines() if line.startswith(name))


async def gauge_of(node: LiveNode, name: str) -> float:
    text = (await node.send(b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n", admin=True)).body.decode()
    start = f"inversion_{name} "
    return next(float(line.removeprefix(start)) for line in text.splitlines() if line.startswith(start))


async def test_the_answer_comes_to_the_named_handler(
    start_node: StartNode, obedient_toml: str, database_url: str
) -> None:
    async with (
        outside(says(answer(201, '{"id":"ü"}'.encode(), X_Name="v"))) as server,
        start_node(toml(obedient_toml)) as node,
    ):
        effect = http(server, "/charge?secret=1", body={"cents": 900}, reply_to="replied")
        await do(node, effect)
        reply = await reply_to(node)
        assert reply["response"]["status"] == 201
        assert reply["response"]["body"] == '{"id":"ü"}'
        assert reply["response"]["headers"]["x-name"] == "v"
        (heard,) = server.heard
        assert (heard.method, heard.target, heard.body) == ("POST", "/charge?secret=1", b'{"cents": 900}')
        assert heard.key
        assert await count_of(node, "2xx") == 1
        await until_sql(database_url, "SELECT count(*) FROM inversion.message", (0,))


async def test_what_a_4xx_says_is_an_answer(start_node: StartNode, obedient_toml: str) -> None:
    async with outside(says(answer(404, b"no"))) as server, start_node(toml(obedient_toml)) as node:
        await do(node, http(server, reply_to="replied"))
        assert (await reply_to(node))["response"]["status"] == 404
        assert len(server.heard) == 1
        assert await count_of(node, "4xx") == 1


async def test_a_5xx_and_a_torn_answer_are_tried_again_with_the_same_key(
    start_node: StartNode, obedient_toml: str
) -> None:
    behave = says(answer(503, b"later"), b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n", answer(200))
    async with outside(behave) as server, start_node(toml(obedient_toml)) as node:
        await do(node, http(server, reply_to="replied"), http(server, headers={"Idempotency-Key": "mine"}))
        assert (await reply_to(node))["response"]["status"] == 200
        await until_heard(server, 4)
        keys = [heard.key for heard in server.heard]
        assert set(keys) == {"mine", next(key for key in keys if key != "mine")}
        assert await count_of(node, "retry") == 1
        assert await count_of(node, "torn") == 1


async def test_two_effects_have_two_keys(start_node: StartNode, obedient_toml: str) -> None:
    async with outside(says(answer())) as server, start_node(toml(obedient_toml)) as node:
        await do(node, http(server), http(server))
        assert len({heard.key for heard in await until_heard(server, 2)}) == 2


async def test_what_gives_up_says_so_to_who_asked_or_is_a_dead_letter(
    start_node: StartNode, obedient_toml: str, database_url: str
) -> None:
    logged = io.StringIO()
    logs.configure(logs.Style.JSON, logged)
    async with outside(says(answer(500, b"oops"))) as server, start_node(toml(obedient_toml)) as node:
        secret = {"headers": {"Authorization": "Bearer s3cret"}}
        await do(node, http(server, "/p?token=s3cret", reply_to="replied", **secret))
        error = (await reply_to(node))["error"]
        assert error["code"] == "http_status"
        assert error["details"] == {"status": 500}
        assert len(server.heard) == 3
        await do(node, http(server, "/p?token=s3cret", **secret), entity="a/other")
        await until_sql(
            database_url,
            "SELECT function, sender, handler, failures, error::json->>'message', body::json->>'url' "
            "FROM inversion.dead_letter WHERE sender = 'a/other'",
            (
                "~http",
                "a/other",
                "POST",
                3,
                f"POST http://127.0.0.1:{server.port} answered 500",
                f"http://127.0.0.1:{server.port}/p?token=s3cret",
            ),
        )
        assert len({heard.key for heard in server.heard}) == 2
    assert "dead_letter" in logged.getvalue()
    assert "s3cret" not in logged.getvalue()
    logs.configure()


async def test_retry_after_is_the_least_pause(start_node: StartNode, obedient_toml: str) -> None:
    times_s: list[float] = []
    answers = [answer(429, Retry_After="1"), answer(200)]

    async def behave(_: Heard, stream: trio.abc.Stream) -> None:
        times_s.append(trio.current_time())
        await stream.send_all(answers.pop(0))

    async with outside(behave) as server, start_node(toml(obedient_toml)) as node:
        await do(node, http(server, reply_to="replied"))
        assert (await reply_to(node))["response"]["status"] == 200
        assert times_s[1] - times_s[0] >= 0.9  # the database counts in whole milliseconds


async def test_who_is_told_to_wait_longer_than_it_may_gives_up_at_once(
    start_node: StartNode, obedient_toml: str
) -> None:
    busy = says(answer(503, Retry_After="999999999"))
    async with outside(busy) as server, start_node(toml(obedient_toml)) as node:
        await do(node, http(server, reply_to="replied"))
        assert (await reply_to(node))["error"]["code"] == "http_status"
        assert len(server.heard) == 1


async def test_without_an_allow_list_the_error_says_what_to_write(
    start_node: StartNode, obedient_toml: str, database_url: str
) -> None:
    async with outside(says(answer())) as server, start_node(toml(obedient_toml, allow="")) as node:
        await do(node, http(server, reply_to="replied"))
        error = (await reply_to(node))["error"]
        assert error["code"] == "http_refused"
        assert f'inversion.toml: [http] allow = ["127.0.0.1:{server.port}"]' in error["message"]
        await do(node, http(server), entity="a/silent")
        await until_sql(
            database_url,
            "SELECT sender, failures, error::json->>'code' FROM inversion.dead_letter",
            ("a/silent", 0, "http_refused"),
        )
        assert server.connections == 0
        assert await count_of(node, "refused") == 2


async def test_an_answer_over_the_limit_is_an_error_and_not_asked_for_again(
    start_node: StartNode, obedient_toml: str
) -> None:
    async with outside(says(answer(200, b"a" * 5_000))) as server:
        limited = toml(obedient_toml) + '[limits]\nbody = "4KiB"\n'
        async with start_node(limited) as node:
            await do(node, http(server, reply_to="replied"))
            assert (await reply_to(node))["error"]["code"] == "http_too_large"
            assert len(server.heard) == 1


def hanging() -> Behaviour:
    async def behave(_: Heard, stream: trio.abc.Stream) -> None:
        await trio.sleep_forever()

    return behave


async def test_a_host_that_hangs_does_not_hold_up_another(
    start_node: StartNode, obedient_toml: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """More requests to it wait than a node holds."""
    monkeypatch.setattr("inversion.delivery.outgoing._GRACE_S", 0.1)
    async with outside(hanging()) as slow, outside(says(answer()), host="127.0.0.2") as quick:
        config = toml(obedient_toml, allow='"127.0.0.0/8"', timeout='"120s"')
        async with start_node(config) as node:
            for n in range(5):
                await do(node, *[http(slow)] * 100, entity=f"a/slow{n}")
            await until_heard(slow, 16)
            other = {"http": {"url": f"http://127.0.0.2:{quick.port}/", "reply_to": "replied"}}
            await do(node, other)
            assert (await reply_to(node))["response"]["status"] == 200
            assert slow.connections == 16


async def test_a_node_makes_no_more_requests_at_a_time_than_it_may_whatever_the_hosts(
    start_node: StartNode, obedient_toml: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inversion.delivery.outgoing._AT_ONCE", 20)
    monkeypatch.setattr("inversion.delivery.outgoing._GRACE_S", 0.1)
    async with outside(hanging()) as one, outside(hanging(), host="127.0.0.2") as other:
        config = toml(obedient_toml, allow='"127.0.0.0/8"', timeout='"120s"')
        async with start_node(config) as node:
            urls = [f"http://127.0.0.1:{one.port}/", f"http://127.0.0.2:{other.port}/"]
            for n in range(20):
                await do(node, *[{"http": {"url": url}} for url in urls], entity=f"a/e{n}")
            with trio.fail_after(PATIENCE_S):
                while one.connections + other.connections < 20:  # noqa: ASYNC110
                    await trio.sleep(0.01)
            await node.call("b/y", {"add": 1})  # time for one too many
            assert one.connections + other.connections == 20
            assert await gauge_of(node, "outgoing_under_way") == 20


async def test_a_drain_lets_what_runs_end_and_gives_back_the_rest(
    start_node: StartNode, obedient_toml: str, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("inversion.delivery.outgoing._GRACE_S", PATIENCE_S)
    going = trio.Event()

    async def when_told(_: Heard, stream: trio.abc.Stream) -> None:
        await going.wait()
        await stream.send_all(answer())

    async with outside(when_told) as server:
        async with start_node(toml(obedient_toml)) as node:
            await do(node, *[http(server)] * 20)
            await until_heard(server, 16)
            node.started.drain()
            await until_sql(database_url, "SELECT count(*) FROM inversion.message WHERE owner IS NULL", (4,))
            going.set()
        await until_sql(database_url, "SELECT count(*), count(owner) FROM inversion.message", (4, 0))
        assert len(server.heard) == 16


async def test_what_a_drain_cuts_off_is_nobodys_failure_and_done_by_the_next_node(
    start_node: StartNode,
    obedient_toml: str,
    database_url: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("inversion.delivery.outgoing._GRACE_S", 0.1)
    hangs = True

    async def behave(_: Heard, stream: trio.abc.Stream) -> None:
        if hangs:
            await trio.sleep_forever()
        await stream.send_all(answer())

    async with outside(behave) as server:
        async with start_node(toml(obedient_toml)) as node:
            await do(node, http(server, reply_to="replied"))
            await until_heard(server, 1)
        await until_sql(database_url, "SELECT failures, owner FROM inversion.message", (0, None))
        hangs = False
        async with start_node(toml(obedient_toml)) as node:
            assert (await reply_to(node))["response"]["status"] == 200
        first, second = server.heard
        assert first.key == second.key


async def test_nobody_calls_the_function_that_makes_requests(
    start_node: StartNode, obedient_toml: str
) -> None:
    async with start_node(toml(obedient_toml)) as node:
        body = orjson.dumps({"url": "http://127.0.0.1:1/"})
        for path in ("~http", "~http/k", "~http/k/call"):
            assert (await node.call(path, body)).status == 404
        said = await node.call("a/x", {"do": [{"send": {"function": "~http", "message": {}}}]})
        assert said.status == 502


async def test_a_dead_letter_that_is_tried_again_keeps_its_key(
    start_node: StartNode, obedient_toml: str, database_url: str
) -> None:
    behave = says(*[answer(500)] * 3, answer(200))
    async with outside(behave) as server, start_node(toml(obedient_toml), admin_token=TOKEN) as node:
        await do(node, http(server))
        await until_sql(database_url, "SELECT failures FROM inversion.dead_letter", (3,))
        ((id_,),) = sql(database_url, "SELECT id FROM inversion.dead_letter")
        assert (await ask(node, f"/v1/messages/~http/-/{id_}/retry", b"POST"))[0] == 200
        heard = await until_heard(server, 4)
        assert {each.key for each in heard} == {id_}
        await until_sql(database_url, "SELECT count(*) FROM inversion.dead_letter", (0,))


async def test_a_dead_letter_that_was_edited_into_none_is_refused_and_dead_again(
    start_node: StartNode, obedient_toml: str, database_url: str
) -> None:
    async with (
        outside(says(answer())) as server,
        start_node(toml(obedient_toml, allow=""), admin_token=TOKEN) as node,
    ):
        await do(node, http(server))
        await until_sql(database_url, "SELECT count(*) FROM inversion.dead_letter", (1,))
        ((id_,),) = sql(database_url, "SELECT id FROM inversion.dead_letter")
        edited = orjson.dumps({"url": "http://user:s3cret@127.0.0.1/"})
        assert (await ask(node, f"/v1/messages/~http/-/{id_}/retry", b"POST", edited))[0] == 200
        await until_sql(
            database_url,
            "SELECT error::json->>'message' LIKE 'this is no http request: http.url %', "
            "position('s3cret' in error) FROM inversion.dead_letter",
            (True, 0),
        )
