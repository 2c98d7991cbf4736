-- move: renew a job's lease, requeue the job, or end it.
-- Guarantee: atomic; only by its owner, or while it waits; an ended job does not change; only Redis time is used.
-- KEYS[1]  the account's job queue, a stream with the consumer group "runners"
-- KEYS[2]  the job's record, a hash
-- ARGV[1]  owner: of the job; empty: the job waits, so it has none
-- ARGV[2]  state: "running" renews the lease, "waiting" requeues the job, any other ends it
-- ARGV[3]  lease_ms: span after which another owner may claim the job, milliseconds
-- ARGV[4]  kept_ms: time to live of an ended job, milliseconds
-- ARGV[5]  fields: number of names and values that an ended job's record gets
-- Returns {1 moved | 0 not in that state | -1 not known, now_us, state}; state: of the job now.
local queue, record, now = KEYS[1], KEYS[2], now_us()
local values = redis.call('HMGET', record, 'state', 'owner', 'entry', 'idempotency')
local state, owner, entry, key = values[1], values[2], values[3], values[4]
if not state then return { -1, now, '' } end
local owned = state == 'waiting' and ARGV[1] == ''
if state == 'running' then owned = owner == ARGV[1] end
if not owned then return { 0, now, state } end
if ARGV[2] == 'running' or ARGV[2] == 'waiting' then
  local idle = 0
  if ARGV[2] == 'waiting' then
    idle = ARGV[3]
    redis.call('HSET', record, 'state', 'waiting')
    redis.call('HDEL', record, 'owner', 'started')
    redis.call('HINCRBY', record, 'tries', -1)
  end
  redis.call('XCLAIM', queue, 'runners', 'runner', 0, entry, 'IDLE', idle, 'JUSTID')
  return { 1, now, ARGV[2] }
end
redis.call('XACK', queue, 'runners', entry)
redis.call('XDEL', queue, entry)
redis.call('HSET', record, 'state', ARGV[2], 'ended', int(now))
for at = 6, 5 + tonumber(ARGV[5]), 2 do redis.call('HSET', record, ARGV[at], ARGV[at + 1]) end
redis.call('HDEL', record, 'owner', 'body', 'fields', 'host')
redis.call('PEXPIRE', record, ARGV[4])
if key then redis.call('PEXPIRE', key, ARGV[4]) end
return { 1, now, ARGV[2] }
