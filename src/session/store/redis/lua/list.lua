-- A user's records: key, record, last-seen, epoch, over and over. Entries whose record is over are cut.
settled()
local user, told = ARGV[3], {}
for _, key in ipairs(redis.call('ZRANGE', name('u', user), 0, -1)) do
  local session = live(key)
  if session then
    for _, part in ipairs({ key, session.record, whole(session.seen), whole(session.epoch) }) do told[#told + 1] = part end
  else
    redis.call('ZREM', name('u', user), key)
  end
end
return told
