-- KEYS: one per event. ARGV: token. Frees what this holder still has; answers how many.
local released = 0
for _, key in ipairs(KEYS) do
  if redis.call('GET', key) == ARGV[1] then
    redis.call('DEL', key)
    released = released + 1
  end
end
return released
