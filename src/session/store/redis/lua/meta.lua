-- What this store was divided and written by, and since when it has been kept; whoever comes first decides: schema, partitions, what
-- gateways have in common or ''.
local meta = prefix .. 'meta' .. tag
-- Before anything is read or written here: keys of tokens, sealed with another secret, would be nobody's. Heartbeats ask again.
local said = redis.call('HMGET', meta, 'silence', 'alike')
if said[1] and said[2] and ARGV[5] ~= '' and said[2] ~= ARGV[5] then
  local all = redis.call('HGETALL', single('nodes'))
  for at = 1, #all, 2 do
    local heard = string.match(all[at + 1], ' (%d+)$')
    if heard and clock() - tonumber(heard) <= tonumber(said[1]) then
      return redis.error_reply('UNLIKE ' .. said[1] .. ' ' .. said[2])
    end
  end
end
redis.call('HSETNX', meta, 'schema', ARGV[3])
redis.call('HSETNX', meta, 'partitions', ARGV[4])
local time = redis.call('TIME')
redis.call('HSETNX', meta, 'since', time[1] .. '.' .. time[2])
return redis.call('HMGET', meta, 'schema', 'partitions', 'since')
