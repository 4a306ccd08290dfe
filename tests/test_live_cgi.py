"""A CGI program of a whole node: it has requests, and neither calls nor messages nor a state."""

from __future__ import annotations

from textwrap import dedent

import orjson
import trio
from front_door import get, post

from fix_node import PYTHON

TOKEN = "a-token-of-this-test"
AUTHORIZED = f"Authorization: Bearer {TOKEN}".encode()
SENDER = """
    import json, sys
    for line in sys.stdin:
        id_ = json.loads(line)["id"]
        send = {"function": "hello", "key": "k", "handler": "call", "message": 1}
        print(json.dumps({"id": id_, "response": True, "effects": [{"send": send}]}), flush=True)
"""


async def test_a_cgi_program_has_requests_and_neither_calls_nor_messages_nor_a_state(start_node, tmp_path):
    (tmp_path / "sender.py").write_text(dedent(SENDER))
    program = tmp_path / "hello.cgi"
    program.write_text("#!/bin/sh\necho 'Content-Type: text/plain'; echo; echo \"hello $PATH_INFO\"\n")
    program.chmod(0o755)
    toml = f"""
        [functions.hello]
        command = "./hello.cgi"
        mode = "cgi"

        [functions.sender]
        command = ["{PYTHON}", "sender.py"]
        hello = "none"
        """
    async with start_node(toml, admin_token=TOKEN) as node:
        answer = await node.send(get(b"/v1/http/hello/you?q=1"))
        assert (answer.status, answer.body) == (200, b"hello /you\n")
        for raw in (post(b"/v1/call/hello", b"1"), post(b"/v1/send/hello", b"1"), get(b"/v1/state/hello/k")):
            refused = await node.send(raw)
            assert refused.status == 400
        assert b"/v1/http/hello/" in (await node.call("hello", b"1")).body
        assert (await node.send(get(b"/v1/http/sender"))).status == 400

        # What another function sends it is a dead letter at once, and says why.
        assert (await node.call("sender/k", b"1")).status == 200
        letters: list[dict[str, object]] = []
        with trio.fail_after(20):
            while not letters:
                page = await node.send(get(b"/v1/messages?dead=true", AUTHORIZED), admin=True)
                letters = orjson.loads(page.body)["messages"]
        assert letters[0]["function"] == "hello"
        shown = orjson.loads((await node.send(get(b"/v1/functions", AUTHORIZED), admin=True)).body)
        assert {"hello", "sender"} <= {each["name"] for each in shown["functions"]}
