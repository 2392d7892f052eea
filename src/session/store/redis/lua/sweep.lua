-- Remove what was due by a moment, at most so many; answers how many were live until now.
settled()
local moment, most, swept = ARGV[3], ARGV[4], 0
for _, key in ipairs(redis.call('ZRANGEBYSCORE', single('a'), '-inf', moment, 'LIMIT', 0, most)) do
  swept = swept + remove(key)
end
redis.call('ZREMRANGEBYSCORE', single('t'), '-inf', moment)
return swept
