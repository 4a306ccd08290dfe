# inversion for jq 1.6+, in one file: copy it beside your function, which is a jq program of its own.
#
#     #!/usr/bin/env -S jq -nc --unbuffered -f
#     include "shim" {search: "./"};
#
#     def add:
#       (.state // 0) as $count
#       | if (.message | whole_number) then ($count + .message) | {response: ., state: .}
#         else refuse("bad_amount"; "add takes a whole number"; 422) end;
#
#     serve({add: {default: true}, get: {reads_only: true}};
#       if .ctx.handler == "add" then add else {response: (.state // 0)} end)
#
# serve(HANDLERS; FILTER): the filter gets message-in, {ctx, message, state}, without state where there is none, and
# gives message-out: {response, state or delete: true, effects: [...]}, each only if there is one. A handler that is
# declared `default` is the one of callers that name none, `reads_only` is a promise and is held to it, `input` and
# `output` are JSON Schemas. serve(HANDLERS; CRON; FILTER) declares schedules, [{name, schedule}].
# refuse(CODE; TEXT; STATUS) and refuse(CODE; TEXT; STATUS; DETAILS): the answer is an error, the state stays. Any
# other error is a 500 whose text is in the log only. `debug` writes to the log.

def refuse($code; $text; $status; $details; $retry):
  error({refused: ({code: $code, message: $text, status: $status}
    + if $details == null then {} else {details: $details} end + if $retry then {retry: true} else {} end)});
def refuse($code; $text; $status; $details): refuse($code; $text; $status; $details; false);
def refuse($code; $text; $status): refuse($code; $text; $status; null; false);

def whole_number: type == "number" and . == floor;

# A message-out as it may be, from what a filter gave for the message-in $asked.
def _checked($asked; $reads_only):
  if type != "object" then error("a handler gives an object, {response, state, ...}") else . end
  | (has("state") or .delete == true) as $changed
  | if ($changed or (.effects // []) != []) | not then .
    elif $reads_only then error("declared reads_only: it cannot change the state or have effects")
    elif $asked.ctx.key == null then
      refuse("no_key"; "call it with a key: without one there is no state to change, and no effect"; 400)
    else . end
  | if any(..; type == "number" and (isnan or isinfinite)) then error({not_json: "a number is NaN or infinite"})
    else . end
  | {response: (.response // if .response == false then false else null end)}
    + if (.effects // []) != [] then {effects} else {} end
    + if has("state") then {state} elif .delete == true and ($asked | has("state")) then {delete: true} else {} end;

def _one($handlers; $default; filter):
  (.ctx.handler // "call") as $called
  | (if $called == "call" and $default != null then $default else $called end) as $name
  | . as $asked
  | try (
      if $handlers | has($name) then . else
        refuse("no_handler"; "no handler \($name), there are: \($handlers | keys_unsorted | join(", "))"; 404) end
      | .ctx.handler = $name
      | [filter] | if length == 1 then .[0] else error("a handler gives one answer, not \(length)") end
      | _checked($asked; $handlers[$name].reads_only == true))
    catch if type == "object" and has("refused") then {error: .refused}
      else (if type == "object" then .not_json else null end) as $shown
        | debug | {error: {code: "function_error", message: "\($shown // "error") in handler \($name)"}} end;

def _turn($handlers; $default; filter):
  .ctx as $ctx
  | {id} + (
      reduce .messages[] as $each ({answers: [], now: (if has("state") then {state} else {} end)};
        ({ctx: ($ctx + ($each | del(.message))), message: $each.message} + .now
          | _one($handlers; $default; filter)) as $out
        | ($out | with_entries(select(.key == "state" or .key == "delete"))) as $change
        | (if $change == {} then {changed: false} else {} end) as $kept
        | .answers += [{id: $each.id} + ($out | del(.state, .delete)) + $kept]
        | if $change == {} then . else .last = $change | .now = ($change | del(.delete)) end)
      | {answers} + (.last // {}));

# The lines that came whole. jq reads JSON and not lines, but it counts newlines: a last line without one is torn.
def _frames:
  foreach (try inputs catch if tostring | test("at EOF") then empty else error end) as $frame
    (0; . + 1; if input_line_number >= . then $frame else empty end);

def serve($handlers; $cron; filter):
  ([$handlers | to_entries[] | select(.value.default == true).key][0]) as $default
  | ($handlers | map_values(del(.default) | .reads_only = (.reads_only == true))) as $declared
  | {hello: ({protocol: 1, runtime: "jq", pipeline: 64, batch: 64, integers: 53,
      handlers: ($declared + if $default == null then {} else {call: $declared[$default]} end)}
      + if ($cron // []) == [] then {} else {cron: $cron} end)},
    (_frames
      | if has("messages") then _turn($declared; $default; filter)
        else {id} + (del(.id) | _one($declared; $default; filter)) end);
def serve($handlers; filter): serve($handlers; null; filter);
