# A shopping cart. `inversion dev runtimes/ruby/cart.rb`
require_relative "shim"

MAX_PER_ITEM = 100 # more than a household buys: the shop says "out of stock" before it is

def items_of(ctx) = ctx.exists? ? ctx.state["items"] : []

def sku_of(message)
  sku = message["sku"] if message.is_a?(Hash)
  return sku if sku.is_a?(String) && !sku.empty?

  refuse "bad_sku", 'the message is {"sku": "...", "qty": 1}', status: 422
end

handler :add do |ctx, message|
  sku = sku_of(message)
  qty = message.fetch("qty", 1)
  refuse "bad_quantity", "qty is a whole number, at least 1", status: 422 unless qty.is_a?(Integer) && qty >= 1
  items = items_of(ctx)
  item = items.find { |each| each["sku"] == sku }
  left = MAX_PER_ITEM - (item ? item["qty"] : 0)
  refuse "out_of_stock", "not enough #{sku} left", status: 409, details: { sku: sku, left: left } if qty > left
  item ? item["qty"] += qty : items.push({ "sku" => sku, "qty" => qty })
  ctx.state = { items: items }
  { items: items.size }
end

handler :remove do |ctx, message|
  sku = sku_of(message)
  items = items_of(ctx)
  left = items.reject { |each| each["sku"] == sku }
  refuse "not_in_cart", "there is no #{sku} in the cart", status: 404 if left.size == items.size
  ctx.state = { items: left }
  { items: left.size }
end

handler :show, default: true, reads_only: true do |ctx, _message|
  { items: items_of(ctx) }
end

handler :checkout do |ctx, _message|
  items = items_of(ctx)
  refuse "cart_empty", "there is nothing to check out", status: 409 if items.empty?
  ctx.delete
  { ordered: items }
end

serve
