-- What every script begins with. All keys of a script carry one hash tag, so that a cluster keeps them in one slot.
--   s session · u a user's sessions by due · a all sessions by due · x tombstone · n users' epochs · g everybody's epoch
--   h highest epoch given · t denied tokens · k shelf · v highest version given · rl log · d what a revocation was answered
--   nodes who holds a lease
local prefix, tag = ARGV[1], ARGV[2]

-- A record outlives its due by this much, in milliseconds: nodes compare the limits themselves, and their clocks may differ.
local SLACK = 60000
-- How long an event stays in the log, and its name known: whoever was away for longer starts over.
local HORIZON = 3600000
-- How long an epoch is remembered: tokens of other makers may live for days.
local EPOCHS_KEPT = 30 * 86400000
-- Names in one command.
local AT_ONCE = 1000
-- How long a tombstone stands where no record says how long the session could have lived.
local UNKNOWN_ENDS = 3600000

local function name(kind, id)
  return prefix .. kind .. tag .. ':' .. id
end

local function single(kind)
  return prefix .. kind .. tag
end

local function whole(number)
  return string.format('%.0f', number)
end

-- What every script that writes begins with. While a slot of a cluster moves, half of what belongs together is on another master, and
-- a script ends with an error at the first key that is not here any more: in the middle, had it written something before. The
-- server refuses this name, which is nowhere, before anything is written.
local function settled()
  redis.call('EXISTS', single('-'))
end

local function clock()
  local time = redis.call('TIME')
  return time[1] * 1000 + math.floor(time[2] / 1000)
end

-- Milliseconds made strictly increasing, so that one which was forgotten is never given again.
local function next_epoch()
  local epoch = math.max(clock(), tonumber(redis.call('GET', single('h')) or '0') + 1)
  redis.call('SET', single('h'), whole(epoch))
  return epoch
end

-- The epoch below which a user's sessions are over.
local function epoch_of(user)
  local mine = tonumber(redis.call('ZSCORE', single('n'), user) or '0')
  return math.max(mine, tonumber(redis.call('GET', single('g')) or '0'))
end

-- A record is one text – seen, idle, ends, epoch, user, and what nodes wrote – because a hash of these would take twice the memory.
local function read(key)
  local value = redis.call('GET', name('s', key))
  if not value then return nil end
  local seen, idle, ends, epoch, user, from = string.match(value, '^(%d+) (%d+) (%d+) (%d+) (%x+) ()')
  return { seen = tonumber(seen), idle = tonumber(idle), ends = tonumber(ends), epoch = tonumber(epoch), user = user,
    record = string.sub(value, from) }
end

-- The record, if its epoch still counts.
local function live(key)
  local session = read(key)
  if session and session.epoch >= epoch_of(session.user) then return session end
end

-- Write a record and its index entries. The user's index goes with its last member.
local function write(key, session)
  local due = math.min(session.seen + session.idle, session.ends)
  local head = { whole(session.seen), whole(session.idle), whole(session.ends), whole(session.epoch), session.user, session.record }
  redis.call('SET', name('s', key), table.concat(head, ' '), 'PXAT', whole(due + SLACK))
  redis.call('ZADD', name('u', session.user), whole(due), key)
  redis.call('ZADD', single('a'), whole(due), key)
  local latest = redis.call('ZREVRANGE', name('u', session.user), 0, 0, 'WITHSCORES')
  redis.call('PEXPIREAT', name('u', session.user), whole(tonumber(latest[2]) + SLACK))
end

-- Delete a record and its index entries; 1 where it was live.
local function remove(key)
  local session, alive = read(key), live(key)
  redis.call('DEL', name('s', key))
  redis.call('ZREM', single('a'), key)
  if session then redis.call('ZREM', name('u', session.user), key) end
  return alive and 1 or 0
end

-- End a session: no record, and a tombstone for the rest of the life it could have had. Answers 1 where it was live, and the
-- tombstone's end.
local function finish(key, least)
  local session = read(key)
  local ends = session and session.ends or clock() + UNKNOWN_ENDS
  local last = math.max(ends, tonumber(redis.call('GET', name('x', key)) or '0'), least)
  redis.call('SET', name('x', key), whole(last), 'PXAT', whole(math.max(last, clock() + SLACK)))
  return remove(key), last
end

-- End a user's sessions of an older epoch and lift the spared one to it. Answers how many were live.
local function raise(user, epoch, spared)
  local doomed, ended, least = {}, 0, epoch_of(user)
  for _, key in ipairs(redis.call('ZRANGE', name('u', user), 0, -1)) do
    local session = read(key)
    local alive = session and session.epoch >= least
    if key == spared then
      if alive and session.epoch < epoch then
        session.epoch = epoch
        write(key, session)
      end
    elseif not session or session.epoch < epoch then
      doomed[#doomed + 1] = key
      if alive then ended = ended + 1 end
    end
  end
  redis.call('ZADD', single('n'), 'GT', whole(epoch), user)
  redis.call('ZREMRANGEBYSCORE', single('n'), '-inf', whole(clock() - EPOCHS_KEPT))
  -- Many at a time: while this runs, nobody's heartbeat is written.
  for from = 1, #doomed, AT_ONCE do
    local keys = { unpack(doomed, from, math.min(from + AT_ONCE - 1, #doomed)) }
    redis.call('ZREM', single('a'), unpack(keys))
    redis.call('ZREM', name('u', user), unpack(keys))
    for at, key in ipairs(keys) do keys[at] = name('s', key) end
    redis.call('DEL', unpack(keys))
  end
  return ended
end

-- Deny a token until it would have ended by itself.
local function deny(token, last)
  redis.call('ZREMRANGEBYSCORE', single('t'), '-inf', whole(clock()))
  redis.call('ZADD', single('t'), 'GT', whole(last), token)
  return tonumber(redis.call('ZSCORE', single('t'), token))
end

-- An event as text: kind, whom, epoch, until, spared.
local function event(kind, whom, epoch, last, spared)
  return kind .. ' ' .. whom .. ' ' .. whole(epoch) .. ' ' .. whole(last) .. ' ' .. spared
end

-- Tell all nodes.
local function log(id, text)
  return redis.call('XADD', single('rl'), 'MINID', '~', whole(clock() - HORIZON), '*', 'u', id, 'e', text)
end

-- Tell all nodes, and keep what was answered for whoever asks again under the same name.
local function tell(id, ended, text)
  local answer = log(id, text) .. ' ' .. whole(ended) .. ' ' .. text
  redis.call('SET', name('d', id), answer, 'PX', whole(HORIZON))
  return answer
end
