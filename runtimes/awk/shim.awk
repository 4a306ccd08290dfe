# inversion for GNU awk 5: copy this, json.awk and run.sh beside your function. JSON stays text: json.awk cuts it.
#
#     BEGIN {
#       handler("add", "add", "default")
#       serve()
#     }
#     function add() {
#       if (!whole_number(MESSAGE)) { refuse("bad_amount", "add takes a whole number", 422); return }
#       put((STATE == "" ? 0 : STATE) + MESSAGE)
#       answer(NEW)
#     }
#
# sh run.sh function.awk runs it. A handler is a function without arguments. It finds
#     MESSAGE, STATE       as JSON; STATE is "" when there is none, and "null" is a state
#     ctx(NAME)            key ("": a stateless call), handler, version, attempt, now, deadline, seed, reply_to, ...
# and says, before it returns,
#     answer(JSON)         the response; null without it
#     put(JSON), drop()    the new state (then in NEW) / no state any more; neither: it stays as it was
#     refuse(CODE, TEXT, STATUS, DETAILS, RETRY)  the answer is an error (400-499), the state stays; then `return`
#     bug(TEXT)            the answer is a 500, the text is for the log; then `return`
#     effect(NAME, JSON)   done when, and only if, the answer is stored: effect("cancel", json_object("name", "\"a\""))
# handler(NAME, FUNCTION, OPTIONS, INPUT, OUTPUT): OPTIONS are "default" (the handler of callers that name none as well)
# and "reads_only", a promise that is held to; INPUT and OUTPUT are JSON Schemas. serve(CRON): schedules, a JSON array.
# What is printed goes to the log.

BEGIN { RS = "\n"; shim_out = "/dev/fd/3" } # as run.sh has it

function handler(name, code, options, input, output) {
  shim_declare(name, code, options ~ /reads_only/, input, output)
  if (options ~ /default/) shim_declare("call", code, options ~ /reads_only/, input, output)
}

function shim_declare(name, code, reads_only, input, output) {
  shim_code[name] = code
  shim_reads_only[name] = reads_only
  shim_names = shim_names (shim_names == "" ? "" : ", ") name
  shim_hello = shim_hello json_field(name, json_object("input", input, "output", output, "reads_only", shim_bool(reads_only)))
}

function shim_bool(value) { return value ? "true" : "false" }

function serve(cron) {
  shim_say(json_object("hello", json_object("protocol", 1, "runtime", json_string("gawk/" PROCINFO["version"]), \
    "pipeline", 64, "batch", 64, "integers", 53, "handlers", "{" substr(shim_hello, 2) "}", "cron", cron)))
}

function whole_number(j) { return j ~ /^-?(0|[1-9][0-9]{0,14})$/ }
function ctx(name) { return name in shim_ctx && shim_ctx[name] != "null" ? json_text(shim_ctx[name]) : "" }
function answer(j) { shim_response = j }
function put(j) { shim_change = "state"; NEW = j }
function drop() { shim_change = "delete"; NEW = "" }
function effect(name, j) { shim_effects = shim_effects "," json_object(name, j) }

function refuse(code, text, status, details, retry) {
  shim_error = json_object("code", json_string(code), "message", json_string(text), "status", status == "" ? 400 : status, \
    "details", details, "retry", retry ? "true" : "")
}

function bug(text) {
  print "shim: handler " shim_name ": " text > "/dev/stderr"
  shim_error = json_object("code", "\"function_error\"", "message", json_string("error in handler " shim_name))
}

# One message: the fields of its answer; what it left is in shim_change and NEW.
function shim_run(    code) {
  shim_name = ctx("handler") == "" ? "call" : ctx("handler")
  shim_response = "null"
  shim_change = shim_effects = shim_error = NEW = ""
  code = shim_name in shim_code ? shim_code[shim_name] : ""
  if (code == "") refuse("no_handler", "no handler " shim_name ", there are: " shim_names, 404)
  else @code()
  if (shim_error == "" && shim_change shim_effects != "") {
    if (shim_reads_only[shim_name]) bug("declared reads_only: it cannot change the state or have effects")
    else if (ctx("key") == "") refuse("no_key", "call it with a key: without one there is no state to change, and no effect")
  }
  if (shim_change == "delete" && STATE == "") shim_change = ""
  if (shim_error == "" && !json_ok(shim_response)) bug("the response is not JSON: " shim_response)
  if (shim_error == "" && shim_change == "state" && !json_ok(NEW)) bug("the state is not JSON: " NEW)
  if (shim_error == "" && shim_effects != "" && !json_ok("[" substr(shim_effects, 2) "]")) bug("an effect is not JSON")
  if (shim_error != "" && !json_ok(shim_error)) bug("the error's details are not JSON")
  if (shim_error == "")
    return ",\"response\":" shim_response (shim_effects == "" ? "" : ",\"effects\":[" substr(shim_effects, 2) "]")
  shim_change = ""
  return ",\"error\":" shim_error
}

function shim_ending(change, new) { return change == "" ? "" : change == "delete" ? ",\"delete\":true" : ",\"state\":" new }

function shim_enter(j,    parts, names, each) {
  json_fields(j, parts, names)
  for (each in parts) if (each != "message") shim_ctx[each] = parts[each]
  return "message" in parts ? parts["message"] : "null"
}

function shim_say(frame) {
  print frame > shim_out
  fflush() # of the frame, and of what was printed
}

function shim_take(line,    frame, names, messages, count, at, id, fields, answers, last, new) {
  json_fields(line, frame, names)
  STATE = "state" in frame ? frame["state"] : ""
  id = "{\"id\":" frame["id"]
  if (!("messages" in frame)) {
    delete shim_ctx
    shim_enter(frame["ctx"])
    MESSAGE = "message" in frame ? frame["message"] : "null"
    fields = shim_run()
    return id fields shim_ending(shim_change, NEW) "}"
  }
  count = json_list(frame["messages"], messages)
  for (at = 1; at <= count; at++) {
    delete shim_ctx
    shim_enter(frame["ctx"])
    MESSAGE = shim_enter(messages[at])
    fields = shim_run()
    answers = answers ",{\"id\":" shim_ctx["id"] fields (shim_change == "" ? ",\"changed\":false}" : "}")
    if (shim_change != "") { last = shim_change; STATE = new = NEW }
  }
  return id ",\"answers\":[" substr(answers, 2) "]" shim_ending(last, new) "}"
}

RT == "" { exit } # torn: the host died while it wrote
{ shim_say(shim_take($0)) }
