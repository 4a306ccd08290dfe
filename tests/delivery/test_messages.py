"""Messages between entities, with a real node: delivered once, in order, answered, or buried."""

from __future__ import annotations

from typing import Any

import orjson
import psycopg
import trio

from fix_node import LiveNode, StartNode

PATIENCE_S = 30.0
ONE_TRY = "failed 1 times: retry.attempts is 1"


def sql(url: str, text: str) -> list[tuple[object, ...]]:
    """What the database itself says."""
    with psycopg.connect(url, autocommit=True) as connection:
        cursor = connection.execute(text)  # type: ignore[arg-type]
        return cursor.fetchall() if cursor.description else []


def send(key: str | None, message: object, function: str = "b", **more: object) -> dict[str, object]:
    """A `send` effect."""
    return {"send": {"function": function, "key": key, "handler": "call", "message": message, **more}}


async def state_of(node: LiveNode, path: str) -> dict[str, Any]:
    answer = await node.state(path)
    return orjson.loads(answer.body) if answer.status == 200 else {}


async def until(node: LiveNode, path: str, **wanted: object) -> dict[str, Any]:
    """Wait until the state holds these values."""
    state: dict[str, Any] = {}
    with trio.move_on_after(PATIENCE_S):
        while True:
            state = await state_of(node, path)
            if all(state.get(name) == value for name, value in wanted.items()):
                return state
            await trio.sleep(0.02)
    raise AssertionError(f"{path} is {state}, wanted {wanted}")


async def until_sql(url: str, text: str, *wanted: tuple[object, ...]) -> None:
    """Wait until the database says so."""
    found: list[tuple[object, ...]] = []
    with trio.move_on_after(PATIENCE_S):
        while True:
            found = await trio.to_thread.run_sync(sql, url, text)
            if found == list(wanted):
                return
            await trio.sleep(0.02)
    raise AssertionError(f"{text}: {found}, wanted {wanted}")


async def test_what_one_entity_sends_another_gets_once_and_in_order(
    start_node: StartNode, obedient_toml: str, database_url: str
) -> None:
    async with start_node(obedient_toml) as node:
        for first in range(0, 40, 10):
            effects = [send("y", {"add": 1, "as": n}) for n in range(first, first + 10)]
            answer = await node.call("a/x", {"do": effects})
            assert answer.status == 200, answer.body
        state = await until(node, "b/y", count=40)
        assert state["seen"] == list(range(40))
        assert sql(database_url, "SELECT count(*) FROM inversion.message") == [(0,)]


async def test_effects_without_a_change_of_state_are_a_version(
    start_node: StartNode, obedient_toml: str
) -> None:
    async with start_node(obedient_toml) as node:
        await node.call("a/x", {"do": [send("y", {"add": 1})], "keep": True})
        answer = await node.call("a/x", {"do": [send("y", {"add": 1})], "keep": True})
        assert answer.fields["etag"] == '"2"'
        await until(node, "b/y", count=2)


async def test_a_reply_comes_to_the_named_handler_with_the_answer_or_the_error(
    start_node: StartNode, obedient_toml: str, database_url: str
) -> None:
    error = {"code": "sold_out", "message": "none left", "status": 409}
    async with start_node(obedient_toml) as node:
        effects = [
            send("y", {"add": 5}, reply_to="replied"),
            send("z", {"fail": error}, reply_to="replied"),
            send(None, {"add": 7}, function="pure", reply_to="replied"),
        ]
        await node.call("a/x", {"do": effects})
        await until(node, "a/x", answered=3)
        replies = (await state_of(node, "a/x"))["replies"]
        assert all(named for _, named in replies)
        said = [reply for reply, _ in replies]
        assert {"response": 5} in said
        assert {"response": 7} in said
        assert [each["error"]["code"] for each in said if "error" in each] == ["sold_out"]
        assert sql(database_url, "SELECT count(*) FROM inversion.message") == [(0,)]
        assert sql(database_url, "SELECT count(*) FROM inversion.dead_letter") == [(0,)]


async def test_a_message_that_fails_is_tried_again_and_then_a_dead_letter(
    start_node: StartNode, obedient_toml: str, database_url: str
) -> None:
    async with start_node(obedient_toml) as node:
        effects = [send("y", {"die": True}), send("y", {"add": 1}), send("z", {"add": 1})]
        await node.call("a/x", {"do": effects})
        await until(node, "b/z", count=1)
        await until(node, "b/y", count=1)  # it waited for the one before
        await until_sql(
            database_url,
            "SELECT function, key, sender, failures, error::json->>'code' FROM inversion.dead_letter",
            ("b", "y", "a/x", 3, "function_crashed"),
        )


