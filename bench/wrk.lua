-- wrk URL -s wrk.lua -- PATH KEYS BODY SEED: POST BODY to PATH, its %d being one of KEYS keys, uniformly.
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
  made = {}
  for number = 1, keys do
    made[number] = wrk.format("POST", (path:gsub("%%d", tostring(number))), headers, body)
  end
end

function request()
  return made[math.random(#made)]
end

function done(summary, latency, requests)
  local errors = summary.errors
  io.write(string.format(
    'RESULT {"requests": %d, "seconds": %.6f, "p50_ms": %.4f, "p99_ms": %.4f, "status": %d, "socket": %d, "timeout": %d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    errors.status, errors.connect + errors.read + errors.write, errors.timeout))
end
