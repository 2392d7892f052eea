-- Do once more what a failover may have lost: name, kind, whom, epoch, until, spared, over and over. What is known is passed
-- over; everything else only ever makes it more severe, so that any order and any number of times is the same.
local again = 0
for at = 3, #ARGV, 6 do
  local id, kind, whom = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local epoch, last, spared = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4]), ARGV[at + 5]
  if redis.call('EXISTS', name('d', id)) == 0 then
    local ended = 0
    if kind == 's' then
      ended, last = finish(whom, last)
    elseif kind == 'u' then
      ended = raise(whom, epoch, spared)
    elseif kind == 't' then
      last = deny(whom, last)
    else
      local stands = tonumber(redis.call('GET', single('g')) or '0')
      if epoch > stands then redis.call('SET', single('g'), whole(epoch)) end
    end
    local highest = tonumber(redis.call('GET', single('h')) or '0')
    if epoch > highest then redis.call('SET', single('h'), whole(epoch)) end
    tell(id, ended, event(kind, whom, epoch, last, spared))
    again = again + 1
  end
end
return again
