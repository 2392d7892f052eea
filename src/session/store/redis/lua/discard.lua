-- Take from the shelf what has this version: key, version. Answers whether it was there.
settled()
local key = name('k', ARGV[3])
if redis.call('HGET', key, 'v') ~= ARGV[4] then return 0 end
return redis.call('DEL', key)
