-- KEYS: one per range. ARGV: token, ttl_ms. Extends the leases of this owner to ttl_ms from now.
for _, key in ipairs(KEYS) do
  if takeovers_of(read(key), ARGV[1]) then
    redis.call('PEXPIRE', key, ARGV[2])
  end
end
