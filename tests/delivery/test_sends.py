"""Messages from outside, with a real node: durable before the 202, delivered once, with an output."""

from __future__ import annotations

from pathlib import Path

import orjson
import pytest
import trio
from front_door import Answer, get
from test_messages import sql, state_of, until

from fix_node import LiveNode, StartNode
from inversion.state import sweeper

PATIENCE_S = 30.0


async def send(node: LiveNode, path: str, body: object, *lines: bytes, query: str = "") -> Answer:
    """POST /v1/send/{path}"""
    raw = body if isinstance(body, bytes) else orjson.dumps(body)
    head = b"".join(line + b"\r\n" for line in lines)
    return await node.send(
        b"POST /v1/send/%b%b HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n%b\r\n%b"
        % (path.encode(), query.encode(), len(raw), head, raw)
    )


async def withdraw(node: LiveNode, place: str) -> Answer:
    path = place.replace("/v1/output/", "/v1/send/", 1)
    return await node.send(f"DELETE {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode())


async def output(node: LiveNode, place: str, wait: str = "20s") -> Answer:
    return await node.send(get(f"{place}?wait={wait}".encode()))


def key(name: bytes) -> bytes:
    return b"Idempotency-Key: " + name


def code_of(answer: Answer) -> str:
    return str(orjson.loads(answer.body)["code"])


async def test_a_send_is_answered_at_its_output_with_what_the_function_said(
    start_node: StartNode, obedient_toml: str
) -> None:
    async with start_node(obedient_toml) as node:
        sent = await send(node, "a/k%2F1", {"add": 7})
        assert (sent.status, sent.fields["inversion-outcome"]) == (202, "applied")
        id_ = orjson.loads(sent.body)["id"]
        place = sent.fields["location"]
        assert place == f"/v1/output/a/k%2F1/{id_}"
        for _ in range(2):  # it is kept
            answer = await output(node, place)
            assert (answer.status, answer.body, answer.fields["etag"]) == (200, b"7", '"1"')
            assert answer.fields["content-type"] == "application/json"
        assert (await state_of(node, "a/k%2F1"))["count"] == 7


async def test_a_send_to_a_function_without_state_has_a_dash_for_its_key(
    start_node: StartNode, obedient_toml: str
) -> None:
    async with start_node(obedient_toml) as node:
        for path in ("pure", "pure/work", "a"):
            sent = await send(node, path, {"add": 3})
            place = sent.fields["location"]
            assert place.startswith(f"/v1/output/{path.partition('/')[0]}/-/")
            assert (await output(node, place)).body == b"3"


async def test_a_program_that_knows_nothing_of_messages_gets_one_and_its_bytes_are_the_output(
    start_node: StartNode,
) -> None:
    toml = """
        [functions.total]
        command = ["sh", "-c", "read n; old=$(cat <&3); new=$((${old:-0} + n)); echo $new; echo $new >&4"]
        mode = "exec"
        output = "text/plain"
        """
    async with start_node(toml) as node:
        for total in (b"3\n", b"6\n"):
            sent = await send(node, "total/k", b"3\n")
            answer = await output(node, sent.fields["location"])
            assert (answer.status, answer.body) == (200, total)
            assert answer.fields["content-type"] == "text/plain"
        assert (await send(node, "total/k", b"three")).status == 400


async def test_the_errors_and_dead_letters_of_a_send_are_its_output(
    start_node: StartNode, obedient_toml: str, database_url: str
) -> None:
    refuses = {"fail": {"code": "sold_out", "message": "none left", "status": 409, "details": {"left": 0}}}
    later = {"fail": {"code": "not_yet", "message": "come again", "status": 418, "retry": True}}
    mortal = obedient_toml.replace("functions.pure", "functions.mortal").replace(
        "attempts = 3", "attempts = 2"
    )
    mortal = mortal[mortal.index("[functions.mortal]") :].replace("state = false", "rerun = 0")
    async with start_node(obedient_toml + mortal) as node:
        for query in ("", "?delay=10ms"):
            refused = (await send(node, "a/r", refuses, query=query)).fields["location"]
            asked = (await send(node, "a/l", later, query=query)).fields["location"]
            answer = await output(node, refused)
            told = orjson.loads(answer.body)
            assert (answer.status, told["code"], told["source"]) == (409, "sold_out", "function")
            assert told["details"] == {"left": 0}
            answer = await output(node, asked)
            assert (answer.status, code_of(answer)) == (418, "not_yet")
        answer = await output(node, (await send(node, "mortal/d", {"die": True})).fields["location"])
        told = orjson.loads(answer.body)
        assert (answer.status, told["code"], told["source"]) == (502, "function_crashed", "inversion")
        assert "exit status 3" in answer.body.decode()
        assert "retry.attempts" in told["given_up"]
        letters = "SELECT key, count(*) FROM inversion.dead_letter GROUP BY key ORDER BY key"
        assert sql(database_url, letters) == [("d", 1), ("l", 2)]  # an answer that is an error is none


async def test_the_same_key_again_is_the_same_message_and_another_body_is_422(
    start_node: StartNode, obedient_toml: str
) -> None:
    async with start_node(obedient_toml) as node:
        places = set()
        for _ in range(3):
            sent = await send(node, "a/k", {"add": 1}, key(b"one"))
            assert sent.status == 202
            places.add(sent.fields["location"])
            assert (await output(node, sent.fields["location"])).body == b"1"
        assert len(places) == 1
        for body, path, query in (
            ({"add": 2}, "a/k", ""),
            ({"add": 1}, "a/k/other", ""),
            ({"add": 1}, "a/k", "?delay=1h"),
        ):
            refused = await send(node, path, body, key(b"one"), query=query)
            assert (refused.status, code_of(refused)) == (422, "key_reused")
        other = await send(node, "a/l", {"add": 1}, key(b"one"))  # of another entity it is another key
        assert (await output(node, other.fields["location"])).body == b"1"
        assert (await state_of(node, "a/k"))["count"] == 1


async def test_the_same_key_at_the_same_moment_is_delivered_once(
    start_node: StartNode, obedient_toml: str
) -> None:
    async with start_node(obedient_toml) as node:
        places: set[str] = set()

        async def one() -> None:
            sent = await send(node, "a/k", {"add": 1}, key(b"one"))
            places.add(sent.fields["location"])

        async with trio.open_nursery() as nursery:
            for _ in range(20):
                nursery.start_soon(one)
        (place,) = places
        assert (await output(node, place)).body == b"1"
        last = await send(node, "a/k", {"add": 100})
        assert (await output(node, last.fields["location"])).body == b"101"


async def test_a_send_with_a_time_waits_for_it(
    start_node: StartNode, obedient_toml: str, database_url: str
) -> None:
    async with start_node(obedient_toml) as node:
        for query in ("?delay=30ms", "?at=2020-01-01T00:00:00%2B01:00"):
            sent = await send(node, "a/k", {"add": 1}, query=query)
            assert (await output(node, sent.fields["location"])).status == 200
        waits = await send(node, "a/k", {"add": 1}, key(b"one"), query="?delay=1h")
        pending = await output(node, waits.fields["location"], "10ms")
        assert (pending.status, orjson.loads(pending.body)["pending"]) == (202, True)
        assert pending.fields["retry-after"] == "1"
        again = await send(node, "a/k", {"add": 1}, key(b"one"), query="?delay=1h")
        assert again.fields["location"] == waits.fields["location"]
        assert sql(database_url, "SELECT key, name LIKE '~%' FROM inversion.timer") == [("-", True)]


async def test_what_was_not_delivered_can_be_withdrawn_and_nothing_else(
    start_node: StartNode, obedient_toml: str, database_url: str
) -> None:
    async with start_node(obedient_toml) as node:
        waits = await send(node, "a/k", {"add": 1}, key(b"one"), query="?delay=1h")
        place = waits.fields["location"]
        for _ in range(2):
            gone = await withdraw(node, place)
            assert (gone.status, orjson.loads(gone.body)["withdrawn"]) == (200, True)
        answer = await output(node, place)
        assert (answer.status, code_of(answer)) == (404, "no_output")
        assert b"withdrawn" in answer.body
        again = await send(node, "a/k", {"add": 1}, key(b"one"), query="?delay=1h")  # a late duplicate
        assert again.status == 202
        assert sql(database_url, "SELECT count(*) FROM inversion.timer") == [(0,)]

        done = (await send(node, "a/k", {"add": 1})).fields["location"]
        assert (await output(node, done)).status == 200
        late = await withdraw(node, done)
        assert (late.status, code_of(late)) == (409, "too_late")
        unknown = await withdraw(node, "/v1/output/a/k/0192f0aa-0000-7000-8000-000000000000")
        assert (unknown.status, code_of(unknown)) == (404, "no_output")


async def test_a_message_is_withdrawn_while_the_one_before_it_runs(
    start_node: StartNode, obedient_toml: str
) -> None:
    """It is leased and in its mailbox: its turn finds nothing to consume."""
    async with start_node(obedient_toml) as node:
        await send(node, "a/k", {"pause": 3, "add": 1})
        place = (await send(node, "a/k", {"add": 10})).fields["location"]
        assert (await withdraw(node, place)).status == 200
        last = (await send(node, "a/k", {"add": 100})).fields["location"]
        assert (await output(node, last)).body == b"101"


@pytest.mark.parametrize(
    ("path", "body", "query", "lines", "status", "code"),
    [
        ("a/k", b"{", "", (), 400, "bad_json"),
        ("a/k", b"1", "?delay=10", (), 400, "bad_request"),
        ("a/k", b"1", "?at=tomorrow", (), 400, "bad_request"),
        ("a/k", b"1", "?delay=1s&at=2030-01-01T00:00:00Z", (), 400, "bad_request"),
        ("a/k", b"1", "?dleay=10s", (), 400, "bad_request"),
        ("a/k", b"1", "", (b'If-Match: "1"',), 400, "bad_request"),
        ("a/k", b"1", "", (b"Idempotency-Key: two words",), 400, "bad_request"),
        ("a/-", b"1", "", (), 400, "bad_key"),
        ("nobody/k", b"1", "", (), 404, "no_function"),
        ("spoken/k/nothing", b"1", "", (), 404, "no_handler"),
        ("a/k", b"1" * 2_000, "", (), 413, "body_too_large"),
    ],
)
async def test_a_send_that_cannot_be_is_refused_and_stores_nothing(
    start_node: StartNode,
    obedient_toml: str,
    database_url: str,
    path: str,
    body: bytes,
    query: str,
    lines: tuple[bytes, ...],
    status: int,
    code: str,
) -> None:
    spoken = """
        [functions.spoken]
        command = ["sh", "-c", '''echo '{"hello":{"protocol":1,"handlers":{"call":{}}}}'; cat > /dev/null''']
        hello = "required"
        """
    limits = '\n[limits]\nbody = "1KiB"\n'
    async with start_node(obedient_toml + spoken + limits) as node:
        refused = await send(node, path, body, *lines, query=query)
        assert (refused.status, code_of(refused)) == (status, code), refused.body
        assert refused.fields["inversion-outcome"] == "not_applied"
        assert sql(database_url, "SELECT count(*) FROM inversion.request") == [(0,)]


async def test_any_node_tells_the_output_and_waits_for_it(
    start_node: StartNode, obedient_toml: str, tmp_path: Path
) -> None:
    (tmp_path / "two").mkdir()
    async with start_node(obedient_toml) as one, start_node(obedient_toml, folder=tmp_path / "two") as two:
        for n in range(5):
            sent = await send(one, "a/k", {"pause": 0.1, "add": 1})
            answer = await output(two, sent.fields["location"])
            assert (answer.status, answer.body) == (200, b"%d" % (n + 1))
        effect = {"forward": {"function": "b", "key": "y", "handler": "call", "message": {"add": 1}}}
        bodies = set()
        for node in (one, two) * 5:
            bodies.add((await node.call("a/x", {"do": [effect]})).body)
        assert bodies == {b"%d" % n for n in range(1, 11)}


async def test_an_output_nobody_sent_is_404(start_node: StartNode, obedient_toml: str) -> None:
    async with start_node(obedient_toml) as node:
        for place in (
            "/v1/output/a/k/0192f0aa-0000-7000-8000-000000000000",
            "/v1/output/a/k/%2e%2e",
            "/v1/output/a/-/x",
        ):
            answer = await output(node, place)
            assert (answer.status, code_of(answer)) == (404, "no_output")
        assert (await output(node, "/v1/output/nobody/k/x")).status == 404
        wrong = await node.send(get(b"/v1/output/a/k/x?wait=long"))
        assert (wrong.status, code_of(wrong)) == (400, "bad_request")


async def test_after_their_retention_the_same_key_is_another_message(
    start_node: StartNode, obedient_toml: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeper, "PAUSE_S", 0.05)
    async with start_node(obedient_toml + '\n[retention]\nkeys = "1ms"\n') as node:
        first = (await send(node, "a/k", {"add": 1}, key(b"one"))).fields["location"]
        with trio.fail_after(PATIENCE_S):
            while (again := (await send(node, "a/k", {"add": 1}, key(b"one"))).fields["location"]) == first:
                pass
        assert (await output(node, again)).body == b"2"
        assert (await output(node, first)).body == b"1"


async def test_a_call_that_prefers_not_to_wait_is_a_send(start_node: StartNode, obedient_toml: str) -> None:
    async with start_node(obedient_toml) as node:
        sent = await node.call("a/k", {"add": 5}, b"Prefer: respond-async", key(b"one"))
        assert (sent.status, sent.fields["preference-applied"]) == (202, "respond-async")
        assert (await output(node, sent.fields["location"])).body == b"5"
        again = await node.call("a/k", {"add": 5}, b"Prefer: return=minimal, Respond-Async", key(b"one"))
        assert again.fields["location"] == sent.fields["location"]
        assert (await state_of(node, "a/k"))["count"] == 5
        called = await node.call("a/k", {"add": 5}, key(b"one"))  # a call's key is another
        assert (called.status, called.body) == (200, b"10")
        waits = await node.call("a/k", {"add": 5}, b"Prefer: respond-async, wait=10")
        assert (waits.status, code_of(waits)) == (400, "bad_request")


async def test_many_sends_at_once_are_each_delivered_once(start_node: StartNode, obedient_toml: str) -> None:
    async with start_node(obedient_toml) as node:

        async def some(first: int) -> None:
            for n in range(first, first + 20):
                assert (await send(node, "a/k", {"add": 1, "as": n}, key(b"%d" % n))).status == 202

        async with trio.open_nursery() as nursery:
            for first in range(0, 200, 20):
                nursery.start_soon(some, first)
        state = await until(node, "a/k", count=200)
        assert sorted(state["seen"]) == list(range(200))


async def test_outputs_are_kept_for_their_own_retention(
    start_node: StartNode, obedient_toml: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sweeper, "PAUSE_S", 0.05)
    async with start_node(obedient_toml + '\n[retention]\noutputs = "1ms"\n') as node:
        place = (await send(node, "a/k", {"add": 1}, key(b"one"))).fields["location"]
        await until(node, "a/k", count=1)
        with trio.fail_after(PATIENCE_S):
            while (answer := await output(node, place)).status == 200:
                pass
        assert answer.status == 404
        assert b"retention.outputs" in answer.body
        assert (await send(node, "a/k", {"add": 1}, key(b"one"))).fields["location"] == place
        last = await send(node, "a/k", {"add": 100})
        assert last.status == 202
        assert (await until(node, "a/k", count=101))["count"] == 101
