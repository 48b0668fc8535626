-- KEYS: one per event. ARGV: token, ttl_ms. Extends the leases of this owner to ttl_ms from now.
local renewed, held = 0, ARGV[1] .. '[*!]'
for _, key in ipairs(KEYS) do
  local value = read(key)
  if value == ARGV[1] or (value and string.find(value, held) == 1) then
    redis.call('PEXPIRE', key, ARGV[2])
    renewed = renewed + 1
  end
end
return renewed
