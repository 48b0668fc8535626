-- KEYS: one per event. ARGV: token, ttl_ms, then one done marker per event.
-- Replaces the leases of this owner by done markers; leaves other leases and missing ones unchanged.
local settled, held = 0, ARGV[1] .. '[*!]'
for i, key in ipairs(KEYS) do
  local value = read(key)
  -- rule: a listener replaces only its own leases by done markers
  if value == ARGV[1] or (value and string.find(value, held) == 1) then
    redis.call('SET', key, ARGV[i + 2], 'PX', ARGV[2])
    settled = settled + 1
  end
end
return settled
