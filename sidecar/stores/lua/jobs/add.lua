-- add: queue a job of an account.
-- Guarantee: atomic; at most once per Idempotency-Key; a job that is not taken changes nothing; only Redis time is used.
-- KEYS[1]  the account's queue, a stream with the consumer group "runners"
-- KEYS[2]  the job's record, a hash
-- KEYS[3]  what its Idempotency-Key stands for; only if it has one
-- ARGV[1]  ttl_ms: how long all of it is kept, milliseconds
-- ARGV[2]  most: how many open jobs the account may have
-- ARGV[3]  job: its id
-- ARGV[4]  print: a digest of the call, for the Idempotency-Key
-- ARGV[5]  fields: how many names and values of the record follow
-- Returns {1 queued | 2 known | 0 no room, now_us, known}; known: id and print of the job that the
--   Idempotency-Key stands for, with a space between.
local queue, record, once, now = KEYS[1], KEYS[2], KEYS[3], now_us()
local known = once and redis.call('GET', once)
if known then return { 2, now, known } end
local length = redis.call('XLEN', queue)
if length >= tonumber(ARGV[2]) then return { 0, now, '' } end
local entry = redis.call('XADD', queue, '*', 'job', ARGV[3])
if length == 0 then redis.pcall('XGROUP', 'CREATE', queue, 'runners', '0') end
redis.call('HSET', record, 'state', 'waiting', 'entry', entry, 'accepted', int(now), 'tries', 0)
for at = 6, 5 + tonumber(ARGV[5]), 2 do redis.call('HSET', record, ARGV[at], ARGV[at + 1]) end
if once then
  redis.call('HSET', record, 'once', once)
  redis.call('SET', once, ARGV[3] .. ' ' .. ARGV[4], 'PX', ARGV[1])
end
redis.call('PEXPIRE', queue, ARGV[1])
redis.call('PEXPIRE', record, ARGV[1])
return { 1, now, '' }
