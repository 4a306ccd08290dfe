#!/usr/bin/env bash
# The interpreter of the conformance kit (runtimes/conformance/interpreter.md): a message says what to do. jq makes a
# plan of it, from the message and the state alone; bash carries it out.
. "$(dirname "$0")/shim.sh"

plan='
def plan: . as $in
  | reduce (.message | arrays, (scalars, objects | error("the message is no list")) | .[]) as $command
    ({end: "answer", change: "", has: has("state"), state: .state, response: null, effects: [], aside: []};
      if .end != "answer" then . else
        ($command | keys[0]) as $name | $command[$name] as $value
        | if $name == "put" then .state = $value | .has = true | .change = "put"
          elif $name == "delete" then .state = null | .has = false | .change = "delete"
          elif $name == "set" then
            (.state + $value) as $new | if $new == .state then . else .state = $new | .change = "put" end
          elif $name == "add" then
            .state = (if .has then .state else 0 end) + $value | .has = true | .change = "put" | .response = .state
          elif $name == "reply" then .response = $value
          elif $name == "reply_state" then .response = if .has then {state} else {} end
          elif $name == "reply_ctx" then .response = $in.ctx[$value]
          elif $name == "effect" then .effects += [$value]
          elif $name == "fail" then .end = "fail" | .error = $value
          elif $name == "throw" or $name == "unwritable" then .end = $name | .text = $value
          elif $name == "exit" then .end = "exit" | .text = $value
          elif $name == "print" or $name == "log" or $name == "sleep" then .aside += [[$name, $value]]
          else error("no command \($name)") end
      end);
def words: map(map(tostring) | join("\u001f")) | join("\u001e");
def asked: to_entries[0] | [.key, (.value | to_entries[]
  | if .key == "key" and .value == null then "--stateless"
    elif .key | IN("message", "body", "headers") then "--\(.key)", (.value | tojson)
    else "--\(.key | gsub("_"; "-"))", .value end)];
plan | '

interpret() {
  local end=$1 change=$2 response=$3 state=$4 effects=$5 aside=$6 code=$7 text=$8 status=$9 details=${10} retry=${11}
  local each words
  while IFS= read -rd $'\x1e' each; do
    IFS=$'\x1f' read -rd '' -a words < <(printf '%s\x1f\0' "$each")
    case ${words[0]} in
      print) printf '%s\n' "${words[1]}" ;;
      log) printf '%s\n' "${words[1]}" >&2 ;;
      sleep) sleep "$(printf '%d.%03d' $((words[1] / 1000)) $((words[1] % 1000)))" ;;
    esac
  done < <(printf '%s' "${aside:+$aside$'\x1e'}")
  while IFS= read -rd $'\x1e' each; do
    IFS=$'\x1f' read -rd '' -a words < <(printf '%s\x1f\0' "$each")
    effect "${words[@]}"
  done < <(printf '%s' "${effects:+$effects$'\x1e'}")
  case $change in
    put) put "$state" ;;
    delete) delete ;;
  esac
  answer "$response"
  case $end in
    fail) refuse "$code" "$text" "$status" "$details" $retry ;;
    throw | unwritable) echo "$text" >&2; return 1 ;; # text that is no JSON is not what a bash function says
    exit) exit "$text" ;;
  esac
}
run() { interpret "$@"; }
look() { interpret "$@"; }

takes=()
for part in .end .change '.response | tojson' '.state | tojson' '.effects | map(asked) | words' '.aside | words' \
  '.error.code // "failed"' '(.error.message // .text // "") | tostring' '.error.status // 500' \
  '.error.details | tojson' 'if .error.retry then "retry" else "" end'; do
  takes+=("$plan$part")
done
handler run --default "${takes[@]}"
handler look --reads-only "${takes[@]}"

serve
