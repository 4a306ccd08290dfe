"""Idempotency-Key: the same key gets the same answer, and nothing is done twice."""

import shutil

import orjson
import psycopg
import pytest
import trio

from fix_node import PYTHON, RUNTIMES
from inversion.state import sweeper

ONCE = """
import os, sys, time
sys.path.insert(0, "RUNTIMES/python")
from shim import Refused, handler, serve

def count(ctx, amount):
    value = (ctx.state or {"count": 0})["count"] + amount
    ctx.state = {"count": value}
    return value

@handler
def add(ctx, message):
    return count(ctx, message)

@handler
def get(ctx, message):
    return ctx.state["count"]

@handler
def refuse(ctx, message):
    if not os.path.exists("allow"):
        raise Refused("sold_out", "there is none left", status=410, details={"left": 0})
    return count(ctx, 1000)

@handler
def slow(ctx, message):
    time.sleep(0.3)
    return count(ctx, message)

@handler
def crash(ctx, message):
    if not os.path.exists("allow"):
        os._exit(3)
    return count(ctx, 7)

@handler
def drop(ctx, message):
    ctx.delete()
    return "gone"

serve()
"""


@pytest.fixture
def toml(tmp_path):
    (tmp_path / "once.py").write_text(ONCE.replace("RUNTIMES", str(RUNTIMES)))
    return f"""
        [functions.once]
        command = ["{PYTHON}", "once.py"]
        rerun = 0

        [functions.pure]
        command = ["{PYTHON}", "-c", '''
import json, sys
for number, line in enumerate(sys.stdin):
    print(json.dumps({{"id": json.loads(line)["id"], "response": number}}), flush=True)
''']
        state = false

        [functions.total]
        command = ["sh", "-c", "read n; old=$(cat <&3); new=$((${{old:-0}} + n)); echo $new; echo $new >&4"]
        mode = "exec"
        output = "text/plain"
        """


def key(name):
    return b"Idempotency-Key: " + name


async def test_the_same_key_gets_the_same_answer_and_is_applied_once(start_node, toml):
    async with start_node(toml) as node:
        first = await node.call("once/k/add", 5, key(b"a"))
        assert (first.status, first.body, first.fields["etag"]) == (200, b"5", '"1"')
        assert "inversion-replayed" not in first.fields
        assert (await node.call("once/k/add", 2, key(b"b"))).body == b"7"
        again = await node.call("once/k/add", 5, key(b"a"))
        assert (again.status, again.body, again.fields["etag"]) == (200, b"5", '"1"')
        assert again.fields["inversion-replayed"] == "true"
        assert again.fields["inversion-outcome"] == "applied"
        state = await node.state("once/k")
        assert (state.body, state.fields["etag"]) == (b'{"count":7}', '"2"')


async def test_a_repeat_after_a_restart_with_a_cold_cache_is_replayed_too(start_node, toml):
    async with start_node(toml) as node:
        await node.call("once/k/add", 5, key(b"a"))
    async with start_node(toml) as node:
        again = await node.call("once/k/add", 5, key(b"a"))
        assert (again.body, again.fields["inversion-replayed"]) == (b"5", "true")


async def test_another_body_or_handler_under_the_same_key_is_422_and_changes_nothing(start_node, toml):
    async with start_node(toml) as node:
        await node.call("once/k/add", 5, key(b"a"))
        for path, body in (("once/k/add", 6), ("once/k/slow", 5)):
            answer = await node.call(path, body, key(b"a"))
            problem = orjson.loads(answer.body)
            assert (answer.status, problem["code"], problem["outcome"]) == (422, "key_reused", "not_applied")
        assert (await node.state("once/k")).body == b'{"count":5}'


async def test_the_same_key_of_another_entity_is_another_key(start_node, toml):
    async with start_node(toml) as node:
        assert (await node.call("once/k/add", 5, key(b"a"))).body == b"5"
        assert (await node.call("once/l/add", 5, key(b"a"))).body == b"5"
        assert (await node.state("once/l")).body == b'{"count":5}'


async def test_a_refusal_is_recorded_so_that_a_repeat_cannot_apply_later(start_node, toml, tmp_path):
    async with start_node(toml) as node:
        await node.call("once/k/add", 5)
        first = await node.call("once/k/refuse", None, key(b"a"))
        assert first.status == 410
        (tmp_path / "allow").touch()
        again = await node.call("once/k/refuse", None, key(b"a"))
        told, repeated = orjson.loads(first.body), orjson.loads(again.body)
        assert again.status == 410
        assert again.fields["inversion-replayed"] == "true"
        assert again.fields["etag"] == first.fields["etag"] == '"1"'
        for name in ("code", "detail", "details", "outcome", "source"):
            assert told.get(name) == repeated.get(name), name
        assert (await node.state("once/k")).body == b'{"count":5}'
        assert (await node.call("once/k/refuse", None, key(b"b"))).status == 200


async def test_a_refusal_by_an_entity_that_does_not_exist_is_recorded(start_node, toml, tmp_path):
    async with start_node(toml) as node:
        assert (await node.call("once/new/refuse", None, key(b"a"))).status == 410
        (tmp_path / "allow").touch()
        assert (await node.call("once/new/refuse", None, key(b"a"))).status == 410
        assert (await node.state("once/new")).status == 404


