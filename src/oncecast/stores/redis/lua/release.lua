-- KEYS: one per event. ARGV: token, ttl_ms of a count. Releases the leases of this owner; returns their number.
-- An event that was taken over before keeps its count.
local released, held = 0, ARGV[1] .. '[*!]'
for _, key in ipairs(KEYS) do
  local value = read(key)
  -- rule: a listener releases only its own leases
  if value == ARGV[1] then
    redis.call('DEL', key)
    released = released + 1
  elseif value and string.find(value, held) == 1 then
    redis.call('SET', key, '!' .. string.sub(value, #ARGV[1] + 2), 'PX', ARGV[2])
    released = released + 1
  end
end
return released
