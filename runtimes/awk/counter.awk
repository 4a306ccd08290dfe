# A counter: the smallest function with a state. `sh run.sh counter.awk`
BEGIN {
  handler("add", "add", "default")
  handler("get", "get", "reads_only")
  handler("reset", "reset")
  serve()
}

function count() { return STATE == "" ? 0 : json_get(STATE, "count") }

function add(    amount, new) {
  amount = MESSAGE == "null" ? 1 : MESSAGE
  if (!whole_number(amount)) { refuse("bad_amount", "add takes a whole number", 422); return }
  new = count() + amount
  put(json_object("count", new))
  answer(new)
}

function get() { answer(count()) }

function reset() { drop(); answer(0) }
