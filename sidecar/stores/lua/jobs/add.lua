-- add: queue a job of an account.
-- Guarantee: atomic; one job per Idempotency-Key; without room nothing changes; only Redis time is used.
-- KEYS[1]  the account's job queue, a stream with the consumer group "runners"
-- KEYS[2]  prefix of the names of its jobs' records
-- KEYS[3]  sizes of the account's jobs, a hash (bytes)
-- KEYS[4]  ended jobs of the account, a sorted set by rank
-- KEYS[5]  the job ID and request digest of the Idempotency-Key; only if the request has one
-- ARGV[1]  ttl_ms: time to live of all keys, milliseconds
-- ARGV[2]  most: maximum number of the account's open jobs
-- ARGV[3]  most_bytes: maximum size of the account's jobs together; ended ones are dropped to make room
-- ARGV[4]  kept_us: span for which an ended job is stored
-- ARGV[5]  size: of the job, bytes
-- ARGV[6]  job: job ID
-- ARGV[7]  digest: of the request, for the Idempotency-Key
-- ARGV[8]  fields: number of the record's names and values that follow
-- Returns {1 queued | 2 existing | 0 no room | -1 no bytes, now_us, existing, …}; existing: the job ID and request digest
--   of the Idempotency-Key, separated by a space; then each job that was dropped, and its size now.
local queue, record, sizes, ended, key, now = KEYS[1], KEYS[2] .. ARGV[6], KEYS[3], KEYS[4], KEYS[5], now_us()
local most, size = tonumber(ARGV[3]), tonumber(ARGV[5])
local existing = key and redis.call('GET', key)
if existing then return { 2, now, existing } end
local length = redis.call('XLEN', queue)
if length >= tonumber(ARGV[2]) then return { 0, now, '' } end
if tonumber(redis.call('HGET', sizes, 'open') or 0) + size > most then return { -1, now, '' } end
local reply = {}
forget_expired(sizes, ended, now - tonumber(ARGV[4]))
drop_beyond(most - size, KEYS[2], sizes, ended, reply)
if set_size(sizes, ARGV[6], size, false, true) > most then -- more to drop than one run drops
  set_size(sizes, ARGV[6], 0, true, false)
  return { -1, now, '', unpack(reply) }
end
local entry = redis.call('XADD', queue, '*', 'job', ARGV[6])
if length == 0 then redis.pcall('XGROUP', 'CREATE', queue, 'runners', '0') end
redis.call('HSET', record, 'state', 'waiting', 'entry', entry, 'accepted', int(now), 'tries', 0)
for at = 9, 8 + tonumber(ARGV[8]), 2 do redis.call('HSET', record, ARGV[at], ARGV[at + 1]) end
if key then
  redis.call('HSET', record, 'idempotency', key)
  redis.call('SET', key, ARGV[6] .. ' ' .. ARGV[7], 'PX', ARGV[1])
end
for _, name in ipairs({ queue, record, sizes, ended }) do redis.call('PEXPIRE', name, ARGV[1]) end
return { 1, now, '', unpack(reply) }
