"""The counter and the cart behave the same in every language: one table, run against each of them.

The state is carried from row to row as the host would carry it.
"""

from __future__ import annotations

import tomllib
from collections.abc import Sequence
from typing import Any

import pytest
from hand_host import ABSENT, RUNTIMES, HandHost, playing, turn_in

from fix_builds import BUILD_S, BUILDS, built

with (RUNTIMES / "inversion.toml").open("rb") as opened:
    FUNCTIONS = tomllib.load(opened)["functions"]

PYTHON = pytest.param("python", id="python")
NODE = pytest.param("node", id="node", marks=pytest.mark.toolchain("node"))
BASH = pytest.param("bash", id="bash", marks=pytest.mark.toolchain("bash", "jq"))
PERL = pytest.param("perl", id="perl", marks=pytest.mark.toolchain("perl"))
RUBY = pytest.param("ruby", id="ruby", marks=pytest.mark.toolchain("ruby"))
PHP = pytest.param("php", id="php", marks=pytest.mark.toolchain("php"))
LUA = pytest.param("lua", id="lua", marks=pytest.mark.toolchain("lua"))
JQ = pytest.param("jq", id="jq", marks=pytest.mark.toolchain("jq"))
AWK = pytest.param("awk", id="awk", marks=pytest.mark.toolchain("gawk"))
JQ_ALONE = pytest.param("jq-alone", id="jq-alone", marks=pytest.mark.toolchain("jq"))


def compiled(language: str, *toolchain: str) -> Any:
    marks = (pytest.mark.toolchain(*toolchain), pytest.mark.timeout(BUILD_S))
    return pytest.param(language, id=language, marks=marks)


TOOLCHAINS = [
    pytest.param("elixir", id="elixir", marks=pytest.mark.toolchain("elixir")),
    compiled("go", "go"),
    compiled("rust", "cargo"),
    compiled("java", "javac"),
    compiled("c", "cc"),
    compiled("cpp", "g++"),
]

# handler, message, response or (code, status) of the error, the state after it
COUNTER: list[tuple[str, object, object, object]] = [
    ("get", None, 0, ABSENT),
    ("reset", None, 0, ABSENT),
    ("add", None, 1, {"count": 1}),
    ("add", 41, 42, {"count": 42}),
    ("add", -2, 40, {"count": 40}),
    ("get", None, 40, {"count": 40}),
    ("add", "1", ("bad_amount", 422), {"count": 40}),
    ("add", 1.5, ("bad_amount", 422), {"count": 40}),
    ("add", True, ("bad_amount", 422), {"count": 40}),
    ("add", "a[$(touch pwned)]", ("bad_amount", 422), {"count": 40}),
    ("add", {"count": [1]}, ("bad_amount", 422), {"count": 40}),
    ("add", 0, 40, {"count": 40}),
    ("reset", None, 0, ABSENT),
    ("add", 5, 5, {"count": 5}),
]
ODD_SKU = 'ü "quoted"\\ \n\t\u2028 \U0001f600'
CART: list[tuple[str, object, object, object]] = [
    ("show", None, {"items": []}, ABSENT),
    ("checkout", None, ("cart_empty", 409), ABSENT),
    ("remove", {"sku": "a1"}, ("not_in_cart", 404), ABSENT),
    ("add", {"sku": "a1"}, {"items": 1}, {"items": [{"sku": "a1", "qty": 1}]}),
    (
        "add",
        {"sku": "b2", "qty": 3},
        {"items": 2},
        {"items": [{"sku": "a1", "qty": 1}, {"sku": "b2", "qty": 3}]},
    ),
    (
        "add",
        {"sku": "a1", "qty": 99},
        {"items": 2},
        {"items": [{"sku": "a1", "qty": 100}, {"sku": "b2", "qty": 3}]},
    ),
    (
        "add",
        {"sku": "a1", "qty": 1},
        ("out_of_stock", 409),
        {"items": [{"sku": "a1", "qty": 100}, {"sku": "b2", "qty": 3}]},
    ),
    ("remove", {"sku": "a1"}, {"items": 1}, {"items": [{"sku": "b2", "qty": 3}]}),
    ("add", {"sku": "b2", "qty": 0}, ("bad_quantity", 422), {"items": [{"sku": "b2", "qty": 3}]}),
    ("add", {"sku": "b2", "qty": 0.5}, ("bad_quantity", 422), {"items": [{"sku": "b2", "qty": 3}]}),
    ("add", {"sku": "b2", "qty": "1"}, ("bad_quantity", 422), {"items": [{"sku": "b2", "qty": 3}]}),
    (
        "add",
        {"sku": "b2", "qty": "a[$(touch pwned)]"},
        ("bad_quantity", 422),
        {"items": [{"sku": "b2", "qty": 3}]},
    ),
    ("add", {"sku": "", "qty": 1}, ("bad_sku", 422), {"items": [{"sku": "b2", "qty": 3}]}),
    ("add", {"qty": 1}, ("bad_sku", 422), {"items": [{"sku": "b2", "qty": 3}]}),
    ("add", {"sku": 7}, ("bad_sku", 422), {"items": [{"sku": "b2", "qty": 3}]}),
    ("add", "b2", ("bad_sku", 422), {"items": [{"sku": "b2", "qty": 3}]}),
    ("add", None, ("bad_sku", 422), {"items": [{"sku": "b2", "qty": 3}]}),
    ("remove", ["b2"], ("bad_sku", 422), {"items": [{"sku": "b2", "qty": 3}]}),
    ("show", None, {"items": [{"sku": "b2", "qty": 3}]}, {"items": [{"sku": "b2", "qty": 3}]}),
    ("checkout", None, {"ordered": [{"sku": "b2", "qty": 3}]}, ABSENT),
    ("show", None, {"items": []}, ABSENT),
    ("add", {"sku": ODD_SKU, "qty": 2}, {"items": 1}, {"items": [{"sku": ODD_SKU, "qty": 2}]}),
    ("remove", {"sku": ODD_SKU}, {"items": 0}, {"items": []}),
    ("checkout", None, ("cart_empty", 409), {"items": []}),
]


