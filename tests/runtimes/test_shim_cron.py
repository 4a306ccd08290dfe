"""Schedules in a hello: the same in every shim, and the host takes them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from hand_host import RUNTIMES, playing

from fix_node import PYTHON
from inversion.protocol.cron import Schedule
from inversion.protocol.frames import read_hello

CRON = '[{"name":"nightly","schedule":"0 4 * * *","message":{"days":[1]},"handler":"all"}]'
CODE = {
    "python": f"from shim import handler, serve\nhandler(print, name='all')\nserve(cron={CRON})\n",
    "node": f"const {{ handler, serve }} = require('./shim')\nhandler('all', () => 1)\n"
    f"serve({{ cron: {CRON} }})\n",
    "bash": f". ./shim.sh\nhandler all\nall() {{ answer 1; }}\nserve '{CRON}'\n",
    "perl": "use v5.36; use JSON::PP; use lib '.'; use shim;\nhandler all => sub ($ctx, $message) {};\n"
    f"serve cron => decode_json('{CRON}');\n",
    "ruby": f"require './shim'\nhandler(:all) {{ |ctx, message| }}\nserve cron: JSON.parse('{CRON}')\n",
    "php": "<?php require './shim.php';\nInversion\\handler('all', fn () => 1);\n"
    f"Inversion\\serve(json_decode('{CRON}'));\n",
    "lua": "local shim = require 'shim'\nshim.handler('all', function() end)\n"
    f"shim.serve {{ cron = shim.json.decode '{CRON}' }}\n",
    "jq": f'include "shim" {{search: "./"}};\nserve({{all: {{}}}}; {CRON}; {{}})\n',
    "awk": f'BEGIN {{ handler("all", "all"); serve({json.dumps(CRON)}) }}\nfunction all() {{}}\n',
}

PROGRAMS = {"awk": ["sh", "run.sh"], "python": [PYTHON], "jq": ["jq", "--unbuffered", "-ncf"]}


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
@pytest.mark.parametrize("declares", [True, False])
async def test_what_serve_is_given_is_declared(language: str, declares: bool, tmp_path: Path) -> None:
    shutil.copytree(RUNTIMES / language, tmp_path, dirs_exist_ok=True)
    code = (
        CODE[language] if declares else CODE[language].replace(CRON, "[]").replace(json.dumps(CRON), '"[]"')
    )
    (tmp_path / "function").write_text(code)
    async with playing([*PROGRAMS.get(language, [language]), "function"], tmp_path) as runtime:
        hello = read_hello(json.dumps(await runtime.hello()).encode())
    expected = {"nightly": Schedule("nightly", "0 4 * * *", handler="all", message=b'{"days":[1]}')}
    assert list(hello.cron.faults) == []
    assert dict(hello.cron.schedules) == (expected if declares else {})
