--- inversion for Lua 5.4: copy this and json.lua beside your function.
--
--     package.path = (arg[0]:match("^.*/") or "./") .. "?.lua;" .. package.path
--     local shim = require "shim"
--
--     shim.handler("add", { default = true }, function(ctx, message)
--       if math.type(message) ~= "integer" then
--         shim.refuse("bad_amount", "add takes a whole number", { status = 422 })
--       end
--       ctx.state = (ctx.state or 0) + message
--       return ctx.state
--     end)
--
--     shim.serve()     -- with schedules: shim.serve { cron = { { name = "nightly", schedule = "0 4 * * *" } } }
--
-- A handler gets (ctx, message) and returns the response. What it leaves in ctx.state is stored before the answer
-- goes out; if it fails, nothing is. Options: default (the handler of callers that name none as well), reads_only (a
-- promise, it is held to it), input and output (JSON Schemas). What is printed goes to the log.
--
--     ctx.state        nil: there is none, json.null: it is null. Change it in place, assign it; nil deletes it
--     ctx.key (nil: a stateless call), .handler, .version, .attempt, .now, .deadline, .seed, .trace, .meta, .reply_to
--     ctx:send { to = "payment", key = "o1", handler = "charge", message = {}, delay = "24h", name = "bill" }
--     ctx:cancel "bill"                    ctx:forward { to = "ledger", key = "eu", handler = "book" }
--     ctx:publish("orders", message)       ctx:subscribe("orders", "on_order")       ctx:unsubscribe "orders"
--     ctx:http(url, { body = {}, reply_to = "done" })    -- these are done when, and only if, the answer is stored

local json = require "json"

local shim = { json = json }
local handlers, names = {}, {}

-- The protocol keeps the standard files to itself, before anything can print. Lua has no dup2: what is said in Lua
-- is turned to stderr, and what shells are started for as well.
local lines, out, execute, popen = io.stdin, io.stdout, os.execute, io.popen
io.stdin, io.stdout = io.open("/dev/null"), io.stderr
io.input(io.stdin)
io.output(io.stderr)
function print(...)
  local words = table.pack(...)
  for at = 1, words.n do words[at] = tostring(words[at]) end
  io.stderr:write(table.concat(words, "\t"), "\n")
end
function os.execute(command) return execute(command and "exec </dev/null >&2\n" .. command) end
function io.popen(command, mode)
  return popen((mode or "r"):find("r") and "exec </dev/null\n" .. command or "exec >&2\n" .. command, mode)
end

local Refused, NotJson = {}, {}

--- The answer is an error, and the state stays as it was. options: status (400 to 499, else 500), details, retry.
function shim.refuse(code, message, options)
  local refusal = { code = code, message = message or "", status = 400 }
  for name, value in pairs(options or {}) do refusal[name] = value end
  error(setmetatable(refusal, Refused), 0)
end

local function dump(value, what)
  local fine, text = pcall(json.encode, value)
  return fine and text or error(setmetatable({ text = what .. " is not JSON: " .. text }, NotJson), 0)
end

