-- wrk URL -s wrk.lua -- PATH KEYS BODY SEED keyed|plain: POST BODY to PATH, its %d being one of KEYS keys,
-- uniformly; keyed: each with an Idempotency-Key of its own.
-- Prints one line `RESULT {...}` that load.py reads.
local threads = 0

function setup(thread)
  threads = threads + 1
  thread:set("thread_number", threads)
end

function init(args)
  local path, keys, body, seed = args[1], tonumber(args[2]), args[3], tonumber(args[4])
  math.randomseed(seed * 1000 + thread_number)
  local headers = {["Content-Type"] = "application/json"}
  if args[5] == "keyed" then
    prefix = string.format("%d-%d-%d-", os.time(), seed, thread_number)
    headers["Idempotency-Key"] = "%UNIQUE%"
  end
  made, behind, used = {}, {}, 0
  for number = 1, keys do
    made[number] = wrk.format("POST", (path:gsub("%%d", tostring(number))), headers, body)
    if prefix then
      local at = made[number]:find("%UNIQUE%", 1, true)
      made[number], behind[number] = made[number]:sub(1, at - 1), made[number]:sub(at + 8)
    end
  end
end

function request()
  local number = math.random(#made)
  if not prefix then
    return made[number]
  end
  used = used + 1
  return made[number] .. prefix .. used .. behind[number]
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    'RESULT {"requests": %d, "seconds": %.6f, "p50_ms": %.4f, "p99_ms": %.4f, "status": %d, "socket": %d, "timeout": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.status, errors.connect + errors.read + errors.write, errors.timeout))
end
