# inversion for bash, in one file: copy it beside your function and source it first. Needs bash 4.4+ and jq 1.6+.
#
#     . "$(dirname "$0")/shim.sh"
#
#     handler add --default '.message | numbers' '.state.count // 0'  # jq over message-in: its $1, $2, ...
#     add() {
#       whole_number "$1" || { refuse bad_amount "add takes a whole number" 422; return; }
#       put "{\"count\":$(($1 + $2))}"
#       answer "$(($1 + $2))"
#     }
#
#     serve                        # with schedules: serve '[{"name":"nightly","schedule":"0 4 * * *"}]'
#
# handler NAME [--default] [--reads-only] [--input SCHEMA] [--output SCHEMA] [JQ...]   declare a handler: a shell
#     function of that name
# answer JSON                      the response; null without it
# put JSON / delete                the new state / no state any more; neither: it stays as it was
# refuse CODE TEXT [STATUS [JSON [retry]]]   the answer is an error (400-499), the state stays; then `return`
# whole_number TEXT                is it one? Ask before $((...)): bash runs what it finds in there
# effect OPERATION [--FIELD TEXT]...  done when, and only if, the answer is stored: send, cancel, forward, publish,
#     subscribe, unsubscribe, http. --message, --body and --headers take JSON; --stateless is a key of null:
#     effect send --handler remind --message '{"n":1}' --delay 24h --name reminder
#
# A handler that returns non-zero is an error too, and stores nothing. What it says in a subshell (a pipe, $(...))
# is lost with it. A string arrives bare, anything else as JSON on one line, nothing (jq's `empty`) as "". So "1"
# and 1 look the same: filter by type, as above. What a handler prints goes to the log. It runs between two jqs that
# live as long as it does, so that a message starts no process: jq takes frames apart | serve | jq checks and writes
# the answers.

exec 3>&1 1>&2 # the protocol moves to descriptor 3 before anything can print
command -v jq > /dev/null || { echo "shim: jq is not on the PATH: install it, this shim reads JSON with it"; exit 127; }

declare -A inversion_wants=() inversion_reads_only=()
inversion_cases= inversion_declared=

handler() {
  local name=$1 wants= default= reads_only=false schemas= count=0
  shift
  case $name in
    handler | answer | put | delete | refuse | effect | whole_number | serve) echo "shim: $name is taken" >&2; exit 2 ;;
  esac
  while [ $# -gt 0 ]; do
    case $1 in
      --default) default=call ;;
      --reads-only) reads_only=true ;;
      --input | --output) schemas+=",\"${1#--}\":$2"; shift ;;
      *) wants+="${wants:+, }([$1] | if . == [] then \"\" else .[0] end)" count=$((count + 1)) ;;
    esac
    shift
  done
  inversion_wants[$name]=$count inversion_reads_only[$name]=$reads_only
  inversion_cases+="elif \$name == \"$name\"${default:+ or \$name == \"call\"} then [\"$name\"] + [$wants] "
  for name in "$name" $default; do
    inversion_declared+="${inversion_declared:+,}\"$name\":{\"reads_only\":$reads_only$schemas}"
  done
}

answer() { inversion_response=$1; }
put() { inversion_change=state inversion_state=$1; }
delete() { inversion_change=delete; }
refuse() { inversion_code=$1 inversion_text=$2 inversion_status=${3:-400} inversion_details=${4:-null} inversion_retry=${5-}; }
effect() {
  local operation=$1 kind field
  inversion_effects+=(effect "$operation" "")
  shift
  while (($#)); do
    kind=text
    case $1 in
      --stateless) inversion_effects+=(json key null); shift; continue ;;
      --message | --body | --headers) kind=json ;;
    esac
    if [[ $1 != --?* || $# == 1 || ($kind == text && $2 == *[$'\t\n']*) ]]; then
      refuse function_error "effect $operation takes --FIELD and its value on one line, not: $1" 500
      return 1
    fi
    field=${1:2}
    inversion_effects+=("$kind" "${field//-/_}" "$2")
    shift 2
  done
}
whole_number() { [[ $1 =~ ^-?(0|[1-9][0-9]{0,17})$ ]]; }

serve() {
  local id exists name argument arguments status count reader writer
  exec 4< <(exec 3>&-; inversion_take_apart)
  reader=$!
  exec 5> >(inversion_put_together >&3 3>&- 4<&-)
  writer=$!
  exec 0</dev/null 3>&-
  printf '{"hello":{"protocol":1,"runtime":"bash/%s","pipeline":16,"integers":53,"handlers":{%s}%s}}\n' \
    "${BASH_VERSINFO[0]}.${BASH_VERSINFO[1]}" "$inversion_declared" "${1:+,\"cron\":$1}" >&5
  while IFS= read -ru 4 id && read -ru 4 exists && IFS= read -ru 4 name; do
    arguments=()
    for ((count = ${inversion_wants[${name:-!}]:-1}; count > 0; count--)); do
      IFS= read -ru 4 argument
      case $argument in
        +*) argument=$(base64 -d <<<"${argument:1}" && echo .) argument=${argument%.} ;;
        *) printf -v argument %b "${argument:1}" ;;
      esac
      arguments+=("$argument")
    done
    inversion_response=null inversion_change= inversion_state= inversion_code= inversion_effects=()
    case $name in
      "") refuse no_handler "${arguments[0]}" 404 ;;
      "!") # the text may hold some of the state: it is for the log
        echo "shim: jq could not take the message apart: ${arguments[0]}"
        refuse function_error "jq could not take the message apart" 500
        ;;
      *)
        "$name" "${arguments[@]}" 4<&- 5>&-
        status=$?
        [[ $status == 0 || $inversion_code ]] || refuse function_error "handler $name returned $status" 500
        ;;
    esac
    if [[ $inversion_change || ${inversion_effects[*]+some} ]]; then
      case ${inversion_reads_only[${name:-!}]-}:$exists:$inversion_change in
        true:*) refuse function_error "handler $name is declared reads-only: it changes no state and has no effects" 500 ;;
        *:stateless:*) refuse no_key "call it with a key: without one there is no state to change, and no effect" 400 ;;
        *:false:delete) inversion_change= ;;
      esac
    fi
    if [[ $inversion_code ]]; then
      inversion_line "$id" error "$inversion_code" "$inversion_text" "$inversion_status" "$inversion_details" "$inversion_retry"
    else
      inversion_line "$id" answer "$inversion_response" "$inversion_change" "$inversion_state" "${inversion_effects[@]}"
    fi
  done
  exec 5>&-
  wait "$reader" || exit # jq has said why on stderr: one of the jq texts above, most likely
  wait "$writer" # the last answers are on their way
}

