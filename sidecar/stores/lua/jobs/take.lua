-- take: take what is due, and hide it from others for a while.
-- Guarantee: atomic; what is taken is nobody else's until it shows again; only Redis time is used.
-- KEYS[1]  a sorted set: who, when it is due (µs)
-- ARGV[1]  most: how many are taken
-- ARGV[2]  hide_us: for how long they are hidden
-- ARGV[3]  ttl_ms: how long the set is kept after this write, milliseconds
-- Returns {count, now_us, until_us, …}; until_us: when they show again; then one for each: who.
local now = now_us()
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', int(now), 'LIMIT', 0, ARGV[1])
local hidden = now + tonumber(ARGV[2])
local reply = { #due, now, hidden }
for at, who in ipairs(due) do
  redis.call('ZADD', KEYS[1], int(hidden), who)
  reply[3 + at] = who
end
if #due > 0 then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
return reply
