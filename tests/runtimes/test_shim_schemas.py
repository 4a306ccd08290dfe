"""JSON Schemas of a handler, in the hello of every shim that runs without a build."""

from __future__ import annotations

from pathlib import Path

import pytest
from hand_host import RUNTIMES, playing

from fix_node import PYTHON

INPUT, OUTPUT = '{"type":"object"}', '{"type":["null","integer"]}'
DECLARED = {"input": {"type": "object"}, "output": {"type": ["null", "integer"]}, "reads_only": True}
# language -> its program, its shim, a function with one handler
FUNCTIONS = {
    "python": (
        PYTHON,
        "shim.py",
        f"from shim import handler, serve\nhandler(print, name='all', reads_only=True, input={INPUT}, "
        f"output={OUTPUT})\nserve()\n",
    ),
    "node": (
        "node",
        "shim.js",
        "const { handler, serve } = require('./shim')\n"
        f"handler('all', {{ readsOnly: true, input: {INPUT}, output: {OUTPUT} }}, () => 1)\nserve()\n",
    ),
    "bash": (
        "bash",
        "shim.sh",
        f". ./shim.sh\nhandler all --reads-only --input '{INPUT}' --output '{OUTPUT}' .message\n"
        "all() { answer 1; }\nserve\n",
    ),
}


@pytest.mark.parametrize(
    "language",
    [
        "python",
        pytest.param("node", marks=pytest.mark.toolchain("node")),
        pytest.param("bash", marks=pytest.mark.toolchain("bash", "jq")),
    ],
)
async def test_the_schemas_of_a_handler_are_declared(language: str, tmp_path: Path) -> None:
    program, shim, code = FUNCTIONS[language]
    (tmp_path / shim).write_text((RUNTIMES / language / shim).read_text())
    (tmp_path / "function").write_text(code)
    async with playing([program, "function"], tmp_path) as runtime:
        assert (await runtime.hello())["handlers"] == {"all": DECLARED}
