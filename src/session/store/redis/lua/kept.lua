-- A record on the shelf: version, bytes, until.
local found = redis.call('HMGET', name('k', ARGV[3]), 'v', 'b', 't')
if not found[1] then return false end
return found
