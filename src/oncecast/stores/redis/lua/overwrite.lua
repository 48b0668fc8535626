-- KEYS: one per range. ARGV: token, ttl_ms, then the foreign value of each range. Leases a range whose key still has that
-- value, a value of another type, or none. Returns the value of each other key, and false for a leased range.
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
