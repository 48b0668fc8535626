-- KEYS: one per range. ARGV: token, ttl_ms. Replaces the leases of this owner by done markers; leaves other leases and
-- missing ones unchanged.
for _, key in ipairs(KEYS) do
  -- rule: a listener replaces only its own leases by done markers
  if takeovers_of(read(key), ARGV[1]) then
    redis.call('SET', key, '=', 'PX', ARGV[2])
  end
end
