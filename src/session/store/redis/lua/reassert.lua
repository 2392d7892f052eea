-- Do once more what a failover may have lost: name, kind, whom, epoch, until, spared, over and over. What is true here already
-- is passed over – judged by tombstone and epoch, not by the name: the same revocation may have been submitted again since, and
-- have got a lower epoch than the one that was lost. Everything only ever becomes more severe, in any order, any number of times.
-- So nobody is spared: a record that was lifted here might be one that a revocation, lost with this one, had ended. And the name
-- is not kept: whoever submits this revocation itself again gets an epoch above everything that was lifted since.
settled()
local again = 0
for at = 3, #ARGV, 6 do
  local id, kind, whom = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  local epoch, last, spared = tonumber(ARGV[at + 3]), tonumber(ARGV[at + 4]), ARGV[at + 5]
  local ended = nil
  if kind == 's' then
    local stands = tonumber(redis.call('GET', name('x', whom)) or '0')
    if stands < last or redis.call('EXISTS', name('s', whom)) == 1 then ended, last = finish(whom, last) end
  elseif kind == 'u' then
    if tonumber(redis.call('ZSCORE', single('n'), whom) or '0') < epoch then ended = raise(whom, epoch, '-') end
  elseif kind == 't' then
    if tonumber(redis.call('ZSCORE', single('t'), whom) or '0') < last then ended, last = 0, deny(whom, last) end
  elseif tonumber(redis.call('GET', single('g')) or '0') < epoch then
    redis.call('SET', single('g'), whole(epoch))
    ended = 0
  end
  if ended then
    if epoch > tonumber(redis.call('GET', single('h')) or '0') then redis.call('SET', single('h'), whole(epoch)) end
    log(id, event(kind, whom, epoch, last, spared))
    again = again + 1
  end
end
return again
