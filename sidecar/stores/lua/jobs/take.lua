-- take: return due members of a set, and hide them for a while.
-- Guarantee: atomic; a hidden member is not due before it shows again; only Redis time is used.
-- KEYS[1]  a sorted set: member, instant at which it is due (µs)
-- ARGV[1]  most: maximum number of members
-- ARGV[2]  hide_us: span for which they are hidden
-- ARGV[3]  ttl_ms: time to live of the set after this write, milliseconds
-- Returns {count, now_us, hidden_until_us, …}; then each member.
local now = now_us()
local due = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', int(now), 'LIMIT', 0, ARGV[1])
local hidden = now + tonumber(ARGV[2])
local reply = { #due, now, hidden }
for at, member in ipairs(due) do
  redis.call('ZADD', KEYS[1], int(hidden), member)
  reply[3 + at] = member
end
if #due > 0 then redis.call('PEXPIRE', KEYS[1], ARGV[3]) end
return reply
