-- What this store was divided and written by, and since when it has been kept; whoever comes first decides.
local meta = prefix .. 'meta' .. tag
redis.call('HSETNX', meta, 'schema', ARGV[3])
redis.call('HSETNX', meta, 'partitions', ARGV[4])
local time = redis.call('TIME')
redis.call('HSETNX', meta, 'since', time[1] .. '.' .. time[2])
return redis.call('HMGET', meta, 'schema', 'partitions', 'since')
