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
