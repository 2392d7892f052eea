-- A heartbeat: node, term, place up to which it applied the log, silence in milliseconds after which others are forgotten, since when
-- the store has been kept, what gateways have in common. Answers the time of its clock, in milliseconds.
-- It is a write: a master that was cut off from its replicas still answers reads, but refuses this. Without what other scripts begin
-- with, of which it needs next to nothing: every node of every partition runs it three times a second.
local prefix, tag = ARGV[1], ARGV[2]
local node, term, applied, silence = ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[6])
local time = redis.call('TIME')
local nodes, meta, now = prefix .. 'nodes' .. tag, prefix .. 'meta' .. tag, time[1] * 1000 + math.floor(time[2] / 1000)
local whole = string.format('%.0f', now)
-- Who revokes waits for as long as the silent may serve, and knows that of itself: a node with another rule would be waited for too
-- short. Nor do gateways of another secret or mode share sessions, though each would take the other's revocations for its own.
-- Whoever is alone decides; asked here and not at the opening of a link, so that no node that lives can be missed.
local said = redis.call('HMGET', meta, 'silence', 'since', 'alike')
local agreed, alike = said[1], said[3]
-- Everything was deleted under a link that stands: what is written from here on is another store's, and nobody would look.
if said[2] ~= ARGV[7] then return redis.error_reply('EMPTIED the store was emptied') end
local other = ARGV[8] ~= '' and alike ~= ARGV[8]
if agreed ~= ARGV[6] or other then
  if agreed then
    local all = redis.call('HGETALL', nodes)
    for at = 1, #all, 2 do
      local heard = all[at] ~= node and string.match(all[at + 1], ' (%d+)$')
      if heard and now - tonumber(heard) <= math.max(silence, tonumber(agreed)) then
        if agreed ~= ARGV[6] then return redis.error_reply('RULES ' .. agreed) end
        -- Of a version that did not say it, nothing is known.
        if alike and other then return redis.error_reply('UNLIKE ' .. agreed .. ' ' .. alike) end
      end
    end
  end
  redis.call('HSET', meta, 'silence', ARGV[6])
  if other then redis.call('HSET', meta, 'alike', ARGV[8]) end
end
redis.call('HSET', nodes, node, term .. ' ' .. applied .. ' ' .. whole)
-- Looked through once a second, by whichever node comes first.
if now - tonumber(redis.call('HGET', nodes, 'looked') or '0') > 1000 then
  redis.call('HSET', nodes, 'looked', whole)
  local all = redis.call('HGETALL', nodes)
  for at = 1, #all, 2 do
    local heard = string.match(all[at + 1], '(%d+)$')
    if all[at] ~= 'looked' and now - tonumber(heard) > silence then redis.call('HDEL', nodes, all[at]) end
  end
end
return whole
