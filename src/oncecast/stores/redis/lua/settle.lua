-- KEYS: one per event. ARGV: token, ttl_ms, then one mark per event.
-- Turns our own leases into marks; what is another's, or gone, stays as it is.
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
