-- trim: drop the result of an ended job or, if it has none, the job.
-- Guarantee: atomic; an open job does not change; only Redis time is used.
-- KEYS[1]  prefix of the names of the account's jobs' records
-- KEYS[2]  sizes of the account's jobs, a hash (bytes)
-- KEYS[3]  ended jobs of the account, a sorted set by rank
-- ARGV[1]  job: job ID
-- Returns {1 dropped | 0 not an ended job, now_us, size}; size: of the job now, bytes; 0: it is not stored.
local now = now_us()
if not redis.call('ZSCORE', KEYS[3], ARGV[1]) then return { 0, now, 0 } end
return { 1, now, drop(KEYS[1], KEYS[2], KEYS[3], ARGV[1]) }
