-- KEYS: one per event. ARGV: token, ttl_ms.
-- Takes what is free; answers for each what stood there (false: nothing, so it is ours now).
local found = {}
for i, key in ipairs(KEYS) do
  found[i] = redis.call('SET', key, ARGV[1], 'NX', 'GET', 'PX', ARGV[2])
end
return found
