-- KEYS: one per event. ARGV: token of a dead holder, ttl_ms of a count, rescues of a suspect.
-- Frees what the dead holder has, counting the rescue. A suspect's counts only if it was being attempted, alone.
local rescued, held = 0, ARGV[1] .. '[*!]'
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
    rescued = rescued + 1
  end
end
return rescued
