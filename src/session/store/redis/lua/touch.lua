-- Raise last-seen of records that exist: never lowers, never brings one back. Pairs of key and moment.
settled()
local told = {}
for at = 3, #ARGV, 2 do
  local key, moment = ARGV[at], tonumber(ARGV[at + 1])
  local session = live(key)
  if session and moment > session.seen then
    session.seen = moment
    write(key, session)
  end
  told[#told + 1] = session and 1 or 0
end
return told
