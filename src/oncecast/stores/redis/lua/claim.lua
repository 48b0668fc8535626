-- KEYS: one per range. ARGV: token, ttl_ms, `over_done` for a reclaim. Leases the free ranges. Returns the previous value
-- of each (false: none, so it is leased now). `!N` is free too: the range was taken over N times, and the new lease keeps
-- the count.
local found = {}
for i, key in ipairs(KEYS) do
  -- rule: a claim leases only free ranges
  local value = redis.pcall('SET', key, ARGV[1], 'NX', 'GET', 'PX', ARGV[2])
  if of_other_type(value) then
    value = ''
  end
  if value and string.find(value, '^!%d%d?%d?%d?%d?%d?$') then
    redis.call('SET', key, ARGV[1] .. '*' .. string.sub(value, 2), 'PX', ARGV[2])
  end
  if value == '=' and ARGV[3] == 'over_done' then
    redis.call('SET', key, ARGV[1], 'PX', ARGV[2])
    value = false
  end
  found[i] = value
end
return found
