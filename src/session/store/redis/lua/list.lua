-- A user's sessions in two steps, because a long list in one would hold everybody up: the keys of all; and, where some are named, the
-- records of these – key, record, last-seen, epoch, over and over. Entries whose record is over are cut.
settled()
local user, told = ARGV[3], {}
if #ARGV == 3 then return redis.call('ZRANGE', name('u', user), 0, -1) end
local least = epoch_of(user)
for at = 4, #ARGV do
  local key = ARGV[at]
  local session = read(key)
  if session and session.epoch >= least then
    for _, part in ipairs({ key, session.record, whole(session.seen), whole(session.epoch) }) do told[#told + 1] = part end
  else
    redis.call('ZREM', name('u', user), key)
  end
end
return told
