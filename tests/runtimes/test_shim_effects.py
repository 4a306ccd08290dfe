"""The shims' sugar for effects: the same in every language, and what they write is what the host reads."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hand_host import RUNTIMES, message_in, playing, turn_in

from inversion.config import Limits
from inversion.effects import Cancel, Effect, Forward, Http, Publish, Send, Subscribe, Unsubscribe
from inversion.json_text import OPERATIONS
from inversion.messages import Address
from inversion.protocol.effects import read_effects

PYTHON_CODE = """
from shim import Refused, handler, serve

@handler
def all(ctx, message):
    ctx.send("payment", "o1", "charge", {"cents": 900}, reply_to="charged")
    ctx.send(handler="remind", delay="24h", name="reminder")
    ctx.send("mail", None, "letter", message, at="2026-11-24T02:11:00Z")
    ctx.cancel("reminder")
    ctx.forward("ledger", "eu", "book", [None])
    ctx.publish("orders", message)
    ctx.subscribe("orders", "on_order")
    ctx.unsubscribe("orders")
    ctx.http("https://a.example/", {"a": 1}, headers={"x-a": "b"}, reply_to="notified")
    ctx.http("https://a.example/", method="GET")

@handler
def one(ctx, message):
    ctx.cancel(message)
    ctx.state = message

@handler
def fail(ctx, message):
    ctx.cancel("a")
    raise Refused("no", "no", 409)

@handler
def crash(ctx, message):
    ctx.cancel("a")
    raise ValueError

@handler(reads_only=True)
def peek(ctx, message):
    ctx.cancel("a")

@handler
def replied(ctx, message):
    return ctx.reply_to

serve()
"""

NODE_CODE = """
const { handler, serve, Refused } = require("./shim");

handler("all", (ctx, message) => {
  const bill = { cents: 900 };
  ctx.send({ function: "payment", key: "o1", handler: "charge", message: bill, replyTo: "charged" });
  ctx.send({ handler: "remind", delay: "24h", name: "reminder" });
  ctx.send({ function: "mail", key: null, handler: "letter", message, at: new Date("2026-11-24T02:11:00Z") });
  ctx.cancel("reminder");
  ctx.forward({ function: "ledger", key: "eu", handler: "book", message: [null] });
  ctx.publish("orders", message);
  ctx.subscribe("orders", "on_order");
  ctx.unsubscribe("orders");
  const url = "https://a.example/";
  ctx.http({ url, body: { a: 1 }, headers: { "x-a": "b" }, replyTo: "notified" });
  ctx.http({ url, method: "GET" });
});
handler("one", (ctx, message) => {
  ctx.cancel(message);
  ctx.state = message;
});
handler("fail", (ctx) => {
  ctx.cancel("a");
  throw new Refused("no", "no", { status: 409 });
});
handler("crash", async (ctx) => {
  ctx.cancel("a");
  throw new Error("no");
});
handler("peek", { readsOnly: true }, (ctx) => ctx.cancel("a"));
handler("replied", (ctx) => ctx.replyTo);
serve();
"""

BASH_CODE = """
. ./shim.sh
handler all '.message'
all() {
  effect send --function payment --key o1 --handler charge --message '{"cents":900}' --reply-to charged
  effect send --handler remind --delay 24h --name reminder
  effect send --function mail --stateless --handler letter --message "$1" --at 2026-11-24T02:11:00Z
  effect cancel --name reminder
  effect forward --function ledger --key eu --handler book --message '[null]'
  effect publish --topic orders --message "$1"
  effect subscribe --topic orders --handler on_order
  effect unsubscribe --topic orders
  effect http --url https://a.example/ --body '{"a":1}' --headers '{"x-a":"b"}' --reply-to notified
  effect http --url https://a.example/ --method GET
}
handler one '.message'
one() { effect cancel --name "$1"; put '"'"$1"'"'; }
handler fail
fail() { effect cancel --name a; refuse no no 409; }
handler crash
crash() { effect cancel --name a; return 1; }
handler peek --reads-only
peek() { effect cancel --name a; }
handler replied '.ctx.reply_to // empty | tojson'
replied() { answer "${1:-null}"; }
serve
"""

PERL_CODE = """
use v5.36;
use FindBin;
use lib $FindBin::Bin;
use shim;

