-- A heartbeat: node, term, place up to which it applied the log, silence in milliseconds after which others are forgotten.
-- It is a write: a master that was cut off from its replicas still answers reads, but refuses this.
local node, term, applied, silence = ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6])
local nodes, now = single('nodes'), clock()
-- Who revokes waits for as long as the silent may serve, and knows that of itself: a node with another rule would be waited for too
-- short. Whoever is alone decides; asked here and not at the opening of a link, so that no node that lives can be missed.
local agreed = redis.call('HGET', single('meta'), 'silence')
if agreed ~= ARGV[6] then
  if agreed then
    local all = redis.call('HGETALL', nodes)
    for at = 1, #all, 2 do
      local heard = all[at] ~= node and string.match(all[at + 1], ' (%d+)$')
      if heard and now - tonumber(heard) <= math.max(silence, tonumber(agreed)) then
        return redis.error_reply('RULES ' .. agreed)
      end
    end
  end
  redis.call('HSET', single('meta'), 'silence', ARGV[6])
end
redis.call('HSET', nodes, node, term .. ' ' .. applied .. ' ' .. whole(now))
-- Looked through once a second, by whichever node comes first.
if now - tonumber(redis.call('HGET', nodes, 'looked') or '0') > 1000 then
  redis.call('HSET', nodes, 'looked', whole(now))
  local all = redis.call('HGETALL', nodes)
  for at = 1, #all, 2 do
    local heard = string.match(all[at + 1], '(%d+)$')
    if all[at] ~= 'looked' and now - tonumber(heard) > silence then redis.call('HDEL', nodes, all[at]) end
  end
end
return 1
