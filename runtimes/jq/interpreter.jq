#!/usr/bin/env -S jq -nc --unbuffered -f
# The interpreter of the conformance kit, runtimes/conformance/interpreter.md: the message says what to do.
# `out` is the message-out so far, the state is in message-in as it is by then.
include "shim" {search: "./"};

def put($value): .state = $value | .out |= (.state = $value | del(.delete));

def obey($name; $value):
  if $name == "reply" then .out.response = $value
  elif $name == "reply_state" then .out.response = (. as $in | {} | if $in | has("state") then .state = $in.state else . end)
  elif $name == "reply_ctx" then .out.response = .ctx[$value]
  elif $name == "add" then ((if has("state") then .state else 0 end) + $value) as $sum | put($sum) | .out.response = $sum
  elif $name == "unwritable" then .out.response = nan
  elif $name == "put" then put($value)
  elif $name == "delete" then del(.state) | .out |= (.delete = true | del(.state))
  elif $name == "set" then (.state + $value) as $changed | if $changed == .state then . else put($changed) end
  elif $name == "effect" then .out.effects += [$value]
  elif $name == "fail" then
    refuse($value.code // "failed"; $value.message // ""; $value.status // 500; $value.details; $value.retry)
  elif $name == "throw" then error($value)
  elif $name == "print" or $name == "log" then . as $in | $value | debug | $in # jq's output is the answers alone
  elif $name == "sleep" then . as $in | (now + $value / 1000) as $over | 0 | until(now >= $over; 0) | $in
  elif $name == "exit" then "" | halt_error($value)
  else error("no command \($name)") end;

def interpret: reduce (.message[] | to_entries[]) as $command (.out = {}; obey($command.key; $command.value)) | .out;

serve({run: {default: true}, look: {reads_only: true}}; interpret)