@pytest.mark.parametrize(
    "language", [PYTHON, NODE, BASH, PERL, RUBY, PHP, LUA, AWK, JQ, JQ_ALONE, *TOOLCHAINS]
)
async def test_the_counter_is_the_same_in_every_language(language: str) -> None:
    async with playing(command(language, "counter")) as runtime:
        if language != "jq-alone":
            hello = await runtime.hello()
            assert hello["handlers"]["get"] == {"reads_only": True}
            assert hello["handlers"]["call"] == hello["handlers"]["add"] == {"reads_only": False}
        await walk(runtime, COUNTER)
        assert await runtime.leave() == 0


@pytest.mark.parametrize("language", [PYTHON, NODE, BASH, PERL, RUBY, PHP, LUA, AWK, JQ, *TOOLCHAINS])
async def test_the_cart_is_the_same_in_every_language(language: str) -> None:
    async with playing(command(language, "cart")) as runtime:
        hello = await runtime.hello()
        assert hello["handlers"] == {
            "add": {"reads_only": False},
            "remove": {"reads_only": False},
            "show": {"reads_only": True},
            "call": {"reads_only": True},
            "checkout": {"reads_only": False},
        }
        await walk(runtime, CART)
        assert await runtime.leave() == 0


@pytest.mark.parametrize("language", [PYTHON, NODE, BASH, PERL, RUBY, PHP, LUA, AWK, JQ, *TOOLCHAINS])
async def test_out_of_stock_says_what_is_left(language: str) -> None:
    async with playing(command(language, "cart")) as runtime:
        await runtime.hello()
        answer = await runtime.ask("add", {"sku": 'a"1', "qty": 1}, {"items": [{"sku": 'a"1', "qty": 100}]})
        assert answer["error"] == {
            "code": "out_of_stock",
            "message": 'not enough a"1 left',
            "status": 409,
            "details": {"sku": 'a"1', "left": 0},
        }


@pytest.mark.parametrize("language", [PYTHON, NODE, PERL, RUBY, PHP, LUA, AWK, JQ, *TOOLCHAINS])
async def test_a_hot_counter_takes_a_turn_of_several_messages(language: str) -> None:
    async with playing(command(language, "counter")) as runtime:
        assert (await runtime.hello())["batch"] == 64
        await runtime.send(
            turn_in("t1.1", [("add", 1), ("add", "x"), ("get", None), ("call", 2)], {"count": 3})
        )
        frame = await runtime.frame()
        answers = frame["answers"]
        assert [answer["id"] for answer in answers] == ["t1.1-0", "t1.1-1", "t1.1-2", "t1.1-3"]
        assert [answer.get("response") for answer in answers] == [4, None, 4, 6]
        assert [answer.get("changed", True) for answer in answers] == [True, False, False, True]
        assert answers[1]["error"]["code"] == "bad_amount"
        assert frame["state"] == {"count": 6}


def command(language: str, program: str) -> Sequence[str]:
    if language in BUILDS:
        return built(language, program)
    written: Sequence[str] = FUNCTIONS[f"{program}-{language}"]["command"]
    return written


async def walk(runtime: HandHost, table: list[tuple[str, object, object, object]]) -> None:
    state: object = ABSENT
    for number, (handler, message, wanted, state_after) in enumerate(table):
        answer = await runtime.ask(handler, message, state)
        where = f"row {number}: {handler} {message!r} on {state!r} answered {answer!r}"
        if isinstance(wanted, tuple):
            error: dict[str, Any] = answer["error"]
            assert (error["code"], error["status"]) == wanted, where
            assert error["message"], where
            assert "state" not in answer, where
            assert "delete" not in answer, where
        else:
            assert answer["response"] == wanted, where
        if answer.get("delete"):
            assert "state" not in answer, where
            state = ABSENT
        elif "state" in answer:
            state = answer["state"]
        assert state == state_after, where
    assert not (RUNTIMES / "pwned").exists()
