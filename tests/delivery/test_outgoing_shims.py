"""The same outgoing request from a function in three languages, and what it hears of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from outside import answer, outside, says
from test_messages import until

from fix_node import PYTHON, RUNTIMES, StartNode

PROGRAMS = {
    "python": (
        [PYTHON, "charge.py"],
        f"""
import sys
sys.path.insert(0, "{RUNTIMES}/python")
from shim import handler, serve

@handler(default=True)
def charge(ctx, url):
    ctx.http(url, {{"cents": 900}}, headers={{"X-From": "shim"}}, reply_to="charged")

@handler
def charged(ctx, message):
    response = message["response"]
    ctx.state = {{"status": response["status"], "body": response["body"], "asked": bool(ctx.reply_to)}}

serve()
""",
    ),
    "node": (
        ["node", "charge.js"],
        f"""
const {{ handler, serve }} = require("{RUNTIMES}/node/shim.js");
handler("charge", {{ default: true }}, (ctx, url) => {{
  ctx.http({{ url, body: {{ cents: 900 }}, headers: {{ "X-From": "shim" }}, replyTo: "charged" }});
}});
handler("charged", (ctx, {{ response }}) => {{
  ctx.state = {{ status: response.status, body: response.body, asked: Boolean(ctx.replyTo) }};
}});
serve();
""",
    ),
    "bash": (
        ["bash", "charge.sh"],
        f"""
. {RUNTIMES}/bash/shim.sh
handler charge --default .message
charge() {{
  effect http --url "$1" --body '{{"cents":900}}' --headers '{{"X-From":"shim"}}' --reply-to charged
}}
handler charged '.message.response.status' '.message.response.body | @json' '.ctx.reply_to != null'
charged() {{ put "{{\\"status\\":$1,\\"body\\":$2,\\"asked\\":$3}}"; }}
serve
""",
    ),
}


@pytest.mark.toolchain("node", "bash", "jq")
@pytest.mark.parametrize("language", PROGRAMS)
async def test_a_function_hears_what_it_asked_the_world(
    start_node: StartNode, tmp_path: Path, language: str
) -> None:
    command, text = PROGRAMS[language]
    (tmp_path / command[1]).write_text(text)
    toml = f'[functions.charge]\ncommand = {command}\n[http]\nallow = ["127.0.0.1"]\n'
    async with outside(says(answer(201, b'{"id":"ch_1"}'))) as server, start_node(toml) as node:
        said = await node.call("charge/o1", f'"http://127.0.0.1:{server.port}/v1/charges"'.encode())
        assert said.status == 200, said.body
        state: dict[str, Any] = await until(node, "charge/o1", status=201)
        assert state == {"status": 201, "body": '{"id":"ch_1"}', "asked": True}
        (heard,) = server.heard
        assert (heard.method, heard.target) == ("POST", "/v1/charges")
        assert heard.body.replace(b" ", b"") == b'{"cents":900}'
        assert heard.fields["content-type"] == "application/json"
        assert heard.fields["x-from"] == "shim"
        assert heard.key
