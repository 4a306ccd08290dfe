"""`mode = "exec"` over HTTP: arguments, types of bodies, what an exit code says."""

from __future__ import annotations

import orjson
from front_door import post

PROGRAMS = """
    [functions.say]
    command = ["printf", "%s|", "--"]
    mode = "exec"
    output = "text/plain"
    arguments = "query"

    [functions.shut]
    command = ["printf", "%s|", "--"]
    mode = "exec"

    [functions.json]
    command = "cat"
    mode = "exec"
    input = "json"
    output = "json"

    [functions.png]
    command = "cat"
    mode = "exec"
    input = "image/png"
    output = "image/png"

    [functions.sorry]
    command = ["sh", "-c", "echo no such thing >&2; exit $1", "sh"]
    mode = "exec"
    arguments = "query"
    exit = { 4 = 404 }
    """


async def test_arguments_types_and_exit_codes(start_node):
    async with start_node(PROGRAMS) as node:
        said = await node.send(post(b"/v1/call/say?arg=-n&arg=a+b&arg=%24%28id%29"))
        assert (said.status, said.body) == (200, b"--|-n|a b|$(id)|")
        assert said.fields["content-type"] == "text/plain"
        assert (await node.send(post(b"/v1/call/say/key/call?arg=x"))).body == b"--|x|"
        assert (await node.send(post(b"/v1/call/say?arg=x", b"", b"Prefer: respond-async"))).status == 400
        assert (await node.send(post(b"/v1/send/say?arg=x"))).status == 400
        refused = await node.send(post(b"/v1/call/shut?arg=x"))
        assert (refused.status, b"takes no query" in refused.body) == (400, True)

        # The same key with other arguments asks for something else.
        once = b"Idempotency-Key: k1"
        for argument, status in ((b"x", 200), (b"x", 200), (b"y", 422)):
            answer = await node.send(post(b"/v1/call/say/key/call?arg=%b" % argument, b"", once))
            assert answer.status == status

        assert (await node.call("json", b'{"a": 1}')).body == b'{"a": 1}'
        assert orjson.loads((await node.call("json", b"{")).body)["code"] == "bad_json"
        right = await node.call("png", b"\x89PNG", b"Content-Type: Image/PNG; a=b")
        assert (right.status, right.body, right.fields["content-type"]) == (200, b"\x89PNG", "image/png")
        wrong = await node.call("png", b"x", b"Content-Type: text/plain")
        assert (wrong.status, orjson.loads(wrong.body)["code"]) == (415, "content_type")
        assert (await node.call("png", b"x")).status == 415

        mapped = orjson.loads((await node.send(post(b"/v1/call/sorry?arg=4"))).body)
        assert (mapped["status"], mapped["detail"]) == (404, "no such thing")
        assert mapped["details"] == {"exit_status": 4}
        crashed = orjson.loads((await node.send(post(b"/v1/call/sorry?arg=5"))).body)
        assert (crashed["status"], crashed["exit_status"], crashed["stderr"]) == (502, 5, "no such thing")
