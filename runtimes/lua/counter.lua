-- A counter: the smallest function with a state. `inversion dev runtimes/lua/counter.lua`
package.path = (arg[0]:match("^.*/") or "./") .. "?.lua;" .. package.path
local shim = require "shim"

shim.handler("add", { default = true }, function(ctx, message)
  local amount = message == nil and 1 or message
  if math.type(amount) ~= "integer" then
    shim.refuse("bad_amount", "add takes a whole number", { status = 422 })
  end
  local state = ctx.state or { count = 0 }
  state.count = state.count + amount
  ctx.state = state
  return state.count
end)

shim.handler("get", { reads_only = true }, function(ctx)
  return ctx.state and ctx.state.count or 0
end)

shim.handler("reset", function(ctx)
  ctx.state = nil
  return 0
end)

shim.serve()
