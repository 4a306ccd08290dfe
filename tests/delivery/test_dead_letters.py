"""Dead letters and waiting messages at the admin door: listed, shown, tried again once, edited, dropped."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any
from urllib.parse import quote

import orjson
import pytest
import trio
from front_door import get, post
from test_messages import send, sql, until, until_sql

from fix_command import StartCommand, for_serve
from fix_node import LiveNode, StartNode

TOKEN = "s3cret"
AUTHORIZED = b"Authorization: Bearer s3cret"
DEAD = "SELECT count(*) FROM inversion.dead_letter"
LATER = {"fail": {"code": "later", "message": "not yet", "retry": True, "status": 409}}
NO = {"fail": {"code": "no", "message": "never"}}

DEAD_LETTERS = """
    INSERT INTO inversion.dead_letter (function, key, id, sender, handler, body, hops, attempt, failures,
                                       error, born_at, died_at)
    SELECT 'b', 'k' || n % 3, 'id' || n, 'a/x', 'call', '{"add": 1}', 0, 1, 1, '{"code":"no"}', now(), now()
      FROM generate_series(1, 250) AS n
    """
LATE_ONE = """
    INSERT INTO inversion.dead_letter (function, key, id, sender, handler, body, hops, attempt, failures,
                                       error, born_at, died_at)
    VALUES ('b', 'k1', 'late', 'a/x', 'call', '{"add": 1}', 0, 1, 1, '{"code":"no"}', now(), now())
    """


async def ask(node: LiveNode, path: str, method: bytes = b"GET", body: bytes = b"") -> tuple[int, Any]:
    """Status and JSON of an answer of the admin door."""
    raw = get(path.encode(), AUTHORIZED) if method == b"GET" else post(path.encode(), body, AUTHORIZED)
    answer = await node.send(raw.replace(b"POST", method, 1), admin=True)
    return answer.status, orjson.loads(answer.body)


async def bury(node: LiveNode, url: str, *keys: str) -> None:
    """Messages of a/x that answer an error nobody asked for, one for each of these entities of b."""
    before = int(str(sql(url, DEAD)[0][0]))
    await node.call("a/x", {"do": [send(key, NO) for key in keys]})
    await until_sql(url, DEAD, (before + len(keys),))


def place(letter: dict[str, Any]) -> str:
    return f"/v1/messages/{letter['function']}/{quote(letter['key'] or '-', safe='')}/{letter['id']}"


async def test_a_dead_letter_is_listed_shown_edited_and_then_done_by_its_target(
    start_node: StartNode, obedient_toml: str, database_url: str
) -> None:
    async with start_node(obedient_toml, admin_token=TOKEN) as node:
        await bury(node, database_url, "y /ü")
        status, page = await ask(node, "/v1/messages?dead=true&function=b")
        (letter,) = page["messages"]
        assert (status, page["next"]) == (200, None)
        assert (letter["kind"], letter["key"], letter["sender"], letter["attempts"]) == (
            "dead",
            "y /ü",
            "a/x",
            1,
        )
        assert letter["error"]["code"] == "no"
        assert letter["died_at"] >= letter["born_at"]
        _, shown = await ask(node, place(letter))
        assert shown == {**letter, "body": NO}
        status, _ = await ask(node, place(letter) + "/retry", b"POST", b'{"add": 1,')
        assert status == 400
        status, done = await ask(node, place(letter) + "/retry", b"POST", b'{"add": 7}')
        assert (status, done) == (200, {"retried": 1})
        await until(node, f"b/{quote('y /ü', safe='')}", count=7)
        assert sql(database_url, DEAD) == [(0,)]
        assert sql(database_url, "SELECT count(*) FROM inversion.message") == [(0,)]


async def test_a_retry_that_two_people_ask_for_at_once_is_one_message(
    start_node: StartNode, obedient_toml: str, database_url: str
) -> None:
    async with start_node(obedient_toml, admin_token=TOKEN) as node:
        keys = [f"k{n}" for n in range(10)]
        await bury(node, database_url, *keys)
        _, page = await ask(node, "/v1/messages?dead=true")
        statuses: list[int] = []

        async def press(letter: dict[str, Any]) -> None:
            status, _ = await ask(node, place(letter) + "/retry", b"POST", b'{"add": 1}')
            statuses.append(status)

        async with trio.open_nursery() as nursery:
            for letter in page["messages"] * 3:
                nursery.start_soon(press, letter)
        assert sorted(statuses) == [200] * 10 + [404] * 20
        for key in keys:
            await until(node, f"b/{key}", count=1)
        await until_sql(database_url, "SELECT count(*) FROM inversion.message", (0,))
        assert sql(
            database_url, "SELECT count(*) FROM inversion.entity WHERE version > 1 AND function = 'b'"
        ) == [(0,)]


async def test_who_waits_for_an_answer_gets_it_from_the_retry(
    start_node: StartNode, obedient_toml: str, database_url: str
) -> None:
    """It was told of the error when the message died, and is told again, of the same message."""
    async with start_node(obedient_toml, admin_token=TOKEN) as node:
        await node.call("a/x", {"do": [send("y", LATER, reply_to="replied")]})
        state = await until(node, "a/x", answered=1)
        assert state["replies"][0][0]["error"]["given_up"] == "failed 3 times: retry.attempts is 3"
        _, page = await ask(node, "/v1/messages?dead=true&function=b&key=y")
        (letter,) = page["messages"]
        assert (await ask(node, place(letter) + "/retry", b"POST", b'{"add": 5}'))[0] == 200
        state = await until(node, "a/x", answered=2)
        assert state["replies"][1] == [{"response": 5}, True]


async def test_a_retried_message_is_tried_as_often_as_a_new_one_and_goes_before_its_pair(
    start_node: StartNode, obedient_toml: str, database_url: str
) -> None:
    async with start_node(obedient_toml, admin_token=TOKEN) as node:
        await node.call("a/x", {"do": [send("y", LATER)]})
        await until_sql(database_url, DEAD, (1,))
        await node.call("a/x", {"do": [send("y", {"pause": 1}), send("y", {"add": 1, "as": 1})]})
        _, page = await ask(node, "/v1/messages?dead=true")
        (letter,) = page["messages"]
        assert (letter["attempts"], letter["failures"]) == (3, 3)
        body = b'{"add": 1, "as": 0}'
        assert (await ask(node, place(letter) + "/retry", b"POST", body))[0] == 200
        state = await until(node, "b/y", count=2)
        assert sorted(state["seen"]) == [0, 1]
        await node.call("a/x", {"do": [send("y", LATER)]})
        await until_sql(database_url, DEAD, (1,))
        _, page = await ask(node, "/v1/messages?dead=true")
        assert (await ask(node, place(page["messages"][0]) + "/retry", b"POST"))[0] == 200
        await until_sql(database_url, "SELECT failures, attempt FROM inversion.dead_letter", (3, 6))


@pytest.mark.parametrize("query", ["", "?delay=1ms"])
async def test_what_was_sent_from_outside_has_an_output_to_come_again_after_a_retry(
    start_node: StartNode, obedient_toml: str, database_url: str, query: str
) -> None:
    """Its record of an error would else be there before its turn, and it could never be consumed."""
    async with start_node(obedient_toml, admin_token=TOKEN) as node:
        body = orjson.dumps(LATER)
        sent = await node.send(post(f"/v1/send/b/y{query}".encode(), body, b"Idempotency-Key: one"))
        assert sent.status == 202
        output = sent.fields["location"].encode()
        assert (await node.send(get(output + b"?wait=20s"))).status == 409
        _, page = await ask(node, "/v1/messages?dead=true")
        (letter,) = page["messages"]
        assert (await ask(node, place(letter) + "/retry", b"POST", b'{"pause": 1, "add": 2}'))[0] == 200
        assert (await node.send(get(output))).status == 202  # it is to come
        again = await node.send(post(f"/v1/send/b/y{query}".encode(), body, b"Idempotency-Key: one"))
        assert again.fields["location"].encode() == output
        answer = await node.send(get(output + b"?wait=20s"))
        assert (answer.status, answer.body) == (200, b"2")
        await until_sql(database_url, "SELECT count(*) FROM inversion.message", (0,))


async def test_all_dead_letters_of_a_function_or_an_entity_are_tried_again_or_dropped_some_at_a_time(
    start_node: StartNode, obedient_toml: str, database_url: str
) -> None:
    async with start_node(obedient_toml, admin_token=TOKEN) as node:
        sql(database_url, DEAD_LETTERS)
        _, said = await ask(node, "/v1/messages/drop?function=b&key=k0", b"POST")
        assert (said["dropped"], said["more"]) == (83, False)
        _, said = await ask(node, "/v1/messages/retry?function=b", b"POST")
        assert (said["retried"], said["more"]) == (100, True)
        sql(database_url, LATE_ONE)
        _, said = await ask(node, f"/v1/messages/retry?function=b&before={said['before']}", b"POST")
        assert (said["retried"], said["more"]) == (67, False)
        assert sql(database_url, "SELECT id FROM inversion.dead_letter") == [("late",)]
        await until(node, "b/k1", count=84)
        await until(node, "b/k2", count=83)


async def test_waiting_messages_and_timers_are_listed_page_by_page_in_the_order_of_their_times(
    start_node: StartNode, obedient_toml: str, database_url: str
) -> None:
    async with start_node(obedient_toml, admin_token=TOKEN) as node:
        timers = [send("y", LATER, delay=f"{n}h", name=f"t{n}") for n in (3, 1, 2)]
        await node.call("a/x", {"do": [*timers, send(None, {}, function="pure", delay="1h")]})
        seen: list[dict[str, Any]] = []
        path, pages = "/v1/messages?limit=2", 0
        while True:
            _, page = await ask(node, path)
            seen += page["messages"]
            pages += 1
            if page["next"] is None:
                break
            path = f"/v1/messages?limit=2&after={page['next']}"
        assert [(each["function"], each["name"]) for each in seen[:3]] == [
            ("b", "t1"),
            ("b", "t2"),
            ("b", "t3"),
        ]
        assert (seen[3]["function"], seen[3]["key"], pages) == ("pure", None, 3)
        assert {each["kind"] for each in seen} == {"timer"}
        _, page = await ask(node, "/v1/messages?function=pure")
        assert page["messages"] == seen[3:]
        _, page = await ask(node, "/v1/messages?function=b&key=z")
        assert page["messages"] == []
        _, shown = await ask(node, place(seen[0]))
        assert shown == {**seen[0], "body": LATER}


async def test_a_message_that_a_node_has_is_listed_with_its_owner_and_its_last_failure(
    start_node: StartNode, obedient_toml: str, database_url: str
) -> None:
    toml = obedient_toml.replace("attempts = 3", "attempts = 100")
    async with start_node(toml, admin_token=TOKEN) as node:
        await node.call("a/x", {"do": [send("y", {"pause": 0.5, "die": True})]})
        owner = error = None
        with trio.fail_after(30):
            while owner is None or error is None:
                _, page = await ask(node, "/v1/messages?function=b")
                for each in page["messages"]:
                    assert (each["kind"], each["key"], each["sender"]) == ("message", "y", "a/x")
                    owner, error = owner or each["owner"], error or each["error"]
                await trio.sleep(0.05)
        assert error["code"] == "function_crashed"


async def test_what_is_asked_wrongly_is_refused_in_words(
    start_node: StartNode, obedient_toml: str, database_url: str
) -> None:
    async with start_node(obedient_toml, admin_token=TOKEN) as node:
        answer = await node.send(get(b"/v1/messages"), admin=True)
        assert answer.status == 401
        for path in (
            "?limit=0",
            "?limit=1001",
            "?limit=x",
            "?after=1",
            "?dead=1",
            "?x=1",
            "?dead=true&dead=true",
        ):
            assert (await ask(node, f"/v1/messages{path}"))[0] == 400, path
        assert (await ask(node, "/v1/messages/b/y"))[0] == 400
        assert (await ask(node, "/v1/messages/b/y/%ff"))[0] == 400
        assert (await ask(node, "/v1/messages/b/y/no"))[0] == 404
        assert (await ask(node, "/v1/messages/b/y/no/retry", b"POST"))[0] == 404
        assert (await ask(node, "/v1/messages/b/y/no", b"DELETE"))[0] == 404
        assert (await ask(node, "/v1/messages/retry", b"POST"))[0] == 400
        assert (await ask(node, "/v1/messages/retry?function=b&before=now", b"POST"))[0] == 400
        assert (await ask(node, "/v1/messages/retry?function=b"))[0] == 405
        assert (await ask(node, "/v1/messages", b"POST"))[0] == 405
        assert (await node.send(get(b"/v1/messages"))).status == 400  # the ingress knows nothing of it


async def test_the_command_lists_shows_and_edits_dead_letters_in_front_of_two_nodes(
    short_folder: Path, start_command: StartCommand, obedient_toml: str, database_url: str
) -> None:
    (short_folder / "inversion.toml").write_text(for_serve(obedient_toml))
    command = ("serve", "--nodes", "2", "--config", short_folder, "--database-url", database_url)
    with start_command(*command) as served:
        assert (await served.call("a/x", {"do": [send("y", NO)]})).status == 200
        await until_sql(database_url, DEAD, (1,))
        code, said = await messages(short_folder, "list", "--dead", "--json")
        (letter,) = orjson.loads(said)["messages"]
        assert code == 0
        code, said = await messages(short_folder, "show", "b", "y", letter["id"])
        assert (code, "given up:     its answer is an error" in said.decode()) == (0, True)
        edit = ("edit", "b", "y", letter["id"], "-d")
        code, _ = await messages(short_folder, *edit, "{no")
        assert code == 1
        code, said = await messages(short_folder, *edit, '{"add": 3}')
        assert (code, said) == (0, b"1 dead letter retried\n")
        done = "SELECT state::json->>'count' FROM inversion.entity WHERE function = 'b'"
        await until_sql(database_url, done, ("3",))
        code, said = await messages(short_folder, "drop", "b", "y", letter["id"])
        assert (code, said) == (1, b"")


async def messages(folder: Path, *arguments: str) -> tuple[int, bytes]:
    """Exit code and standard output of `inversion messages`, through the socket in the folder."""

    def run() -> tuple[int, bytes]:
        environ = {name: value for name, value in os.environ.items() if not name.startswith("INVERSION_")}
        line = [sys.executable, "-m", "inversion", "messages", *arguments]
        ended = subprocess.run(line, check=False, cwd=folder, env=environ, capture_output=True, timeout=60)
        return ended.returncode, ended.stdout

    return await trio.to_thread.run_sync(run)
