-- A record with what may have moved since it was written, in one round trip with both epochs: record, seen, epoch.
local session = live(ARGV[3])
if not session then return false end
return { session.record, whole(session.seen), whole(session.epoch) }
