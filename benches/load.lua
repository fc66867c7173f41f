-- The load of benches/floor and benches/cluster, for wrk. What to do comes in environment variables:
--   BENCH_PORTS   ports on 127.0.0.1, one thread each in turn
--   BENCH_METHOD  GET of one of BENCH_KEYS keys, or PUT of a key never used before, or of one of BENCH_OVERWRITES keys
--   BENCH_PATH    what the key is appended to;  BENCH_QUERY  what comes after it
--   BENCH_SIZE    bytes of a value
--   BENCH_THINK   most milliseconds a connection waits before its next request (uniform; 0: none)
local threads = 0

function setup(thread)
  local ports = {}
  for port in string.gmatch(os.getenv("BENCH_PORTS"), "%d+") do ports[#ports + 1] = port end
  thread.addr = wrk.lookup("127.0.0.1", ports[threads % #ports + 1])[1]
  thread:set("id", threads)
  threads = threads + 1
end

local method, path, query, keys, body, count, think, overwrites

function init()
  method, path, query = os.getenv("BENCH_METHOD"), os.getenv("BENCH_PATH"), os.getenv("BENCH_QUERY")
  keys, think, count = tonumber(os.getenv("BENCH_KEYS")), tonumber(os.getenv("BENCH_THINK")), 0
  overwrites = tonumber(os.getenv("BENCH_OVERWRITES"))
  math.randomseed(1 + id)
  if method == "PUT" then
    local bytes = {}
    for i = 1, tonumber(os.getenv("BENCH_SIZE")) do bytes[i] = string.char(math.random(33, 126)) end
    body = table.concat(bytes)
  end
  -- wrk calls delay() at every request if there is one, at a cost.
  if think > 0 then
    function delay() return math.random(0, think) end
  end
end

function request()
  if method == "PUT" and overwrites > 0 then
    return wrk.format("PUT", path .. math.random(overwrites) .. query, nil, body)
  end
  if method == "PUT" then
    count = count + 1
    return wrk.format("PUT", path .. id .. "-" .. count .. query, nil, body)
  end
  return wrk.format("GET", path .. math.random(keys) .. query)
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format("BENCH %d %d %d %d %d\n", summary.requests, summary.duration,
    errors.connect + errors.read + errors.write + errors.timeout + errors.status,
    latency:percentile(50), latency:percentile(99)))
end