# One line for each field, so that `read` needs no quoting: "=" and the text, its backslashes and newlines escaped
# for printf %b, or "+" and base64. NUL is left out: a shell's strings end there.
inversion_take_apart() {
  exec jq --unbuffered -nr '
  # jq reads JSON and not lines, but it counts newlines: a last line without one is torn, the host died while it wrote.
  foreach (try inputs catch if tostring | test("at EOF") then empty else error end) as $frame
    (0; . + 1; if input_line_number >= . then $frame else empty end)
  | def field: (if type == "string" then . else tojson end) | split("\u0000") | join("")
    | if test("[\\\\\n]") | not then "=" + .
      elif length > 400 then "+" + @base64
      else "=" + (split("\\") | join("\\\\") | split("\n") | join("\\n")) end;
  (.ctx.handler // "call") as $name | .id as $id
  | (if .ctx.key == null then "stateless" else has("state") end) as $exists
  | (try (if false then . '"$inversion_cases"' else ["", "no handler \($name)"] end) catch ["!", tostring])
  | ($id | tojson), $exists, .[0], (.[1:][] | field)'
}

# One line for each answer, its fields between tabs. In JSON a newline or tab stands only where a space does as well.
inversion_line() {
  local IFS=$'\t' field fields=()
  for field; do
    if ((${#field} > 400)) && [[ $field == *[![:ascii:]]* || $field == *[$'\t\n']* ]]; then
      # jq 1.6 spoils a character across the 4096th byte of a raw line, bash is slow at replacing in a long text.
      fields+=("+$(printf %s "$field" | base64 | tr -d '\n')")
    else
      fields+=("=${field//[$'\t\n']/ }")
    fi
  done
  printf '%s\n' "${fields[*]}" >&5
}

inversion_put_together() {
  exec jq --unbuffered -rR '
  def field: if startswith("+") then .[1:] | @base64d | split("\n") | join(" ") else .[1:] end;
  def checked: . as $text | fromjson
    | if ($text | test("nan"; "i")) and any(..; type == "number" and isnan) then error("NaN") else $text end;
  def error($code; $text; $status; $details; $retry):
    "\"error\":{\"code\":\($code | tojson),\"message\":\($text | tojson),\"status\":\($status)"
    + (if $details == "null" then "" else ",\"details\":\($details | checked)" end)
    + (if $retry == "retry" then ",\"retry\":true" else "" end) + "}";
  def effects:
    reduce (range(5; length; 3) as $at | .[$at:$at + 3]) as [$kind, $name, $value] ([];
      if $kind == "effect" then . + [{$name, fields: []}]
      else .[-1].fields += ["\($name | tojson):" + ($value | if $kind == "json" then checked else tojson end)] end)
    | if . == [] then ""
      else ",\"effects\":[" + (map("{\(.name | tojson):{\(.fields | join(","))}}") | join(",")) + "]" end;
  if startswith("{") then . else
    (split("\t") | map(field)) as $field | "{\"id\":\($field[0])," as $id
    | try (
        if $field[1] == "error" then $id + error($field[2]; $field[3]; $field[4]; $field[5]; $field[6]) + "}"
        else $id + "\"response\":\($field[2] | checked)"
          + (if $field[3] == "state" then ",\"state\":\($field[4] | checked)"
             elif $field[3] == "delete" then ",\"delete\":true" else "" end) + ($field | effects) + "}"
        end)
      catch (debug | $id + error("function_error"; "the response, the state, an effect or details are not JSON"; "500"; "null"; "") + "}")
  end'
}
