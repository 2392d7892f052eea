-- Write on the shelf over the version named, '-' for none: key, version, bytes, until, now. Answers the new version.
settled()
local key, over, bytes, last, now = name('k', ARGV[3]), ARGV[4], ARGV[5], ARGV[6], tonumber(ARGV[7])
local found = redis.call('HMGET', key, 'v', 't')
local stands = '-'
if found[1] and tonumber(found[2]) > now then stands = found[1] end
if stands ~= over then return false end
-- Microseconds made strictly increasing: not given twice, not even after a failover that lost the last ones.
local version = math.max(clock() * 1000, tonumber(redis.call('GET', single('v')) or '0') + 1)
redis.call('SET', single('v'), whole(version))
redis.call('DEL', key)
redis.call('HSET', key, 'v', whole(version), 'b', bytes, 't', last)
redis.call('PEXPIREAT', key, whole(tonumber(last) + SLACK))
return whole(version)
