"""The curl line of `dev`: it has to work when it is pasted."""

from __future__ import annotations

from pathlib import Path

from inversion.cli.banner import curl_line
from inversion.config import Config, Function, Mode
from inversion.messages import SILENT, Handler, Hello

URL = "http://127.0.0.1:8080"
COUNTER = Hello(handlers={"add": Handler("add"), "get": Handler("get", reads_only=True)})
READER = Hello(handlers={"put": Handler("put"), "show": Handler("show", reads_only=True)})


def config(**modes: Mode) -> Config:
    return Config(
        functions={
            name.replace("_", "-"): Function(name.replace("_", "-"), ("x",), Path(), mode=mode)
            for name, mode in modes.items()
        }
    )


def test_a_counter_is_the_best_thing_to_try() -> None:
    functions = config(cart=Mode.LINES, counter_node=Mode.LINES, counter_python=Mode.LINES, sum=Mode.EXEC)
    runs = {"cart": READER, "counter-node": COUNTER, "counter-python": COUNTER, "sum": None}
    assert curl_line(URL, functions, runs) == f"curl -d 1 {URL}/v1/call/counter-python/alice/add"
    del runs["counter-python"]
    assert curl_line(URL, functions, runs) == f"curl -d 1 {URL}/v1/call/counter-node/alice/add"


def test_then_a_handler_that_only_reads() -> None:
    assert (
        curl_line(URL, config(cart=Mode.LINES), {"cart": READER})
        == f"curl -d null {URL}/v1/call/cart/alice/show"
    )


def test_a_program_of_exec_gets_json_that_most_programs_take() -> None:
    line = curl_line(URL, config(sum=Mode.EXEC), {"sum": None})
    assert line == f'curl -d \'{{"hello":"world"}}\' {URL}/v1/call/sum/alice'


def test_a_cgi_program_is_asked_over_http() -> None:
    assert curl_line(URL, config(hello=Mode.CGI), {"hello": None}) == f"curl {URL}/v1/http/hello/"


def test_a_function_without_state_gets_no_key() -> None:
    functions = {"sum": Function("sum", ("x",), Path(), mode=Mode.EXEC, state=False)}
    line = curl_line(URL, Config(functions=functions), {"sum": None})
    assert line == f'curl -d \'{{"hello":"world"}}\' {URL}/v1/call/sum'


def test_a_silent_program_gets_the_default_handler() -> None:
    assert (
        curl_line(URL, config(quiet=Mode.LINES), {"quiet": SILENT})
        == f"curl -d null {URL}/v1/call/quiet/alice"
    )


def test_where_nothing_runs_there_is_nothing_to_try() -> None:
    assert curl_line(URL, config(cart=Mode.LINES), {}) is None