handler all => sub ($ctx, $message) {
    my %charge = (function => 'payment', key => 'o1', handler => 'charge');
    $ctx->send(%charge, message => { cents => 900 }, reply_to => 'charged');
    $ctx->send(handler => 'remind', delay => '24h', name => 'reminder');
    my $at = '2026-11-24T02:11:00Z';
    $ctx->send(function => 'mail', key => undef, handler => 'letter', message => $message, at => $at);
    $ctx->cancel('reminder');
    $ctx->forward(function => 'ledger', key => 'eu', handler => 'book', message => [undef]);
    $ctx->publish('orders', $message);
    $ctx->subscribe('orders', 'on_order');
    $ctx->unsubscribe('orders');
    my $url = 'https://a.example/';
    $ctx->http($url, body => { a => 1 }, headers => { 'x-a' => 'b' }, reply_to => 'notified');
    $ctx->http($url, method => 'GET');
    return;
};
handler one => sub ($ctx, $message) {
    $ctx->cancel($message);
    $ctx->state($message);
};
handler fail => sub ($ctx, $message) {
    $ctx->cancel('a');
    refuse no => 'no', status => 409;
};
handler crash => sub ($ctx, $message) {
    $ctx->cancel('a');
    die;
};
handler peek => sub ($ctx, $message) { $ctx->cancel('a') }, reads_only => 1;
handler replied => sub ($ctx, $message) { $ctx->reply_to };
serve;
"""

RUBY_CODE = """
require_relative "shim"

handler :all do |ctx, message|
  ctx.send(function: "payment", key: "o1", handler: "charge", message: { cents: 900 }, reply_to: "charged")
  ctx.send(handler: "remind", delay: "24h", name: "reminder")
  at = Time.utc(2026, 11, 24, 2, 11)
  ctx.send(function: "mail", key: nil, handler: "letter", message: message, at: at)
  ctx.cancel("reminder")
  ctx.forward(function: "ledger", key: "eu", handler: "book", message: [nil])
  ctx.publish("orders", message)
  ctx.subscribe("orders", "on_order")
  ctx.unsubscribe("orders")
  url = "https://a.example/"
  ctx.http(url, body: { a: 1 }, headers: { "x-a": "b" }, reply_to: "notified")
  ctx.http(url, method: "GET")
end
handler :one do |ctx, message|
  ctx.cancel(message)
  ctx.state = message
end
handler :fail do |ctx, message|
  ctx.cancel("a")
  refuse "no", "no", status: 409
end
handler :crash do |ctx, message|
  ctx.cancel("a")
  raise
end
handler(:peek, reads_only: true) { |ctx, message| ctx.cancel("a") }
handler(:replied) { |ctx, message| ctx.reply_to }
serve
"""

PHP_CODE = """<?php
require __DIR__ . "/shim.php";
use Inversion\\{Context, Refused};
use function Inversion\\{handler, serve};

