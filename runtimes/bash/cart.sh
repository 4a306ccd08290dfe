#!/usr/bin/env bash
# A shopping cart. `inversion dev runtimes/bash/cart.sh`
# jq does what JSON needs (the lines under `handler`), the shell decides.
. "$(dirname "$0")/shim.sh"

max_per_item=100 # more than a household buys: the shop says "out of stock" before it is

bad_sku() { refuse bad_sku 'the message is {"sku": "...", "qty": 1}' 422; }

handler add \
  '.message.sku? | strings' \
  '.message | objects | if .qty == null then 1 else .qty | numbers end' \
  '.message.sku? as $sku | [.state.items[]? | select(.sku == $sku).qty][0] // 0' \
  '(try (.message | {sku, qty: (.qty // 1 | numbers)}) catch empty) as $new | .state.items // []
   | if any(.sku == $new.sku) then map(if .sku == $new.sku then .qty += $new.qty else . end) else . + [$new] end' \
  '.state.items // [] | length' \
  '.message.sku? | tojson'
add() {
  local sku=$1 qty=$2 held=$3 items=$4 count=$5 sku_json=$6
  [[ $sku ]] || { bad_sku; return; }
  whole_number "$qty" && ((qty >= 1)) || { refuse bad_quantity "qty is a whole number, at least 1" 422; return; }
  if ((held + qty > max_per_item)); then
    refuse out_of_stock "not enough $sku left" 409 "{\"sku\":$sku_json,\"left\":$((max_per_item - held))}"
    return
  fi
  ((held > 0)) || ((count += 1))
  put "{\"items\":$items}"
  answer "{\"items\":$count}"
}

handler remove \
  '.message.sku? | strings' \
  '.message.sku? as $sku | .state.items // [] | any(.sku == $sku)' \
  '.message.sku? as $sku | .state.items // [] | map(select(.sku != $sku))' \
  '.state.items // [] | length'
remove() {
  local sku=$1 in_cart=$2 items=$3 count=$4
  [[ $sku ]] || { bad_sku; return; }
  $in_cart || { refuse not_in_cart "there is no $sku in the cart" 404; return; }
  put "{\"items\":$items}"
  answer "{\"items\":$((count - 1))}"
}

handler show --default --reads-only '{items: (.state.items // [])}'
show() { answer "$1"; }

handler checkout '.state.items // []'
checkout() {
  [[ $1 != "[]" ]] || { refuse cart_empty "there is nothing to check out" 409; return; }
  delete
  answer "{\"ordered\":$1}"
}

serve
