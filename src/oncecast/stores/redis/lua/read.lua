-- Comes before each script. A value of another Redis type than string counts as no value.
local function of_other_type(answer)
  if type(answer) ~= 'table' then
    return false
  end
  if not string.find(answer.err, '^WRONGTYPE') then
    error(answer.err)
  end
  return true
end
local function read(key)
  local value = redis.pcall('GET', key)
  return not of_other_type(value) and value
end
-- The number of takeovers in a lease of this owner; nil for any other value.
local function takeovers_of(value, owner)
  if value == owner then
    return 0
  end
  if value and string.find(value, owner .. '*', 1, true) == 1 then
    return tonumber(string.match(value, '^%d%d?%d?%d?%d?%d?$', #owner + 2)) or 0
  end
end
