# The interpreter of the conformance kit, runtimes/conformance/interpreter.md: the message says what to do.
BEGIN {
  handler("run", "interpret", "default")
  handler("look", "interpret", "reads_only")
  serve()
}

function interpret(    commands, count, at, parts, names, many, each, state) {
  state = STATE
  count = json_list(MESSAGE, commands)
  for (at = 1; at <= count && shim_error == ""; at++) {
    json_fields(commands[at], parts, names)
    state = obey(names[1], parts[names[1]], state)
  }
}

# Does one command; the state after it.
function obey(name, value, state,    parts, names, many, each) {
  if (name == "reply") answer(value)
  else if (name == "reply_state") answer(json_object("state", state))
  else if (name == "reply_ctx") answer((each = json_text(value)) in shim_ctx ? shim_ctx[each] : "null")
  else if (name == "add") {
    put(state = (state == "" ? 0 : state) + value)
    answer(state)
  }
  else if (name == "unwritable") answer("NaN")
  else if (name == "put") put(state = value)
  else if (name == "delete") { drop(); return "" }
  else if (name == "set") {
    many = json_fields(value, parts, names)
    for (each = 1; each <= many; each++)
      if (json_get(state, names[each]) != parts[names[each]]) put(state = json_set(state, names[each], parts[names[each]]))
  }
  else if (name == "effect") {
    json_fields(value, parts, names)
    effect(names[1], parts[names[1]])
  }
  else if (name == "fail") {
    json_fields(value, parts, names)
    refuse("code" in parts ? json_text(parts["code"]) : "failed", "message" in parts ? json_text(parts["message"]) : "", \
      "status" in parts ? parts["status"] : 500, "details" in parts ? parts["details"] : "", parts["retry"] == "true")
  }
  else if (name == "throw") bug(json_text(value))
  else if (name == "print") print json_text(value)
  else if (name == "log") print json_text(value) > "/dev/stderr"
  else if (name == "sleep") system("sleep " value / 1000)
  else if (name == "exit") exit value
  else bug("no command " name)
  return state
}
