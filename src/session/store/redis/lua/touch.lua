-- Raise last-seen of records that exist: never lowers, never brings one back. Pairs of key and moment.
local told = {}
for at = 3, #ARGV, 2 do
  local key, moment = ARGV[at], tonumber(ARGV[at + 1])
  local seen, idle, ends, user = live(key)
  if seen and moment > seen then
    redis.call('HSET', name('s', key), 'l', ARGV[at + 1])
    index(key, user, math.min(moment + idle, ends))
  end
  told[#told + 1] = seen and 1 or 0
end
return told