handler("all", function (Context $ctx, mixed $message) {
    $bill = ["cents" => 900];
    $ctx->send(function: "payment", key: "o1", handler: "charge", message: $bill, reply_to: "charged");
    $ctx->send(handler: "remind", delay: "24h", name: "reminder");
    $at = "2026-11-24T02:11:00Z";
    $ctx->send(function: "mail", key: null, handler: "letter", message: $message, at: $at);
    $ctx->cancel("reminder");
    $ctx->forward(function: "ledger", key: "eu", handler: "book", message: [null]);
    $ctx->publish("orders", $message);
    $ctx->subscribe("orders", "on_order");
    $ctx->unsubscribe("orders");
    $url = "https://a.example/";
    $ctx->http($url, body: ["a" => 1], headers: ["x-a" => "b"], reply_to: "notified");
    $ctx->http($url, method: "GET");
});
handler("one", function (Context $ctx, mixed $message) {
    $ctx->cancel($message);
    $ctx->state = $message;
});
handler("fail", function (Context $ctx) {
    $ctx->cancel("a");
    throw new Refused("no", "no", 409);
});
handler("crash", function (Context $ctx) {
    $ctx->cancel("a");
    intdiv(1, 0);
});
handler("peek", fn (Context $ctx) => $ctx->cancel("a"), readsOnly: true);
handler("replied", fn (Context $ctx) => $ctx->reply_to);
serve();
"""

LUA_CODE = """
package.path = (arg[0]:match("^.*/") or "./") .. "?.lua;" .. package.path
local shim = require "shim"
local handler, null = shim.handler, shim.json.null

handler("all", function(ctx, message)
  local bill = { cents = 900 }
  ctx:send { to = "payment", key = "o1", handler = "charge", message = bill, reply_to = "charged" }
  ctx:send { handler = "remind", delay = "24h", name = "reminder" }
  ctx:send { to = "mail", key = null, handler = "letter", message = message, at = "2026-11-24T02:11:00Z" }
  ctx:cancel "reminder"
  ctx:forward { to = "ledger", key = "eu", handler = "book", message = { null } }
  ctx:publish("orders", message)
  ctx:subscribe("orders", "on_order")
  ctx:unsubscribe "orders"
  local url = "https://a.example/"
  ctx:http(url, { body = { a = 1 }, headers = { ["x-a"] = "b" }, reply_to = "notified" })
  ctx:http(url, { method = "GET" })
end)
handler("one", function(ctx, message)
  ctx:cancel(message)
  ctx.state = message
end)
handler("fail", function(ctx)
  ctx:cancel "a"
  shim.refuse("no", "no", { status = 409 })
end)
handler("crash", function(ctx)
  ctx:cancel "a"
  error "no"
end)
handler("peek", { reads_only = true }, function(ctx) ctx:cancel "a" end)
handler("replied", function(ctx) return ctx.reply_to end)
shim.serve()
"""

JQ_CODE = """
include "shim" {search: "./"};

serve({all: {}, one: {}, fail: {}, crash: {}, peek: {reads_only: true}, replied: {}};
  .message as $message
  | if .ctx.handler == "all" then {effects: [
      {send: {function: "payment", key: "o1", handler: "charge", message: {cents: 900}, reply_to: "charged"}},
      {send: {handler: "remind", delay: "24h", name: "reminder"}},
      {send: {function: "mail", key: null, handler: "letter", $message, at: "2026-11-24T02:11:00Z"}},
      {cancel: {name: "reminder"}},
      {forward: {function: "ledger", key: "eu", handler: "book", message: [null]}},
      {publish: {topic: "orders", $message}},
      {subscribe: {topic: "orders", handler: "on_order"}},
      {unsubscribe: {topic: "orders"}},
      {http: {url: "https://a.example/", body: {a: 1}, headers: {"x-a": "b"}, reply_to: "notified"}},
      {http: {url: "https://a.example/", method: "GET"}}]}
    elif .ctx.handler == "one" then {state: $message, effects: [{cancel: {name: $message}}]}
    elif .ctx.handler == "fail" then {effects: [{cancel: {name: "a"}}]} | refuse("no"; "no"; 409)
    elif .ctx.handler == "crash" then {effects: [{cancel: {name: "a"}}]} | error("no")
    elif .ctx.handler == "peek" then {effects: [{cancel: {name: "a"}}]}
    else {response: .ctx.reply_to} end)