async def test_a_dead_letter_says_what_its_process_left_and_why_there_is_no_further_try(
    start_node: StartNode, obedient_toml: str, database_url: str
) -> None:
    """And nothing of the function's environment, which its process printed."""
    secret = "s3cr3t-of-the-function"
    toml = (
        obedient_toml
        + f"""
        [functions.hung]
        command = ["sh", "-c", "echo hung with $TOKEN >&2; sleep 60"]
        hello = "none"
        timeout = "300ms"
        retry = {{ attempts = 1 }}
        env = {{ TOKEN = "{secret}" }}

        [functions.torn]
        command = ["sh", "-c", "read line; echo torn with $TOKEN >&2; exit 7"]
        hello = "none"
        retry = {{ attempts = 2, pause = "10ms" }}
        env = {{ TOKEN = "{secret}" }}
        """
    )
    async with start_node(toml) as node:
        for function in ("hung", "torn"):
            await node.call("a/x", {"do": [send("y", 1, function=function)]})
        await node.call("a/x", {"do": [send("z", {"fail": {"code": "no", "message": "never"}})]})
        await until_sql(
            database_url,
            "SELECT function, failures, error::json->>'code', error::json->>'stderr',"
            "  error::json->>'exit_status', error::json->>'given_up' FROM inversion.dead_letter ORDER BY 1",
            ("b", 0, "no", None, None, "its answer is an error, and no reply_to asks for it"),
            ("hung", 1, "function_timeout", "hung with [env TOKEN]", None, ONE_TRY),
            (
                "torn",
                2,
                "function_crashed",
                "torn with [env TOKEN]",
                "7",
                "failed 2 times: retry.attempts is 2",
            ),
        )
        rows = "SELECT d::text FROM inversion.dead_letter AS d"
        assert not [row for (row,) in sql(database_url, rows) if secret in str(row)]


async def test_a_timer_that_fails_is_tried_again_and_then_a_dead_letter(
    start_node: StartNode, obedient_toml: str, database_url: str
) -> None:
    async with start_node(obedient_toml) as node:
        fails = {"fail": {"code": "later", "message": "not yet", "retry": True}}
        await node.call("a/x", {"do": [send("y", fails, delay="10ms", name="bell")]})
        await until_sql(
            database_url,
            "SELECT function, key, failures, error::json->>'code' FROM inversion.dead_letter",
            ("b", "y", 3, "later"),
        )
        assert sql(database_url, "SELECT count(*) FROM inversion.timer") == [(0,)]


async def test_an_error_nobody_waits_for_is_a_dead_letter_at_once(
    start_node: StartNode, obedient_toml: str, database_url: str
) -> None:
    async with start_node(obedient_toml) as node:
        await node.call("a/x", {"do": [send("y", {"fail": {"code": "no", "message": "never"}})]})
        await until_sql(
            database_url,
            "SELECT key, failures, error::json->>'code' FROM inversion.dead_letter",
            ("y", 0, "no"),
        )
        assert sql(database_url, "SELECT count(*) FROM inversion.message") == [(0,)]


async def test_a_timer_fires_when_it_is_due_is_replaced_by_its_name_and_cancelled(
    start_node: StartNode, obedient_toml: str, database_url: str
) -> None:
    async with start_node(obedient_toml) as node:
        timers = [
            send("y", {"add": 1}, delay="100ms"),
            send("y", {"add": 10}, delay="1h", name="n"),
            send("y", {"add": 100}, delay="1h", name="gone"),
            send("y", {"add": 10_000}, at="2020-01-01T00:00:00Z"),
        ]
        await node.call("a/x", {"do": timers})
        again = [send("y", {"add": 1_000}, delay="50ms", name="n"), {"cancel": {"name": "gone"}}]
        await node.call("a/x", {"do": again})
        await until(node, "b/y", count=11_001)
        assert sql(database_url, "SELECT count(*) FROM inversion.timer") == [(0,)]


async def test_a_timer_that_winds_itself_again_under_its_name_goes_on(
    start_node: StartNode, obedient_toml: str, database_url: str
) -> None:
    async with start_node(obedient_toml) as node:
        tick = {"key": "x", "handler": "call", "name": "tick", "delay": "1ms"}
        await node.call("a/x", {"do": [{"send": {**tick, "message": {"rearm": {"send": tick}, "until": 5}}}]})
        await until(node, "a/x", count=5)
        assert sql(database_url, "SELECT count(*) FROM inversion.timer") == [(0,)]
