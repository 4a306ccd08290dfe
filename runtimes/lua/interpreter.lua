-- The interpreter of the conformance kit, runtimes/conformance/interpreter.md: the message says what to do.
package.path = (arg[0]:match("^.*/") or "./") .. "?.lua;" .. package.path
local shim = require "shim"
local null = shim.json.null

local does = {
  put = function(ctx, value) ctx.state = value end,
  delete = function(ctx) ctx.state = nil end,
  set = function(ctx, fields)
    for name, value in pairs(fields) do ctx.state[name] = value end
  end,
  effect = function(ctx, effect) ctx:effect(effect) end,
  fail = function(_, given)
    local options = { status = given.status or 500, details = given.details, retry = given.retry }
    shim.refuse(given.code or "failed", given.message, options)
  end,
  throw = function(_, text) error(text) end,
  print = function(_, text) print(text) end,
  log = function(_, text) io.stderr:write(text, "\n") end,
  sleep = function(_, ms) os.execute("sleep " .. ms / 1000) end,
  exit = function(_, status) os.exit(status) end,
}
local says = {
  reply = function(_, value) return value end,
  reply_state = function(ctx) return { state = ctx.state } end,
  reply_ctx = function(ctx, field) return ctx[field] end,
  add = function(ctx, amount)
    ctx.state = (ctx.state or 0) + amount
    return ctx.state
  end,
  unwritable = function() return 0 / 0 end,
}

local function interpret(ctx, message)
  if not shim.json.is_array(message) then error "the message is no list" end
  local response = null
  for _, command in ipairs(message) do
    local name, value = next(command)
    if says[name] then
      response = says[name](ctx, value)
    elseif does[name] then
      does[name](ctx, value)
    else
      error("no command " .. name)
    end
  end
  return response
end

shim.handler("run", { default = true }, interpret)
shim.handler("look", { reads_only = true }, interpret)
shim.serve()
