#!/usr/bin/env -S jq -nc --unbuffered -f
# A counter: the smallest function with a state. `inversion dev runtimes/jq/counter.jq`
include "shim" {search: "./"};

def add:
  (if .message == null then 1 else .message end) as $amount
  | if ($amount | whole_number | not) then refuse("bad_amount"; "add takes a whole number"; 422) else . end
  | ((.state.count // 0) + $amount) as $count
  | {response: $count, state: {count: $count}};

serve({add: {default: true}, get: {reads_only: true}, reset: {}};
  if .ctx.handler == "add" then add
  elif .ctx.handler == "get" then {response: (.state.count // 0)}
  else {response: 0, delete: true} end)
