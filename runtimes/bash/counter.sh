#!/usr/bin/env bash
# A counter: the smallest function with a state. `inversion dev runtimes/bash/counter.sh`
. "$(dirname "$0")/shim.sh"

handler add --default '.message | if . == null then 1 else numbers end' '.state.count // 0'
add() {
  whole_number "$1" || { refuse bad_amount "add takes a whole number" 422; return; }
  local count=$(($1 + $2))
  put "{\"count\":$count}"
  answer "$count"
}

handler get --reads-only '.state.count // 0'
get() { answer "$1"; }

handler reset
reset() { delete; answer 0; }

serve
