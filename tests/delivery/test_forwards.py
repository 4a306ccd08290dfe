"""`forward`: the answer comes from another entity, whoever asked: a caller, a key again, a sender, a send."""

from __future__ import annotations

import re
from pathlib import Path

import orjson
import pytest
import trio
from front_door import Answer, get
from test_messages import send as send_effect
from test_messages import sql, state_of, until, until_sql
from test_sends import code_of, key, output, send

from fix_node import PYTHON, RUNTIMES, LiveNode, StartNode


def forward(to: str | None, message: object, function: str = "b", **more: object) -> dict[str, object]:
    """A `forward` effect."""
    return {"forward": {"function": function, "key": to, "handler": "call", "message": message, **more}}


def forwarding(*keys: str, then: object) -> object:
    """What makes an entity forward to the first of these of b, that to the next, and the last do it."""
    message = then
    for each in reversed(keys):
        message = {"do": [forward(each, message)]}
    return message


async def test_a_forwarded_call_is_answered_by_the_other_entity(
    start_node: StartNode, obedient_toml: str, database_url: str
) -> None:
    async with start_node(obedient_toml) as node:
        for time in (1, 2):
            answer = await node.call("a/x", {"do": [forward("y", {"add": 5})]})
            assert (answer.status, answer.body) == (200, b"%d" % (5 * time))
            assert answer.fields["inversion-outcome"] == "applied"
            assert answer.fields["etag"] == f'"{time}"'  # of the entity that was called
        assert (await state_of(node, "a/x"))["done"] == 2
        assert (await state_of(node, "b/y"))["count"] == 10
        assert sql(database_url, "SELECT count(*) FROM inversion.message") == [(0,)]


async def test_a_chain_of_forwards_is_answered_by_its_end(start_node: StartNode, obedient_toml: str) -> None:
    async with start_node(obedient_toml) as node:
        chain = forwarding("1", "2", "x", "2", "4", then={"add": 7})
        assert (await node.call("b/x", chain)).body == b"7"
        assert (await state_of(node, "b/2"))["done"] == 2
        to_none = {"do": [forward(None, {"add": 3}, function="pure")]}
        assert (await node.call("a/x", to_none)).body == b"3"
        to_itself = {"do": [{"forward": {"message": {"add": 9}}}]}
        assert (await node.call("a/z", to_itself)).body == b"9"


async def test_an_error_at_the_end_is_the_callers_and_what_forwarded_was_applied(
    start_node: StartNode, obedient_toml: str, database_url: str
) -> None:
    error = {"code": "sold_out", "message": "none left", "status": 409}
    async with start_node(obedient_toml) as node:
        answer = await node.call("a/x", {"do": [forward("y", {"fail": error})]})
        told = orjson.loads(answer.body)
        assert (answer.status, told["code"], told["outcome"]) == (409, "sold_out", "applied")
        assert answer.fields["inversion-outcome"] == "applied"
        assert (await state_of(node, "a/x"))["done"] == 1
        assert sql(database_url, "SELECT count(*) FROM inversion.dead_letter") == [(0,)]
        nobody = {"do": [forward("y", {"fail": {**error, "retry": True}})]}
        answer = await node.call("a/x", nobody)
        assert (answer.status, code_of(answer)) == (409, "sold_out")
        assert sql(database_url, "SELECT key, failures FROM inversion.dead_letter") == [("y", 3)]


@pytest.mark.parametrize("circle", [{}, {"function": "a", "key": "x"}])
async def test_a_circle_of_forwards_ends_after_sixteen(
    start_node: StartNode, obedient_toml: str, database_url: str, circle: dict[str, str]
) -> None:
    async with start_node(obedient_toml) as node:
        for path in ("b/y", "a/x"):
            answer = await node.call(path, {"circle": circle})
            told = orjson.loads(answer.body)
            assert (answer.status, told["code"], told["outcome"]) == (502, "too_many_hops", "applied")
        assert sql(database_url, "SELECT hops, failures FROM inversion.dead_letter") == [(16, 0), (16, 0)]
        assert sql(database_url, "SELECT count(*) FROM inversion.message") == [(0,)]
        again = await node.call("a/x", {"add": 1})
        assert again.status == 200


