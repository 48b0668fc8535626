-- KEYS: one event. ARGV: token, `*` or `!`, the other of these. Our own lease of a suspect says whether it is being
-- attempted, alone.
local value = read(KEYS[1])
if value and string.find(value, ARGV[1] .. ARGV[2], 1, true) == 1 then
  redis.call('SET', KEYS[1], ARGV[1] .. ARGV[3] .. string.sub(value, #ARGV[1] + 2), 'KEEPTTL')
  return 1
end
return 0
