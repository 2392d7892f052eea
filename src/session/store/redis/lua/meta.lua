-- What this store was divided and written by; whoever comes first decides.
local meta = prefix .. 'meta' .. tag
redis.call('HSETNX', meta, 'schema', ARGV[3])
redis.call('HSETNX', meta, 'partitions', ARGV[4])
return redis.call('HMGET', meta, 'schema', 'partitions')
