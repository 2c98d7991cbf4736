-- hurry: have all that is in a set due soon, one after the other.
-- Guarantee: atomic; nothing becomes due later than it was; only Redis time is used.
-- KEYS[1]  a sorted set: who, when it is due (µs)
-- ARGV[1]  within_us: the span over which they are spread, in the order in which they were due
-- ARGV[2]  most: how many are hurried
-- Returns {count, now_us}
local now = now_us()
local all = redis.call('ZRANGE', KEYS[1], 0, tonumber(ARGV[2]) - 1)
for at, who in ipairs(all) do
  redis.call('ZADD', KEYS[1], 'LT', int(now + floor(tonumber(ARGV[1]) * (at - 1) / #all)), who)
end
return { #all, now }
