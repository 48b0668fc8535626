-- KEYS: one per event. ARGV: token, ttl_ms. Our own leases last ttl_ms from now.
local renewed = 0
for _, key in ipairs(KEYS) do
  if redis.call('GET', key) == ARGV[1] then
    redis.call('PEXPIRE', key, ARGV[2])
    renewed = renewed + 1
  end
end
return renewed
