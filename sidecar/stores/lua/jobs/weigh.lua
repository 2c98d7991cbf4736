-- weigh: set the size of a job among the jobs of all accounts.
-- Guarantee: atomic; repeatable; only Redis time is used.
-- KEYS[1]  sizes of the jobs of all accounts, a hash: id/account (bytes)
-- KEYS[2]  ended jobs of all accounts, a sorted set: id/account, by rank
-- ARGV[1]  job: id/account
-- ARGV[2]  size: bytes; 0: the job is not stored
-- ARGV[3]  state: "ended", or "stub" for an ended job whose result is dropped
-- ARGV[4]  most_bytes: maximum size of all jobs together
-- ARGV[5]  ttl_ms: time to live of the keys after this write, milliseconds
-- Returns {1 fits | 0 over the maximum, now_us, total, …}; then id/account of ended jobs to drop.
local sizes, ended, job, now = KEYS[1], KEYS[2], ARGV[1], now_us()
local most, size = tonumber(ARGV[4]), tonumber(ARGV[2])
local rank = tonumber(redis.call('ZSCORE', ended, job) or nil)
local total = set_size(sizes, job, size, not rank, false)
if size == 0 then
  redis.call('ZREM', ended, job)
else
  rank = rank or now
  if ARGV[3] == 'stub' and rank < STUB then rank = rank + STUB end
  redis.call('ZADD', ended, int(rank), job)
end
for _, name in ipairs(KEYS) do redis.call('PEXPIRE', name, ARGV[5]) end
if total <= most then return { 1, now, total } end
return { 0, now, total, unpack(candidates(most, sizes, ended)) }
