-- Carry out a revocation and tell it: name, kind, whom or '-', until, spared or '-'. Kinds: s a session, u a user's sessions but
-- for the spared one, g everybody's, t a token; r a session that was replaced, of which nothing is told where it is over. Answers where the log has it, how many sessions were live, and the event.
settled()
local id, kind, whom, last, spared = ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6]), ARGV[7]
local known = redis.call('GET', name('d', id))
if known then
  -- Written again all the same: whoever waits for a replica waits for this, as what it repeats may stand on this server alone.
  redis.call('SET', name('d', id), known, 'PX', whole(HORIZON))
  return known
end
if kind == 'r' then
  if not live(whom) then return false end
  kind = 's'
end
if kind == 's' then
  local ended, stands = finish(whom, 0)
  return tell(id, ended, event(kind, whom, 0, stands, '-'))
end
if kind == 'u' then
  local epoch = next_epoch()
  return tell(id, raise(whom, epoch, spared), event(kind, whom, epoch, 0, spared))
end
if kind == 't' then
  return tell(id, 0, event(kind, whom, 0, deny(whom, last), '-'))
end
-- Everybody: records of an older epoch no longer count, and expire by themselves; nothing is looked through.
local ended, epoch = redis.call('ZCARD', single('a')), next_epoch()
redis.call('UNLINK', single('a'))
redis.call('SET', single('g'), whole(epoch))
return tell(id, ended, event(kind, '-', epoch, 0, '-'))
