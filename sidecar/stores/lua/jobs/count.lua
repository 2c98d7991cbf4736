-- count: count open jobs, and list overdue ones.
-- Guarantee: atomic; removes only running jobs whose lease has ended, and ended jobs that have expired; only Redis time is used.
-- KEYS[1]  open jobs of all accounts, a sorted set: id/account, instant of acceptance (µs)
-- KEYS[2]  running jobs, a sorted set: id/account, end of the lease (µs)
-- KEYS[3]  sizes of the jobs of all accounts, a hash: id/account (bytes)
-- KEYS[4]  ended jobs of all accounts, a sorted set: id/account, by rank
-- ARGV[1]  max_age_us: maximum age of an open job
-- ARGV[2]  most: maximum number of overdue jobs in the reply
-- ARGV[3]  kept_us: span for which an ended job is stored
-- Returns {open, now_us, running, oldest_us, bytes, open_bytes, …}; oldest_us: when the oldest job was accepted, 0 without
--   jobs; bytes: of all jobs; open_bytes: of open ones; then id/account of each overdue job.
local now = now_us()
redis.call('ZREMRANGEBYSCORE', KEYS[2], '-inf', int(now))
forget_expired(KEYS[3], KEYS[4], now - tonumber(ARGV[3]))
local oldest = redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')
local before = int(now - tonumber(ARGV[1]))
local overdue = redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', before, 'LIMIT', 0, ARGV[2])
local sizes = redis.call('HMGET', KEYS[3], 'total', 'open')
return {
  redis.call('ZCARD', KEYS[1]), now, redis.call('ZCARD', KEYS[2]), tonumber(oldest[2] or 0),
  tonumber(sizes[1] or 0), tonumber(sizes[2] or 0), unpack(overdue),
}
