-- KEYS: one per event. ARGV: token of a dead owner, ttl_ms of a count, takeovers from which an event is quarantined.
-- Frees the leases of the dead owner, and counts the takeovers. Of a quarantined event it counts only if it was running.
local freed, held = 0, ARGV[1] .. '[*!]'
for _, key in ipairs(KEYS) do
  local value = read(key)
  local count
  if value == ARGV[1] then
    count = 1
  elseif value and string.find(value, held) == 1 then
    count = tonumber(string.match(value, '^%d%d?%d?%d?%d?%d?$', #ARGV[1] + 2)) or 0
    -- rule: a process that dies charges a quarantined event only if it was running
    if count < tonumber(ARGV[3]) or string.sub(value, #ARGV[1] + 1, #ARGV[1] + 1) == '!' then
      count = count + 1
    end
  end
  if count then
    redis.call('SET', key, '!' .. count, 'PX', ARGV[2])
    freed = freed + 1
  end
end
return freed
