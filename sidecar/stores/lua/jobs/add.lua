-- add: queue a job of an account.
-- Guarantee: atomic; one job per Idempotency-Key; without room nothing changes; only Redis time is used.
-- KEYS[1]  the account's job queue, a stream with the consumer group "runners"
-- KEYS[2]  the job's record, a hash
-- KEYS[3]  the job ID and request digest of the Idempotency-Key; only if the request has one
-- ARGV[1]  ttl_ms: time to live of all three keys, milliseconds
-- ARGV[2]  most: maximum number of the account's open jobs
-- ARGV[3]  job: job ID
-- ARGV[4]  digest: of the request, for the Idempotency-Key
-- ARGV[5]  fields: number of the record's names and values that follow
-- Returns {1 queued | 2 existing | 0 no room, now_us, existing}; existing: the job ID and request digest of the
--   Idempotency-Key, separated by a space.
local queue, record, key, now = KEYS[1], KEYS[2], KEYS[3], now_us()
local existing = key and redis.call('GET', key)
if existing then return { 2, now, existing } end
local length = redis.call('XLEN', queue)
if length >= tonumber(ARGV[2]) then return { 0, now, '' } end
local entry = redis.call('XADD', queue, '*', 'job', ARGV[3])
if length == 0 then redis.pcall('XGROUP', 'CREATE', queue, 'runners', '0') end
redis.call('HSET', record, 'state', 'waiting', 'entry', entry, 'accepted', int(now), 'tries', 0)
for at = 6, 5 + tonumber(ARGV[5]), 2 do redis.call('HSET', record, ARGV[at], ARGV[at + 1]) end
if key then
  redis.call('HSET', record, 'idempotency', key)
  redis.call('SET', key, ARGV[3] .. ' ' .. ARGV[4], 'PX', ARGV[1])
end
redis.call('PEXPIRE', queue, ARGV[1])
redis.call('PEXPIRE', record, ARGV[1])
return { 1, now, '' }
