-- KEYS: one per range. ARGV: token of the owner, ttl_ms of a count, 1 to count a takeover from an owner that died, or 0.
-- Frees the leases of this owner, and keeps their counts; returns their number.
local freed = 0
for _, key in ipairs(KEYS) do
  local takeovers = takeovers_of(read(key), ARGV[1])
  -- rule: a listener frees only the leases of the owner that it names
  if takeovers then
    takeovers = takeovers + ARGV[3]
    if takeovers > 0 then
      redis.call('SET', key, '!' .. string.format('%d', takeovers), 'PX', ARGV[2])
    else
      redis.call('DEL', key)
    end
    freed = freed + 1
  end
end
return freed
