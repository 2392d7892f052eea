-- Write a record that another store wrote out: key, user, record, seen, idle, ends, epoch that it had there. Answers 'there' where it is
-- already, 'revoked' where it was ended here or is of an epoch that is over here, 'written' otherwise.
settled()
local key, user, record, seen, idle, ends, epoch = ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8], tonumber(ARGV[9])
if live(key) then return 'there' end
if redis.call('EXISTS', name('x', key)) == 1 or epoch < epoch_of(user) then return 'revoked' end
-- Whatever is revoked from now on is of a higher one.
if epoch > tonumber(redis.call('GET', single('h')) or '0') then redis.call('SET', single('h'), whole(epoch)) end
write(key, { seen = tonumber(seen), idle = tonumber(idle), ends = tonumber(ends), epoch = epoch, user = user, record = record })
return 'written'