async def test_a_keyed_read_is_recorded_as_it_was(start_node, toml):
    async with start_node(toml) as node:
        await node.call("once/k/add", 5)
        assert (await node.call("once/k/get", None, key(b"a"))).body == b"5"
        await node.call("once/k/add", 5)
        again = await node.call("once/k/get", None, key(b"a"))
        assert (again.body, again.fields["etag"]) == (b"5", '"1"')
        assert (await node.call("once/k/get", None)).body == b"10"


async def test_a_crash_is_not_recorded_and_may_be_tried_again(start_node, toml, tmp_path):
    async with start_node(toml) as node:
        assert (await node.call("once/k/crash", None, key(b"a"))).status == 502
        (tmp_path / "allow").touch()
        answer = await node.call("once/k/crash", None, key(b"a"))
        assert (answer.status, answer.body) == (200, b"7")
        assert "inversion-replayed" not in answer.fields


async def test_a_repeat_waits_while_the_first_one_runs_and_gets_its_answer(start_node, toml):
    answers = []
    async with start_node(toml) as node:

        async def ask():
            answers.append(await node.call("once/k/slow", 1, key(b"a")))

        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(ask)
        assert [answer.body for answer in answers] == [b"1"] * 8
        assert sum("inversion-replayed" in answer.fields for answer in answers) == 7
        assert (await node.state("once/k")).body == b'{"count":1}'


async def test_a_repeat_that_will_not_wait_is_409(start_node, toml):
    answers = []
    async with start_node(toml) as node:

        async def ask():
            answers.append(await node.call("once/k/slow", 1, key(b"a"), b"Prefer: wait=0"))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            nursery.start_soon(ask)
        refused, answered = sorted(answers, key=lambda answer: answer.status, reverse=True)
        assert (refused.status, answered.status) == (409, 200)
        assert orjson.loads(refused.body)["code"] == "key_in_flight"
        assert refused.fields["retry-after"] == "1"
        assert (await node.state("once/k")).body == b'{"count":1}'


async def test_a_stateless_call_has_one_recorded_answer(start_node, toml):
    async with start_node(toml) as node:
        first = await node.call("pure/work", 1, key(b"a"))
        assert (await node.call("pure/work", 1, key(b"b"))).body != first.body
        again = await node.call("pure/work", 1, key(b"a"))
        assert (again.status, again.body, again.fields["inversion-replayed"]) == (200, first.body, "true")
        assert "etag" not in again.fields
        assert (await node.call("pure/work", 2, key(b"a"))).status == 422


async def test_an_exec_function_keeps_its_promise_too(start_node, toml):
    async with start_node(toml) as node:
        for _ in range(3):
            answer = await node.call("total/k", b"4\n", key(b"a"))
            assert (answer.status, answer.body, answer.fields["content-type"]) == (200, b"4\n", "text/plain")
        assert (await node.state("total/k")).body == b"4"


async def test_a_delete_is_replayed_and_what_was_created_since_stays(start_node, toml):
    async with start_node(toml) as node:
        await node.call("once/k/add", 5)
        first = await node.call("once/k/drop", None, key(b"a"))
        await node.call("once/k/add", 1)
        again = await node.call("once/k/drop", None, key(b"a"))
        assert (again.body, again.fields["etag"]) == (first.body, first.fields["etag"])
        assert (await node.state("once/k")).body == b'{"count":1}'


@pytest.mark.parametrize("bad", [b"", b"a b", b"\xc3\xa9", b"x" * 201])
async def test_a_key_that_is_none_is_refused(bad, start_node, toml):
    async with start_node(toml) as node:
        answer = await node.call("once/k/add", 1, key(bad))
        assert (answer.status, orjson.loads(answer.body)["code"]) == (400, "bad_request")
        assert (await node.state("once/k")).status == 404


async def test_two_nodes_race_with_one_key_and_apply_it_once(start_node, toml, database_url, tmp_path):
    shutil.copytree(tmp_path, tmp_path / "two")
    async with start_node(toml) as one, start_node(toml, folder=tmp_path / "two") as two:
        await one.call("once/k/add", 1)
        await two.call("once/k/add", 1)
        for round_ in range(20):
            answers = []

            async def ask(node, name, answers=answers):
                answers.append(await node.call("once/k/add", 1, key(name)))

            async with trio.open_nursery() as nursery:
                for node in (one, two, one, two):
                    nursery.start_soon(ask, node, b"r%d" % round_)
            assert {answer.body for answer in answers} == {b"%d" % (round_ + 3)}
        assert (await one.state("once/k")).body == b'{"count":22}'
        with psycopg.connect(database_url, autocommit=True) as connection:
            row = connection.execute(
                "SELECT count(*), count(DISTINCT turn) FROM inversion.request"
            ).fetchone()
        assert row == (20, 20)


async def test_after_the_retention_a_repeat_is_a_new_request(start_node, toml, database_url, monkeypatch):
    monkeypatch.setattr(sweeper, "PAUSE_S", 0.05)
    async with start_node(toml + '\n        [retention]\n        keys = "100ms"\n') as node:
        assert (await node.call("once/k/add", 5, key(b"a"))).body == b"5"
        with psycopg.connect(database_url, autocommit=True) as connection, trio.fail_after(10):
            while connection.execute("SELECT count(*) FROM inversion.request").fetchone() != (0,):  # noqa: ASYNC110 (another process's)
                await trio.sleep(0.02)
        assert (await node.call("once/k/add", 5, key(b"a"))).body == b"10"
