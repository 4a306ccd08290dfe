"""Every function of `runtimes/` through a whole node: one counter and one cart in each language, and
programs nobody wrote for us.
"""

import shutil
import tomllib

import orjson
import pytest

from fix_builds import BUILD_S, BUILDS, built
from fix_node import RUNTIMES

SHIMS = [
    pytest.param("python"),
    pytest.param("node", marks=pytest.mark.toolchain("node")),
    pytest.param("bash", marks=pytest.mark.toolchain("bash", "jq")),
    pytest.param("perl", marks=pytest.mark.toolchain("perl")),
    pytest.param("ruby", marks=pytest.mark.toolchain("ruby")),
    pytest.param("php", marks=pytest.mark.toolchain("php")),
    pytest.param("elixir", marks=pytest.mark.toolchain("elixir")),
    pytest.param("go", marks=pytest.mark.toolchain("go")),
    pytest.param("rust", marks=[pytest.mark.toolchain("cargo"), pytest.mark.timeout(BUILD_S)]),
    pytest.param("java", marks=pytest.mark.toolchain("javac")),
    pytest.param("c", marks=pytest.mark.toolchain("cc")),
    pytest.param("cpp", marks=pytest.mark.toolchain("g++")),
    pytest.param("lua", marks=pytest.mark.toolchain("lua")),
    pytest.param("jq", marks=pytest.mark.toolchain("jq")),
    pytest.param("awk", marks=pytest.mark.toolchain("gawk")),
]


@pytest.fixture
def start_runtimes(tmp_path, start_node):
    """A node of all functions in `runtimes/`, or of those named."""
    shutil.copytree(RUNTIMES, tmp_path, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".inversion"))
    written = (RUNTIMES / "inversion.toml").read_text()

    def start(*only):
        if not only:
            return start_node(written)
        commands = {name: command(name) for name in only}
        return start_node(
            "".join(f"[functions.{name}]\ncommand = {command}\n" for name, command in commands.items())
        )

    def command(name):
        program, language = name.split("-")
        if language in BUILDS:
            return list(built(language, program))
        return tomllib.loads(written)["functions"][name]["command"]

    return start


async def answered(node, path, body=b""):
    answer = await node.call(path, body)
    return answer.status, orjson.loads(answer.body), answer.fields.get("etag")


@pytest.mark.parametrize("language", SHIMS)
async def test_a_counter_counts_durably_and_is_reset(language, start_runtimes):
    counter = f"counter-{language}/alice"
    async with start_runtimes(f"counter-{language}") as node:
        assert await answered(node, f"{counter}/get") == (200, 0, '"0"')
        assert await answered(node, f"{counter}/add", 2) == (200, 2, '"1"')
        assert await answered(node, f"{counter}/add") == (200, 3, '"2"')
        assert await answered(node, counter, 4) == (200, 7, '"3"')
        assert (await node.state(counter)).body == b'{"count":7}'
        assert await answered(node, f"{counter}/get") == (200, 7, '"3"')
        assert await answered(node, f"{counter}/reset") == (200, 0, '"4"')
        assert (await node.state(counter)).status == 404
        status, problem, _ = await answered(node, f"{counter}/add", "one")
        assert (status, problem["code"], problem["source"]) == (422, "bad_amount", "function")
        assert await answered(node, f"{counter}/add", 1) == (200, 1, '"5"')


@pytest.mark.parametrize("language", SHIMS)
async def test_a_cart_is_filled_shown_and_checked_out(language, start_runtimes):
    cart = f"cart-{language}/c-17"
    async with start_runtimes(f"cart-{language}") as node:
        assert (await node.call(f"{cart}/add", {"sku": "a1", "qty": 2})).status == 200
        assert (await node.call(f"{cart}/add", {"sku": "b2", "qty": 1})).status == 200
        shown = await node.call(f"{cart}/show")
        assert {item["sku"]: item["qty"] for item in orjson.loads(shown.body)["items"]} == {"a1": 2, "b2": 1}
        assert (await node.call(f"{cart}/remove", {"sku": "b2"})).status == 200
        assert (await node.call(f"{cart}/checkout")).status == 200
        status, problem, _ = await answered(node, f"{cart}/checkout")
        assert (status, problem["code"]) == (409, "cart_empty")


@pytest.mark.toolchain("jq", "awk", "sed", "sort", "grep", "sha256sum")
async def test_programs_nobody_wrote_for_us_are_functions(start_runtimes):
    async with start_runtimes() as node:
        assert await answered(node, "counter-jq-alone/k/add", 2) == (200, 2, '"1"')
        assert await answered(node, "counter-jq-alone/k/add", 3) == (200, 5, '"2"')
        assert (await node.state("counter-jq-alone/k")).body == b'{"count":5}'
        assert (await answered(node, "ping-sed"))[1] == "pong"
        digest = await node.call("sha256sum", b"hello\n")
        assert digest.body == b"5891b5b522d5df086d0ff0b110fbd9d21bb4fc7163af34d08286a2e846f6be03  -\n"
        assert digest.fields["content-type"] == "text/plain"
        everything = bytes(range(256)) * 40
        assert (await node.call("echo-cat", everything)).body == everything
        assert (await answered(node, "wordcount-awk", b"a b  c\nd\n"))[1] == 4
        assert (await node.call("sort", b"b\nc\na\n")).body == b"a\nb\nc\n"
        assert (await node.call("grep-error", b"fine\nan Error\n")).body == b"an Error\n"
        assert (await node.call("grep-error", b"fine\n")).status == 404
        assert await answered(node, "total-awk/k", b"1\n2.5\n") == (200, 3.5, '"1"')
        assert await answered(node, "total-awk/k", b"1\n") == (200, 4.5, '"2"')
        assert (await node.state("total-awk/k")).body.strip() == b"4.5"
