-- KEYS: one event. ARGV: token, `*` or `!`, the other of these. Records in the owner's lease of a quarantined event
-- whether it runs alone now.
local value = read(KEYS[1])
if value and string.find(value, ARGV[1] .. ARGV[2], 1, true) == 1 then
  redis.call('SET', KEYS[1], ARGV[1] .. ARGV[3] .. string.sub(value, #ARGV[1] + 2), 'KEEPTTL')
  return 1
end
return 0
