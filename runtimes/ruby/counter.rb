# A counter: the smallest function with a state. `inversion dev runtimes/ruby/counter.rb`
require_relative "shim"

handler :add, default: true do |ctx, message|
  amount = message.nil? ? 1 : message
  refuse "bad_amount", "add takes a whole number", status: 422 unless amount.is_a?(Integer)
  state = ctx.state || { "count" => 0 }
  state["count"] += amount
  ctx.state = state
  state["count"]
end

handler :get, reads_only: true do |ctx, _message|
  ctx.exists? ? ctx.state["count"] : 0
end

handler :reset do |ctx, _message|
  ctx.delete
  0
end

serve
