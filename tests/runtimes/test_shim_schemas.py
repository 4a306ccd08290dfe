"""JSON Schemas of a handler, in the hello of every shim that runs without a build."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hand_host import RUNTIMES, playing

from fix_node import PYTHON

INPUT, OUTPUT = '{"type":"object"}', '{"type":["null","integer"]}'
DECLARED = {"input": {"type": "object"}, "output": {"type": ["null", "integer"]}, "reads_only": True}
# language -> its program, a function with one handler
FUNCTIONS = {
    "python": (
        PYTHON,
        f"from shim import handler, serve\nhandler(print, name='all', reads_only=True, input={INPUT}, "
        f"output={OUTPUT})\nserve()\n",
    ),
    "node": (
        "node",
        "const { handler, serve } = require('./shim')\n"
        f"handler('all', {{ readsOnly: true, input: {INPUT}, output: {OUTPUT} }}, () => 1)\nserve()\n",
    ),
    "bash": (
        "bash",
        f". ./shim.sh\nhandler all --reads-only --input '{INPUT}' --output '{OUTPUT}' .message\n"
        "all() { answer 1; }\nserve\n",
    ),
    "perl": (
        "perl",
        "use v5.36; use JSON::PP; use lib '.'; use shim;\nhandler all => sub ($ctx, $message) { 1 }, "
        f"reads_only => 1, input => decode_json('{INPUT}'), output => decode_json('{OUTPUT}');\nserve;\n",
    ),
    "ruby": (
        "ruby",
        f"require './shim'\nhandler(:all, reads_only: true, input: JSON.parse('{INPUT}'), "
        f"output: JSON.parse('{OUTPUT}')) {{ |ctx, message| 1 }}\nserve\n",
    ),
    "php": (
        "php",
        "<?php require './shim.php';\nInversion\\handler('all', fn () => 1, readsOnly: true, "
        f"input: json_decode('{INPUT}'), output: json_decode('{OUTPUT}'));\nInversion\\serve();\n",
    ),
    "lua": (
        "lua",
        "local shim = require 'shim'\nlocal decode = shim.json.decode\n"
        "shim.handler('all', { reads_only = true, "
        f"input = decode '{INPUT}', output = decode '{OUTPUT}' }}, function() end)\nshim.serve()\n",
    ),
    "jq": (
        "jq --unbuffered -ncf",
        f'include "shim" {{search: "./"}};\n'
        f"serve({{all: {{reads_only: true, input: {INPUT}, output: {OUTPUT}}}}}; {{}})\n",
    ),
    "awk": (
        "sh run.sh",
        'BEGIN { handler("all", "all", "reads_only", '
        f"{json.dumps(INPUT)}, {json.dumps(OUTPUT)}); serve() }}\nfunction all() {{}}\n",
    ),
}


@pytest.mark.parametrize(
    "language",
    [
        "python",
        pytest.param("node", marks=pytest.mark.toolchain("node")),
        pytest.param("bash", marks=pytest.mark.toolchain("bash", "jq")),
        pytest.param("perl", marks=pytest.mark.toolchain("perl")),
        pytest.param("ruby", marks=pytest.mark.toolchain("ruby")),
        pytest.param("php", marks=pytest.mark.toolchain("php")),
        pytest.param("lua", marks=pytest.mark.toolchain("lua")),
        pytest.param("jq", marks=pytest.mark.toolchain("jq")),
        pytest.param("awk", marks=pytest.mark.toolchain("gawk")),
    ],
)
async def test_the_schemas_of_a_handler_are_declared(language: str, tmp_path: Path) -> None:
    program, code = FUNCTIONS[language]
    shutil.copytree(RUNTIMES / language, tmp_path, dirs_exist_ok=True)
    (tmp_path / "function").write_text(code)
    async with playing([*program.split(), "function"], tmp_path) as runtime:
        assert (await runtime.hello())["handlers"] == {"all": DECLARED}
