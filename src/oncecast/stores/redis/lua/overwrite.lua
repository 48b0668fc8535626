-- KEYS: one per event. ARGV: token, ttl_ms, then for each the value that is not ours. Takes the event where that, a value
-- of another type, or nothing stands; answers for each what stood there (false: it is ours now).
local found = {}
for i, key in ipairs(KEYS) do
  local value = read(key)
  if not value or value == ARGV[i + 2] then
    redis.call('SET', key, ARGV[1], 'PX', ARGV[2])
    value = false
  end
  found[i] = value
end
return found
