"""What a function declares and asks for, in the languages whose interpreter does not show it: schemas and
schedules in the hello, effects in the words of the shim.
"""

from __future__ import annotations

import json
import shlex
import shutil
from pathlib import Path

import pytest
from hand_host import RUNTIMES, playing

from fix_builds import BUILD_S, BUILDS, built

CRON = {"name": "nightly", "schedule": "0 4 * * *"}
SEND = {"handler": "remind", "delay": "24h", "message": {"at": [1, None]}}
ADD = {"input": {"type": "integer"}, "output": {}, "reads_only": False}

# language -> file and function: `add` sends, and is declared with ADD and CRON
FUNCTIONS = {
    "go": (
        "declaring.go",
        """package main

import "encoding/json"

func main() {
	Handle("add", func(ctx *Context, _ json.RawMessage) (any, error) {
		at := Fields{"at": []any{1, nil}}
		ctx.Effect("send", Fields{"handler": "remind", "delay": "24h", "message": at})
		return ctx.Now.Year(), nil
	}, Options{Input: json.RawMessage(`{"type": "integer"}`), Output: json.RawMessage("{}")})
	Serve(Fields{"name": "nightly", "schedule": "0 4 * * *"})
}
""",
    ),
    "rust": (
        "declaring.rs",
        """mod shim;
use shim::{json, Answer, Context, Service, Value};

fn add(ctx: &mut Context, _: Value) -> Answer {
    ctx.effect("send", json!({ "handler": "remind", "delay": "24h", "message": { "at": [1, null] } }));
    Ok(ctx.call["now"].as_str().unwrap_or("")[..4].parse::<i64>()?.into())
}

fn main() {
    Service::new()
        .handler("add", add)
        .schemas(json!({ "type": "integer" }), json!({}))
        .cron(json!({ "name": "nightly", "schedule": "0 4 * * *" }))
        .serve()
}
""",
    ),
    "c": (
        "declaring.c",
        r"""#include "shim.h"

static json_object *add(struct shim *ctx, json_object *message) {
  (void)message;
  shim_effect(ctx, "send",
              json_tokener_parse("{\"handler\":\"remind\",\"delay\":\"24h\",\"message\":{\"at\":[1,null]}}"));
  return json_object_new_int(atoi(json_object_get_string(shim_field(ctx, "now"))));
}

int main(void) {
  shim_handler("add", add, 0);
  shim_schema("add", "input", "{\"type\":\"integer\"}");
  shim_schema("add", "output", "{}");
  shim_cron("{\"name\":\"nightly\",\"schedule\":\"0 4 * * *\"}");
  return shim_serve();
}
""",
    ),
    "cpp": (
        "declaring.cpp",
        """#include "shim.hpp"
using shim::json;

static json add(shim::Context& ctx, const json&) {
  ctx.effect("send", {{"handler", "remind"}, {"delay", "24h"}, {"message", {{"at", {1, nullptr}}}}});
  return std::stoi(ctx.call["now"].get<std::string>());
}

int main() {
  return shim::Service()
      .handler("add", add, shim::None, {{"type", "integer"}}, json::object())
      .cron({{"name", "nightly"}, {"schedule", "0 4 * * *"}})
      .serve();
}
""",
    ),
    "java": (
        "declaring.java",
        """import java.util.Arrays;
import java.util.Map;

class Declaring {
    public static void main(String[] args) {
        new Shim()
            .handler("add", (ctx, message) -> {
                Object at = Map.of("at", Arrays.asList(1, null));
                ctx.effect("send", Map.of("handler", "remind", "delay", "24h", "message", at));
                return ctx.now().atOffset(java.time.ZoneOffset.UTC).getYear();
            })
            .schemas("add", "{\\"type\\":\\"integer\\"}", "{}")
            .cron(Map.of("name", "nightly", "schedule", "0 4 * * *"))
            .serve();
    }
}
""",
    ),
    "elixir": (
        "declaring.exs",
        """Code.require_file("shim.ex", __DIR__)

add = fn _message, ctx, _state ->
  {:reply, ctx.now |> String.slice(0, 4) |> String.to_integer(), :keep,
   send: %{handler: "remind", delay: "24h", message: %{at: [1, nil]}}}
end

Shim.serve([add: {add, input: %{type: "integer"}, output: %{}}],
  cron: [%{name: "nightly", schedule: "0 4 * * *"}]
)
""",
    ),
}


def languages() -> list[object]:
    programs = {name: shlex.split(build.line)[0] for name, build in BUILDS.items()} | {"elixir": "elixir"}
    timeout = pytest.mark.timeout(BUILD_S)
    return [
        pytest.param(name, marks=[pytest.mark.toolchain(program), timeout])
        for name, program in programs.items()
    ]


@pytest.mark.parametrize("language", languages())
async def test_schemas_schedules_and_effects_go_out_as_they_were_said(language: str, tmp_path: Path) -> None:
    file, code = FUNCTIONS[language]
    for shim in (RUNTIMES / language).glob("*.*"):
        if shim.stem in ("shim", "json", "Cargo"):
            shutil.copy(shim, tmp_path)
    (tmp_path / file).write_text(code)
    if language == "rust":
        manifest = (tmp_path / "Cargo.toml").read_text().partition("[[bin]]")[0]
        program = '[[bin]]\nname = "declaring"\npath = "declaring.rs"\n\n[profile.release]\nopt-level = 1\n'
        (tmp_path / "Cargo.toml").write_text(manifest + program)
    command = ("elixir", "--erl", "-noinput", file)
    if language in BUILDS:
        command = built(language, "declaring", tmp_path)
    async with playing(command, tmp_path) as runtime:
        hello = await runtime.hello()
        assert hello["handlers"] == {"add": ADD}
        assert hello["cron"] == [CRON]
        answer = await runtime.ask("add")
        assert json.dumps(answer["effects"], sort_keys=True) == json.dumps([{"send": SEND}], sort_keys=True)
        assert answer["response"] == 2026
        assert await runtime.leave() == 0
