#!/usr/bin/env bash
# The stock of one article and who got of it, see python/order.py. Its key is the sku. `inversion dev runtimes`
. "$(dirname "$0")/shim.sh"

handler restock '.message | numbers' \
  'try ((.message | numbers) as $qty | .state // {stock: 0, shipped: {}} | .stock += $qty) catch empty'
restock() {
  whole_number "$1" && (($1 >= 1)) || { refuse bad_quantity "restock takes a whole number, at least 1" 422; return; }
  put "$2"
  answer "$2"
}

handler ship '.message.qty? | numbers' '.state.stock // 0' \
  'try (.message as {$order, $qty} | .state // {stock: 0, shipped: {}}
        | .stock -= $qty | .shipped[$order] = (.shipped[$order] // 0) + $qty) catch empty'
ship() {
  local qty=$1 stock=$2 state=$3
  if ! whole_number "$qty" || ((qty < 1)) || [[ ! $state ]]; then
    refuse bad_shipment 'the message is {"order": "...", "qty": 1}' 422
    return
  fi
  ((qty <= stock)) || { refuse out_of_stock "there are $stock left" 409 "{\"left\":$stock}"; return; }
  put "$state"
  answer "{\"shipped\":$qty}"
}

handler show --default --reads-only '.state // {stock: 0, shipped: {}}'
show() { answer "$1"; }

serve