"""

AWK_CODE = r"""
BEGIN {
  handler("all", "all"); handler("one", "one"); handler("fail", "fail")
  handler("crash", "crash"); handler("peek", "peek", "reads_only"); handler("replied", "replied")
  serve()
}
function s(text) { return json_string(text) }
function all(    charge, at, url) {
  charge = json_object("function", s("payment"), "key", s("o1"), "handler", s("charge"), \
    "reply_to", s("charged"))
  effect("send", json_set(charge, "message", "{\"cents\": 900}"))
  effect("send", json_object("handler", s("remind"), "delay", s("24h"), "name", s("reminder")))
  at = s("2026-11-24T02:11:00Z")
  effect("send", json_set(json_object("function", s("mail"), "key", "null", \
    "handler", s("letter"), "at", at), "message", MESSAGE))
  effect("cancel", json_object("name", s("reminder")))
  effect("forward", json_object("function", s("ledger"), "key", s("eu"), "handler", s("book"), \
    "message", "[null]"))
  effect("publish", json_object("topic", s("orders"), "message", MESSAGE))
  effect("subscribe", json_object("topic", s("orders"), "handler", s("on_order")))
  effect("unsubscribe", json_object("topic", s("orders")))
  url = s("https://a.example/")
  effect("http", json_object("url", url, "body", "{\"a\": 1}", "headers", "{\"x-a\":\"b\"}", \
    "reply_to", s("notified")))
  effect("http", json_object("url", url, "method", s("GET")))
}
function cancel(name) { effect("cancel", json_object("name", name)) }
function one() { cancel(MESSAGE); put(MESSAGE) }
function fail() { cancel(s("a")); refuse("no", "no", 409) }
function crash() { cancel(s("a")); bug("no") }
function peek() { cancel(s("a")) }
function replied() { answer(ctx("reply_to") == "" ? "null" : s(ctx("reply_to"))) }
"""

LANGUAGES = {
    "python": (["python3", "function"], "python/shim.py", PYTHON_CODE),
    "node": (["node", "function"], "node/shim.js", NODE_CODE),
    "bash": (["bash", "function"], "bash/shim.sh", BASH_CODE),
    "perl": (["perl", "function"], "perl/shim.pm", PERL_CODE),
    "ruby": (["ruby", "function"], "ruby/shim.rb", RUBY_CODE),
    "php": (["php", "function"], "php/shim.php", PHP_CODE),
    "lua": (["lua", "function"], "lua/shim.lua", LUA_CODE),
    "awk": (["sh", "run.sh", "function"], "awk/shim.awk", AWK_CODE),
    "jq": (["jq", "-nc", "--unbuffered", "-f", "function"], "jq/shim.jq", JQ_CODE),
}


@pytest.fixture(
    params=[
        "python",
        pytest.param("node", marks=pytest.mark.toolchain("node")),
        pytest.param("bash", marks=pytest.mark.toolchain("bash", "jq")),
        pytest.param("perl", marks=pytest.mark.toolchain("perl")),
        pytest.param("ruby", marks=pytest.mark.toolchain("ruby")),
        pytest.param("php", marks=pytest.mark.toolchain("php")),
        pytest.param("lua", marks=pytest.mark.toolchain("lua")),
        pytest.param("jq", marks=pytest.mark.toolchain("jq")),
        pytest.param("awk", marks=pytest.mark.toolchain("gawk")),
    ]
)
def function(request: pytest.FixtureRequest, tmp_path: Path) -> Callable[[], Any]:
    command, shim, code = LANGUAGES[request.param]
    shutil.copytree((RUNTIMES / shim).parent, tmp_path, dirs_exist_ok=True)
    (tmp_path / "function").write_text(code)
    return lambda: playing(command, tmp_path)


def read(effects: object) -> tuple[Effect, ...]:
    return tuple(read_effects(json.dumps(effects).encode(), Address("order", "o1"), Limits()))


def test_the_readme_lists_every_operation_with_its_fields() -> None:
    page = (RUNTIMES / "README.md").read_text().partition("\n## effects")[2].partition("\n## ")[0]
    tables = [
        re.findall(r"^\| (`.*?) \| (.*?) \|", table, re.MULTILINE)
        for table in page.split("\n|---|---|---|\n")
    ]
    listed = {words(operation)[0]: set(words(fields)) for operation, fields in tables[1]}
    assert listed == {operation: set(fields) for operation, fields in OPERATIONS.items()}
    explained = {field for row in tables[2] for field in words(row[0])}
    assert explained == {field for fields in OPERATIONS.values() for field in fields}
    frame = json.loads(page.partition("```json\n")[2].partition("\n```")[0])
    assert len(read(frame["effects"])) == 2


def words(text: str) -> list[str]:
    return re.findall(r"`(\w+)`", text)


async def test_every_effect_has_its_word_and_the_host_takes_it(function: Callable[[], Any]) -> None:
    async with function() as runtime:
        await runtime.hello()
        answer = await runtime.ask("all", {"odd": 'ü "\\\n\t\u2028'})
        assert answer.get("response") is None
        assert "state" not in answer
        body = json.dumps({"odd": 'ü "\\\n\t\u2028'}).encode()
        effects = read(answer["effects"])
        assert tuple(json.loads(effects[at].message) for at in (2, 5)) == (json.loads(body),) * 2  # type: ignore[union-attr]
        letter, news = effects[2], effects[5]
        assert isinstance(letter, Send)
        assert isinstance(news, Publish)
        assert effects == (
            Send("payment", "o1", "charge", b'{"cents": 900}', reply_to="charged"),
            Send("order", "o1", "remind", b"null", delay_ms=86_400_000, name="reminder"),
            Send("mail", None, "letter", letter.message, at="2026-11-24T02:11:00.000000Z"),
            Cancel("reminder"),
            Forward("ledger", "eu", "book", b"[null]"),
            Publish("orders", news.message),
            Subscribe("orders", "on_order"),
            Unsubscribe("orders"),
            Http("POST", "https://a.example/", (("x-a", "b"),), b'{"a": 1}', "notified"),
            Http("GET", "https://a.example/"),
        )


async def test_an_answer_that_fails_drops_its_effects_and_the_next_one_has_its_own(
    function: Callable[[], Any],
) -> None:
    async with function() as runtime:
        await runtime.hello()
        for handler in ("fail", "crash", "peek"):
            answer = await runtime.ask(handler)
            assert "error" in answer
            assert "effects" not in answer
        answer = await runtime.ask("one", "b")
        assert answer["effects"] == [{"cancel": {"name": "b"}}]
        assert answer["state"] == "b"
        assert "effects" not in await runtime.ask("replied")


async def test_a_stateless_call_has_no_effects(function: Callable[[], Any]) -> None:
    async with function() as runtime:
        await runtime.hello()
        answer = await runtime.ask("one", "b", key=None)
        assert answer["error"]["code"] == "no_key"


async def test_each_answer_to_a_turn_has_its_own_effects(function: Callable[[], Any]) -> None:
    async with function() as runtime:
        if (await runtime.hello()).get("batch", 1) == 1:
            return  # bash takes one message at a time
        await runtime.send(turn_in("t.1", [("one", "a"), ("fail", None), ("all", 1), ("one", "b")]))
        answers = (await runtime.frame())["answers"]
        assert [len(answer.get("effects", ())) for answer in answers] == [1, 0, 10, 1]
        assert [answer.get("changed", True) for answer in answers] == [True, False, False, True]
        assert answers[3]["effects"] == [{"cancel": {"name": "b"}}]


async def test_a_reply_knows_what_it_replies_to(function: Callable[[], Any]) -> None:
    async with function() as runtime:
        await runtime.hello()
        assert (await runtime.ask("replied")).get("response") is None
        frame = message_in("a.1", "replied")
        frame["ctx"]["reply_to"] = "0192a.7"
        await runtime.send(frame)
        assert (await runtime.frame())["response"] == "0192a.7"
