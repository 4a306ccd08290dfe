-- A shopping cart. `inversion dev runtimes/lua/cart.lua`
package.path = (arg[0]:match("^.*/") or "./") .. "?.lua;" .. package.path
local shim = require "shim"
local array, refuse = shim.json.array, shim.refuse

local MAX_PER_ITEM = 100 -- more than a household buys: the shop says "out of stock" before it is

local function items_of(ctx) return ctx.state and ctx.state.items or array {} end

local function find(items, sku)
  for at, item in ipairs(items) do
    if item.sku == sku then return item, at end
  end
end

local function sku_of(message)
  local sku = type(message) == "table" and message.sku
  if type(sku) ~= "string" or sku == "" then
    refuse("bad_sku", 'the message is {"sku": "...", "qty": 1}', { status = 422 })
  end
  return sku
end

shim.handler("add", function(ctx, message)
  local sku = sku_of(message)
  local qty = message.qty == nil and 1 or message.qty
  if math.type(qty) ~= "integer" or qty < 1 then
    refuse("bad_quantity", "qty is a whole number, at least 1", { status = 422 })
  end
  local items = items_of(ctx)
  local item = find(items, sku)
  local left = MAX_PER_ITEM - (item and item.qty or 0)
  if qty > left then
    refuse("out_of_stock", "not enough " .. sku .. " left", { status = 409, details = { sku = sku, left = left } })
  end
  if item then
    item.qty = item.qty + qty
  else
    table.insert(items, { sku = sku, qty = qty })
  end
  ctx.state = { items = items }
  return { items = #items }
end)

shim.handler("remove", function(ctx, message)
  local sku, items = sku_of(message), items_of(ctx)
  local _, at = find(items, sku)
  if not at then
    refuse("not_in_cart", "there is no " .. sku .. " in the cart", { status = 404 })
  end
  table.remove(items, at)
  ctx.state = { items = items }
  return { items = #items }
end)

shim.handler("show", { default = true, reads_only = true }, function(ctx)
  return { items = items_of(ctx) }
end)

shim.handler("checkout", function(ctx)
  local items = items_of(ctx)
  if #items == 0 then
    refuse("cart_empty", "there is nothing to check out", { status = 409 })
  end
  ctx.state = nil
  return { ordered = items }
end)

shim.serve()
