-- Comes before each script. A key whose value is of another type than ours has none.
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
