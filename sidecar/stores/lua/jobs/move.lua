-- move: renew a job's lease, requeue the job, or end it.
-- Guarantee: atomic; only by its owner, or while it waits; an ended job does not change; only Redis time is used.
-- KEYS[1]  the account's job queue, a stream with the consumer group "runners"
-- KEYS[2]  prefix of the names of its jobs' records
-- KEYS[3]  sizes of the account's jobs, a hash (bytes)
-- KEYS[4]  ended jobs of the account, a sorted set by rank
-- ARGV[1]  job: job ID
-- ARGV[2]  owner: of the job; empty: the job waits, so it has none
-- ARGV[3]  state: "running" renews the lease, "waiting" requeues the job, any other ends it
-- ARGV[4]  lease_ms: span after which another owner may claim the job, milliseconds
-- ARGV[5]  kept_ms: time to live of an ended job, milliseconds
-- ARGV[6]  most_bytes: maximum size of the account's jobs together; ended ones are dropped to keep it
-- ARGV[7]  fields: number of names and values that an ended job's record gets
-- Returns {1 moved | 0 not in that state | -1 not known, now_us, state, size, …}; state: of the job now; size: of an ended job,
--   bytes; then each job that was dropped, and its size now.
local queue, record, sizes, ended, now = KEYS[1], KEYS[2] .. ARGV[1], KEYS[3], KEYS[4], now_us()
local MOST_TARGET = 256 -- bytes of an ended job's target, which is all that is left of its request beside the method
local values = redis.call('HMGET', record, 'state', 'owner', 'entry', 'idempotency', 'target')
local state, owner, entry, key, target = values[1], values[2], values[3], values[4], values[5]
if not state then return { -1, now, '', 0 } end
local owned = state == 'waiting' and ARGV[2] == ''
if state == 'running' then owned = owner == ARGV[2] end
if not owned then return { 0, now, state, tonumber(redis.call('HGET', sizes, ARGV[1]) or 0) } end
if ARGV[3] == 'running' or ARGV[3] == 'waiting' then
  local idle = 0
  if ARGV[3] == 'waiting' then
    idle = ARGV[4]
    redis.call('HSET', record, 'state', 'waiting')
    redis.call('HDEL', record, 'owner', 'started')
    redis.call('HINCRBY', record, 'tries', -1)
  end
  redis.call('XCLAIM', queue, 'runners', 'runner', 0, entry, 'IDLE', idle, 'JUSTID')
  return { 1, now, ARGV[3], 0 }
end
redis.call('XACK', queue, 'runners', entry)
redis.call('XDEL', queue, entry)
redis.call('HSET', record, 'state', ARGV[3], 'ended', int(now))
for at = 8, 7 + tonumber(ARGV[7]), 2 do redis.call('HSET', record, ARGV[at], ARGV[at + 1]) end
redis.call('HDEL', record, 'owner', 'entry', 'body', 'fields', 'host', 'type', 'encoding', 'address')
if target and #target > MOST_TARGET then redis.call('HSET', record, 'target', string.sub(target, 1, MOST_TARGET)) end
redis.call('PEXPIRE', record, ARGV[5])
if key then redis.call('PEXPIRE', key, ARGV[5]) end
local reply = {}
forget_expired(sizes, ended, now - tonumber(ARGV[5]) * 1000)
set_size(sizes, ARGV[1], size_of(record), true, false)
redis.call('ZADD', ended, int(now), ARGV[1])
for _, name in ipairs({ sizes, ended }) do
  if redis.call('PTTL', name) < tonumber(ARGV[5]) then redis.call('PEXPIRE', name, ARGV[5]) end
end
drop_beyond(tonumber(ARGV[6]), KEYS[2], sizes, ended, reply)
local size = tonumber(redis.call('HGET', sizes, ARGV[1]) or 0)
return { 1, now, ARGV[3], size, unpack(reply) }
