# A shopping cart. `sh run.sh cart.awk`
BEGIN {
  MAX_PER_ITEM = 100 # more than a household buys: the shop says "out of stock" before it is
  handler("add", "add")
  handler("remove", "remove")
  handler("show", "show", "default reads_only")
  handler("checkout", "checkout")
  serve()
}

# SKUS[1...] in their order, QTY of each: how many there are.
function load_items(    list, count, at) {
  delete SKUS
  delete QTY
  count = STATE == "" ? 0 : json_list(json_get(STATE, "items"), list)
  for (at = 1; at <= count; at++) QTY[SKUS[at] = json_text(json_get(list[at], "sku"))] = json_get(list[at], "qty")
  return count
}

function items(count,    out, at) {
  for (at = 1; at <= count; at++)
    if (SKUS[at] in QTY) out = out "," json_object("sku", json_string(SKUS[at]), "qty", QTY[SKUS[at]])
  return json_object("items", "[" substr(out, 2) "]")
}

function sku_of(    sku) {
  sku = json_type(MESSAGE) == "object" ? json_get(MESSAGE, "sku") : ""
  if (json_type(sku) == "string" && json_text(sku) != "") return json_text(sku)
  refuse("bad_sku", "the message is {\"sku\": \"...\", \"qty\": 1}", 422)
}

function add(    sku, qty, count, left) {
  if ((sku = sku_of()) == "") return
  qty = json_has(MESSAGE, "qty") ? json_get(MESSAGE, "qty") : 1
  if (!whole_number(qty) || qty < 1) { refuse("bad_quantity", "qty is a whole number, at least 1", 422); return }
  count = load_items()
  left = MAX_PER_ITEM - (sku in QTY ? QTY[sku] : 0)
  if (qty + 0 > left) {
    refuse("out_of_stock", "not enough " sku " left", 409, json_object("sku", json_string(sku), "left", left))
    return
  }
  if (!(sku in QTY)) SKUS[++count] = sku
  QTY[sku] += qty
  put(items(count))
  answer(json_object("items", count))
}

function remove(    sku, count) {
  if ((sku = sku_of()) == "") return
  count = load_items()
  if (!(sku in QTY)) { refuse("not_in_cart", "there is no " sku " in the cart", 404); return }
  delete QTY[sku]
  put(items(count))
  answer(json_object("items", count - 1))
}

function show() { answer(items(load_items())) }

function checkout(    count) {
  if (!(count = load_items())) { refuse("cart_empty", "there is nothing to check out", 409); return }
  drop()
  answer(json_object("ordered", json_get(items(count), "items")))
}
