#!/usr/bin/env -S jq -nc --unbuffered -f
# A shopping cart. `inversion dev runtimes/jq/cart.jq`
include "shim" {search: "./"};

def max_per_item: 100; # more than a household buys: the shop says "out of stock" before it is

def items: .state.items // [];

def sku:
  (.message | if type == "object" then .sku else null end)
  | if type == "string" and . != "" then .
    else refuse("bad_sku"; "the message is {\"sku\": \"...\", \"qty\": 1}"; 422) end;

def add:
  sku as $sku
  | (if .message.qty == null then 1 else .message.qty end) as $qty
  | if ($qty | whole_number and . >= 1) then .
    else refuse("bad_quantity"; "qty is a whole number, at least 1"; 422) end
  | (max_per_item - ([items[] | select(.sku == $sku).qty][0] // 0)) as $left
  | if $qty > $left then refuse("out_of_stock"; "not enough \($sku) left"; 409; {sku: $sku, left: $left}) else . end
  | items
  | if any(.sku == $sku) then map(if .sku == $sku then .qty += $qty else . end) else . + [{sku: $sku, qty: $qty}] end
  | {response: {items: length}, state: {items: .}};

def remove:
  sku as $sku
  | if items | any(.sku == $sku) | not then refuse("not_in_cart"; "there is no \($sku) in the cart"; 404) else . end
  | items | map(select(.sku != $sku))
  | {response: {items: length}, state: {items: .}};

def checkout:
  if items == [] then refuse("cart_empty"; "there is nothing to check out"; 409) else . end
  | {response: {ordered: items}, delete: true};

serve({add: {}, remove: {}, show: {default: true, reads_only: true}, checkout: {}};
  if .ctx.handler == "add" then add
  elif .ctx.handler == "remove" then remove
  elif .ctx.handler == "show" then {response: {items: items}}
  else checkout end)
