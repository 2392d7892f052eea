-- Write a new record and end what it replaces or pushes out, in one step: key, user, record, seen, idle, ends, replaced or '-',
-- limit, name of the events. Answers the events.
settled()
local key, user, record, seen, idle, ends = ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8]
local replaced, limit, id = ARGV[9], tonumber(ARGV[10]), ARGV[11]
-- An ended session is not made again under its old id, however late its creation comes.
if redis.call('EXISTS', name('x', key)) == 1 then return redis.error_reply('ENDED the session was ended before it began') end
local told = {}

local function over(other)
  if not live(other) then return remove(other) end
  local ended, last = finish(other, 0)
  -- Each event has a name of its own, made of the one given.
  local named = string.sub(id, 1, 24) .. string.format('%08x', #told + 1)
  told[#told + 1] = tell(named, ended, event('s', other, 0, last, '-'))
end

if replaced ~= '-' then over(replaced) end
write(key, { seen = tonumber(seen), idle = tonumber(idle), ends = tonumber(ends), epoch = epoch_of(user), user = user, record = record })
if limit > 0 then
  local others = {}
  for _, other in ipairs(redis.call('ZRANGE', name('u', user), 0, -1)) do
    local session = live(other)
    if session and other ~= key then others[#others + 1] = { session.seen, other } end
  end
  table.sort(others, function(one, two)
    if one[1] ~= two[1] then return one[1] > two[1] end
    return one[2] > two[2]
  end)
  for at = limit, #others do over(others[at][2]) end
end
return told
