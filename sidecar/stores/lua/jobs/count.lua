-- count: how many jobs there are, and which have waited for too long.
-- Guarantee: atomic; forgets only runs whose lease is over; only Redis time is used.
-- KEYS[1]  the open jobs of all accounts, a sorted set: id/account, when it was accepted (µs)
-- KEYS[2]  those that run, a sorted set: id/account, until when its owner is believed in (µs)
-- ARGV[1]  max_age_us: for how long a job may be open
-- ARGV[2]  most: how many overdue ones are told
-- Returns {open, now_us, running, oldest_us, …}; oldest_us: when the oldest was accepted, 0 without any; then one for
--   each that is overdue: id/account.
local now = now_us()
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', int(now))
local oldest = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
local before = int(now - tonumber(ARGV[1]))
local overdue = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', before, 'LIMIT', 0, ARGV[2])
return {
  redis.call('ZCARD', KEYS[1]), now, redis.call('ZCARD', KEYS[2]), tonumber(oldest[2] or 0), unpack(overdue),
}
