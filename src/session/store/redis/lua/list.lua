-- A user's records: key, record, last-seen, epoch, over and over. Entries whose record expired are cut.
local user, told = ARGV[3], {}
for _, key in ipairs(redis.call('ZRANGE', name('u', user), 0, -1)) do
  if live(key) then
    local found = redis.call('HMGET', name('s', key), 'r', 'l', 'e')
    for _, part in ipairs({ key, found[1], found[2], found[3] }) do told[#told + 1] = part end
  else
    redis.call('ZREM', name('u', user), key)
  end
end
return told
