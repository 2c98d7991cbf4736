-- wake_all: make all members of a set due soon, one after the other.
-- Guarantee: atomic; no member becomes due later than before; only Redis time is used.
-- KEYS[1]  a sorted set: member, instant at which it is due (µs)
-- ARGV[1]  within_us: span over which members are spread, in the order in which they were due
-- ARGV[2]  most: maximum number of members
-- Returns {count, now_us}
local now = now_us()
local all = redis.call('ZRANGE', KEYS[1], 0, tonumber(ARGV[2]) - 1)
for at, member in ipairs(all) do
  redis.call('ZADD', KEYS[1], 'LT', int(now + floor(tonumber(ARGV[1]) * (at - 1) / #all)), member)
end
return { #all, now }
