-- A record with what may have moved since it was written, in one round trip with both epochs.
local key = ARGV[3]
if not live(key) then return false end
return redis.call('HMGET', name('s', key), 'r', 'l', 'e')
