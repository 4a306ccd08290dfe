--- JSON for Lua 5.4, for shim.lua. No library of Debian's keeps 64 bits of an integer and 17 digits of a double.
--
-- null is json.null inside of tables. A table whose keys are 1..n is an array, one with string keys an object; an
-- empty one is {}, and [] if it came in as one or was made by json.array{}. What JSON has no word for is an error.

local json = { null = setmetatable({}, { __tostring = function() return "null" end }) }

local Array = {}
local Large = { __tostring = function(self) return self.digits end } -- an integer beyond 64 bits: it only passes through
local MAX_DEPTH <const> = 200 -- the host takes 64

function json.array(list) return setmetatable(list or {}, Array) end

function json.is_array(value) return type(value) == "table" and (getmetatable(value) == Array or #value > 0) end

local escapes = { ['"'] = '\\"', ["\\"] = "\\\\", ["\n"] = "\\n", ["\t"] = "\\t", ["\r"] = "\\r" }
local unescapes = { b = "\b", f = "\f", n = "\n", r = "\r", t = "\t", ["/"] = "/", ["\\"] = "\\", ['"'] = '"' }

local function fail(...) error(string.format(...), 0) end

local function string_text(value)
  if not utf8.len(value) then fail("a string is not UTF-8") end
  return '"' .. value:gsub('[\0-\31\\"]', function(char)
    return escapes[char] or string.format("\\u%04x", char:byte())
  end) .. '"'
end

local function number_text(value)
  if math.type(value) == "integer" then return string.format("%d", value) end
  if value ~= value or value - value ~= 0 then fail("%s is no number of JSON", value) end
  for digits = 15, 17 do
    local text = string.format("%." .. digits .. "g", value)
    if tonumber(text) == value then return text:find("[.e]") and text or text .. ".0" end
  end
end

local encode

local function table_text(value, depth)
  if depth > MAX_DEPTH then fail("it is nested too deep") end
  local parts, length, count = {}, #value, 0
  for _ in pairs(value) do count = count + 1 end
  if json.is_array(value) then
    if count ~= length then fail("a table is an array with holes, or an array and an object") end
    for at = 1, length do parts[at] = encode(value[at], depth + 1) end
    return "[" .. table.concat(parts, ",") .. "]"
  end
  for key, each in pairs(value) do
    if type(key) ~= "string" then fail("a table has a key that is a %s", type(key)) end
    parts[#parts + 1] = string_text(key) .. ":" .. encode(each, depth + 1)
  end
  table.sort(parts) -- the same table is the same text
  return "{" .. table.concat(parts, ",") .. "}"
end

function encode(value, depth)
  local kind = type(value)
  if value == nil or value == json.null then return "null"
  elseif kind == "string" then return string_text(value)
  elseif kind == "number" then return number_text(value)
  elseif kind == "boolean" then return tostring(value)
  elseif getmetatable(value) == Large then return value.digits
  elseif kind == "table" then return table_text(value, depth)
  end
  fail("it holds a %s", kind)
end

function json.encode(value) return encode(value, 0) end

local decode

local function decode_string(text, at) -- at: after the quote
  local parts, from = {}, at
  while true do
    local stop = text:find('[\0-\31\\"]', from) or fail("a string has no end")
    local char = text:sub(stop, stop)
    parts[#parts + 1] = text:sub(from, stop - 1)
    if char == '"' then return table.concat(parts), stop + 1 end
    if char ~= "\\" then fail("a control character in a string") end
    local escape = text:sub(stop + 1, stop + 1)
    from = stop + 2
    if escape == "u" then
      local code = tonumber(text:match("^%x%x%x%x", from) or fail("a broken \\u"), 16)
      from = from + 4
      if code >= 0xD800 and code < 0xE000 then
        local low = tonumber(text:match("^\\u([dD][c-fC-F]%x%x)", from) or fail("half a surrogate pair"), 16)
        if code >= 0xDC00 then fail("half a surrogate pair") end
        code, from = 0x10000 + (code - 0xD800) * 0x400 + (low - 0xDC00), from + 6
      end
      parts[#parts + 1] = utf8.char(code)
    else
      parts[#parts + 1] = unescapes[escape] or fail("\\%s in a string", escape)
    end
  end
end

local function decode_number(text, at)
  local digits = text:match("^-?%d+[%d.eE+-]*", at) or fail("%q where a value is due", text:sub(at, at + 9))
  local number = tonumber(digits) or fail("%s is no number", digits)
  if math.type(number) == "float" and not digits:find("[.eE]") then
    number = setmetatable({ digits = digits }, Large)
  end
  return number, at + #digits
end

local function decode_list(text, at, close, read)
  local next_at = text:match("^[ \t\r\n]*()" .. close, at)
  while not next_at do
    at = read(at)
    local char, after = text:match("^[ \t\r\n]*(.)()", at)
    if char == "," then at = after
    elseif char == close:sub(-1) then next_at = after - 1
    else fail("%q where a comma is due", char) end
  end
  return next_at + 1
end

function decode(text, at)
  at = text:match("^[ \t\r\n]*()", at)
  local char = text:sub(at, at)
  if char == '"' then return decode_string(text, at + 1)
  elseif char == "{" then
    local object = {}
    return object, decode_list(text, at + 1, "}", function(from)
      local key, value
      key, from = decode_string(text, text:match('^[ \t\r\n]*"()', from) or fail("a key is due"))
      value, from = decode(text, text:match("^[ \t\r\n]*:()", from) or fail("a colon is due"))
      object[key] = value
      return from
    end)
  elseif char == "[" then
    local list = json.array()
    return list, decode_list(text, at + 1, "%]", function(from)
      list[#list + 1], from = decode(text, from)
      return from
    end)
  end
  local word = text:match("^%l+", at)
  if word == "null" then return json.null, at + 4
  elseif word == "true" then return true, at + 4
  elseif word == "false" then return false, at + 5
  end
  return decode_number(text, at)
end

function json.decode(text)
  local value, at = decode(text, 1)
  if text:find("[^ \t\r\n]", at) then fail("something after the end") end
  return value
end

return json
