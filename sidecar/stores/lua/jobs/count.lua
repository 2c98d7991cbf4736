-- count: count open jobs and list overdue ones.
-- Guarantee: atomic; removes only running jobs whose lease has ended; only Redis time is used.
-- KEYS[1]  open jobs of all accounts, a sorted set: id/account, instant of acceptance (µs)
-- KEYS[2]  running jobs, a sorted set: id/account, end of the lease (µs)
-- ARGV[1]  max_age_us: maximum age of an open job
-- ARGV[2]  most: maximum number of overdue jobs in the reply
-- Returns {open, now_us, running, oldest_us, …}; oldest_us: when the oldest job was accepted, 0 without jobs; then
--   id/account of each overdue job.
local now = now_us()
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', int(now))
local oldest = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
local before = int(now - tonumber(ARGV[1]))
local overdue = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', before, 'LIMIT', 0, ARGV[2])
return {
  redis.call('ZCARD', KEYS[1]), now, redis.call('ZCARD', KEYS[2]), tonumber(oldest[2] or 0), unpack(overdue),
}