async def test_the_same_key_again_gets_the_answer_of_the_other_entity(
    start_node: StartNode, obedient_toml: str
) -> None:
    async with start_node(obedient_toml) as node:
        asked = {"do": [forward("y", {"pause": 0.5, "do": [forward("z", {"add": 1})]})]}
        answers: list[Answer] = []

        async def ask() -> None:
            answers.append(await node.call("a/x", asked, key(b"one")))

        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(ask)
        await ask()
        assert [answer.body for answer in answers] == [b"1"] * 4
        assert sorted(answer.fields.get("inversion-replayed", "") for answer in answers) == [
            "",
            *["true"] * 3,
        ]
        assert (await state_of(node, "b/z"))["count"] == 1
        assert (await node.call("a/x", {"add": 1}, key(b"one"))).status == 422
    async with start_node(obedient_toml) as node:
        again = await node.call("a/x", asked, key(b"one"))
        assert (again.body, again.fields["inversion-replayed"]) == (b"1", "true")


async def test_a_forwarded_send_has_its_output_where_it_was_sent(
    start_node: StartNode, obedient_toml: str
) -> None:
    async with start_node(obedient_toml) as node:
        for query in ("", "?delay=20ms"):
            sent = await send(node, "a/x", forwarding("1", "2", then={"add": 4}), query=query)
            first = await output(node, sent.fields["location"])
            assert first.status == 200
            assert (await output(node, sent.fields["location"])).body == first.body
        assert (await state_of(node, "b/2"))["count"] == 8
        slow = await send(node, "a/x", forwarding("3", then={"pause": 3, "add": 1}))
        await until(node, "a/x", done=3)
        pending = await output(node, slow.fields["location"], "1ms")
        assert pending.status == 202
        assert (await output(node, slow.fields["location"])).body == b"1"


async def test_the_reply_to_a_forwarded_message_comes_from_its_end(
    start_node: StartNode, obedient_toml: str, database_url: str
) -> None:
    error = {"code": "sold_out", "message": "none left", "status": 409}
    async with start_node(obedient_toml) as node:
        effects = [
            send_effect("y", forwarding("1", "2", then={"add": 5}), reply_to="replied"),
            send_effect("y", forwarding("3", then={"fail": error}), reply_to="replied"),
            send_effect("y", forwarding("4", then={"add": 6}), reply_to="replied", delay="10ms"),
            send_effect("y", {"do": [forward("y", {"add": 7})]}, reply_to="replied"),
            send_effect("y", {"circle": {}}, reply_to="replied"),
        ]
        await node.call("a/x", {"do": effects})
        await until(node, "a/x", answered=5)
        replies = (await state_of(node, "a/x"))["replies"]
        assert all(named for _, named in replies)
        said = [reply for reply, _ in replies]
        for response in (5, 6, 7):
            assert {"response": response} in said
        codes = sorted(each["error"]["code"] for each in said if "error" in each)
        assert codes == ["sold_out", "too_many_hops"]
        assert sql(database_url, "SELECT count(*) FROM inversion.message") == [(0,)]


async def test_two_subscribers_forward_the_same_publication_to_the_same_entity(
    start_node: StartNode, obedient_toml: str, database_url: str
) -> None:
    async with start_node(obedient_toml) as node:
        for subscriber in ("p", "q"):
            await node.call(f"b/{subscriber}", {"do": [{"subscribe": {"topic": "news", "handler": "call"}}]})
        slow = {"pause": 0.3, "add": 1}  # the first still waits when the second is stored
        published = {"do": [{"publish": {"topic": "news", "message": forwarding("y", then=slow)}}]}
        await node.call("a/x", published)
        await until(node, "b/y", count=2)
        await until_sql(database_url, "SELECT count(*) FROM inversion.message", (0,))
        told = await node.send(get(b"/metrics"), admin=True)
        assert b"inversion_messages_failed_total 0.0" in told.body