function shim.handler(name, options, code)
  if not code then options, code = {}, options end
  local declared = { reads_only = not not options.reads_only, input = options.input, output = options.output }
  for _, each in ipairs { name, options.default and "call" or nil } do
    handlers[each] = { code = code, declared = declared }
    names[#names + 1] = each
  end
end

local methods = {}
local Context = {}

local function may(ctx, what)
  if rawget(ctx, "_reads_only") then error("declared reads_only: it cannot " .. what, 0) end
  if not ctx.key then shim.refuse("no_key", "call it with a key: without one it cannot " .. what) end
end

function Context.__index(ctx, name)
  if name ~= "state" then
    local value = methods[name] or rawget(ctx, "_call")[name]
    return value ~= json.null and value or nil
  end
  if not ctx._taken then -- the first one gets the value, the others one of their own, from its text
    local stored = ctx._stored
    if stored then
      stored.text = stored.text or dump(stored.value, "the state")
      if stored.untouched then ctx._value = stored.value else ctx._value = json.decode(stored.text) end
      stored.untouched = false
    end
    ctx._taken = true
  end
  return rawget(ctx, "_value")
end

function Context.__newindex(ctx, name, value)
  if name ~= "state" then return rawset(ctx, name, value) end
  may(ctx, "change the state")
  ctx._value, ctx._taken, ctx._assigned = value, true, true
end

--- Any effect as the wire has it, { send = {...} }. Kept as text: what it is made of may change after that.
function methods.effect(ctx, effect)
  may(ctx, "have effects")
  ctx._effects[#ctx._effects + 1] = dump(effect, "an effect")
end

local function target(fields) -- `function` is a word of Lua's
  local asked = {}
  for name, value in pairs(fields) do asked[name == "to" and "function" or name] = value end
  return asked
end

function methods.send(ctx, fields) ctx:effect { send = target(fields) } end
function methods.forward(ctx, fields) ctx:effect { forward = target(fields) } end
function methods.cancel(ctx, name) ctx:effect { cancel = { name = name } } end
function methods.publish(ctx, topic, message) ctx:effect { publish = { topic = topic, message = message } } end
function methods.subscribe(ctx, topic, handler) ctx:effect { subscribe = { topic = topic, handler = handler } } end
function methods.unsubscribe(ctx, topic) ctx:effect { unsubscribe = { topic = topic } } end
function methods.http(ctx, url, fields)
  local asked = target(fields or {})
  asked.url = url
  ctx:effect { http = asked }
end

--- What a handler left: nil (the state that was there), { text }, or { deleted = true }.
local function left(ctx)
  local stored = ctx._stored
  if not rawget(ctx, "_taken") then return nil end
  if ctx._value == nil then return ctx._assigned and stored and { deleted = true } or nil end
  local text = dump(ctx._value, "the state")
  if not ctx._assigned and text == stored.text then return nil end
  if not ctx._assigned then may(ctx, "change the state") end
  return { text = text }
end

local function attempt(call, message, stored)
  local found = handlers[call.handler]
  if not found then
    local known = table.concat(names, ", ")
    shim.refuse("no_handler", "no handler " .. call.handler .. ", there are: " .. known, { status = 404 })
  end
  local ctx = { _call = call, _stored = stored or false, _reads_only = found.declared.reads_only, _effects = {} }
  ctx._taken, ctx._assigned = false, false
  setmetatable(ctx, Context)
  local response = dump(found.code(ctx, message), "the response")
  local effects = #ctx._effects > 0 and ',"effects":[' .. table.concat(ctx._effects, ",") .. "]" or ""
  return ',"response":' .. response .. effects, left(ctx)
end

local function caught(problem)
  local kind = getmetatable(problem)
  if kind == Refused or kind == NotJson then return problem end
  return debug.traceback(tostring(problem), 2) -- for the log: callers see no text of it
end

--- One message: the fields of its answer, and what it left.
local function run(call, message, stored)
  call.handler = call.handler or "call"
  if message == json.null then message = nil end
  local fine, answer, change = xpcall(attempt, caught, call, message, stored)
  if fine then return answer, change end
  if getmetatable(answer) == Refused then
    fine, answer = pcall(dump, setmetatable(answer, nil), "the error")
    if fine then return ',"error":' .. answer end
  end
  local shown, log = "error", answer
  if type(answer) == "table" then shown, log = answer.text, answer.text end
  io.stderr:write("shim: handler ", call.handler, ": ", log, "\n")
  return ',"error":' .. json.encode { code = "function_error", message = shown .. " in handler " .. call.handler }
end

local function ending(change)
  return not change and "" or change.deleted and ',"delete":true' or ',"state":' .. change.text
end

local function answer(line)
  local frame = json.decode(line)
  local stored, id = nil, json.encode(frame.id)
  if frame.state ~= nil then stored = { value = frame.state, untouched = true } end
  if not frame.messages then
    local fields, change = run(frame.ctx, frame.message, stored)
    return '{"id":' .. id .. fields .. ending(change) .. "}"
  end
  local answers, last = {}, nil
  for at, each in ipairs(frame.messages) do
    local fields, change = run(setmetatable(each, { __index = frame.ctx }), each.message, stored)
    answers[at] = '{"id":' .. json.encode(each.id) .. fields .. (change and "}" or ',"changed":false}')
    if change then
      last = change
      stored = not change.deleted and { text = change.text } or nil
    end
  end
  return '{"id":' .. id .. ',"answers":[' .. table.concat(answers, ",") .. "]" .. ending(last) .. "}"
end

--- Answer messages until stdin ends.
function shim.serve(options)
  local declared = {}
  for name, each in pairs(handlers) do declared[name] = each.declared end
  local runtime = _VERSION:lower():gsub(" ", "/")
  local hello = { protocol = 1, runtime = runtime, pipeline = 64, batch = 64, integers = 64, handlers = declared }
  hello.cron = options and options.cron
  out:write(dump({ hello = hello }, "hello"), "\n"):flush()
  for line in lines:lines("L") do
    if line:sub(-1) ~= "\n" then break end -- torn: the host died while it wrote
    out:write(answer(line), "\n"):flush()
  end
end

return shim