async def test_at_its_deadline_a_caller_is_told_where_the_answer_will_be(
    start_node: StartNode, obedient_toml: str
) -> None:
    async with start_node(obedient_toml) as node:
        asked = {"do": [forward("y", {"pause": 6, "add": 5})]}
        late = await node.call("a/x", asked, b"Inversion-Timeout: 4s", key(b"one"))
        told = orjson.loads(late.body)
        assert (late.status, told["code"], told["outcome"]) == (504, "deadline", "applied")
        place = late.fields["location"]
        assert re.fullmatch(r"/v1/output/b/y/[0-9a-f-]{36}", place)
        assert (await output(node, place)).body == b"5"
        assert (await node.call("a/x", asked, key(b"one"))).body == b"5"


async def test_a_node_that_drains_tells_those_who_wait_where_the_answer_will_be(
    start_node: StartNode, obedient_toml: str
) -> None:
    async with start_node(obedient_toml) as node:
        answers: dict[str, Answer] = {}

        async def ask() -> None:
            answers["call"] = await node.call("a/x", {"do": [forward("y", {"pause": 6, "add": 5})]})

        async def wait(place: str) -> None:
            answers["output"] = await output(node, place)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask)
            await until(node, "a/x", done=1)
            sent = await send(node, "b/y", {"add": 1})  # behind the one that runs
            nursery.start_soon(wait, sent.fields["location"])
            node.started.drain()
        call = answers["call"]
        assert (call.status, call.fields["inversion-outcome"]) == (504, "applied")
        assert call.fields["location"].startswith("/v1/output/b/y/")
        assert answers["output"].status in (202, 503)  # or it came after the drain began
    async with start_node(obedient_toml) as node:
        assert (await output(node, call.fields["location"])).body == b"5"
        assert (await output(node, sent.fields["location"])).body == b"6"


PYTHON_CODE = f"""
import sys
sys.path.insert(0, "{RUNTIMES}/python")
from shim import handler, serve

@handler(default=True)
def ask(ctx, message):
    ctx.state = (ctx.state or 0) + 1
    ctx.forward("b", "y", "call", message)

serve()
"""
NODE_CODE = f"""
const {{ handler, serve }} = require("{RUNTIMES}/node/shim.js");
handler("call", (ctx, message) => {{
  ctx.state = (ctx.state ?? 0) + 1;
  ctx.forward({{ function: "b", key: "y", message }});
}});
serve();
"""
BASH_CODE = f"""
. "{RUNTIMES}/bash/shim.sh"
handler ask --default '.message' '.state // 0'
ask() {{
  put "$(($2 + 1))"
  effect forward --function b --key y --message "$1"
}}
serve
"""
JQ_CODE = """
jq -c --unbuffered '{id, state: ((.state // 0) + 1),
                     effects: [{forward: {function: "b", key: "y", message}}]}'
"""


@pytest.mark.parametrize(
    ("command", "file", "code"),
    [
        pytest.param(PYTHON, "f.py", PYTHON_CODE, id="python"),
        pytest.param("node", "f.js", NODE_CODE, id="node", marks=pytest.mark.toolchain("node")),
        pytest.param("bash", "f.sh", BASH_CODE, id="bash", marks=pytest.mark.toolchain("jq", "bash")),
        pytest.param("sh", "f.sh", JQ_CODE, id="jq", marks=pytest.mark.toolchain("jq")),
    ],
)
async def test_the_shims_forward(
    start_node: StartNode, obedient_toml: str, tmp_path: Path, command: str, file: str, code: str
) -> None:
    toml = f'{obedient_toml}\n[functions.f]\ncommand = ["{command}", "{file}"]\n'

    async def ask(node: LiveNode, amount: int) -> Answer:
        return await node.call("f/k", {"add": amount})

    (tmp_path / file).write_text(code)
    async with start_node(toml) as node:
        assert (await ask(node, 5)).body == b"5"
        assert (await ask(node, 6)).body == b"11"
        assert (await node.state("f/k")).body == b"2"
