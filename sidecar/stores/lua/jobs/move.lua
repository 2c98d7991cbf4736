-- move: renew a job's lease, give the job back, or end it.
-- Guarantee: atomic; only by its owner, or while nobody owns it; an ended job stays as it is; only Redis time is used.
-- KEYS[1]  the account's queue, a stream with the consumer group "runners"
-- KEYS[2]  the job's record, a hash
-- ARGV[1]  owner: of the job; empty: it has none, since it waits
-- ARGV[2]  state: "running" renews the lease, "waiting" gives the job back, any other ends it
-- ARGV[3]  lease_ms: after which a job may be claimed by another, milliseconds
-- ARGV[4]  kept_ms: how long an ended job is kept, milliseconds
-- ARGV[5]  fields: how many names and values of an ended job's record follow
-- Returns {1 moved | 0 not in that state | -1 not known, now_us, state}; state: in which the job is now.
local queue, record, now = KEYS[1], KEYS[2], now_us()
local kept = redis.call('HMGET', record, 'state', 'owner', 'entry', 'once')
local state, owner, entry, once = kept[1], kept[2], kept[3], kept[4]
if not state then return { -1, now, '' } end
local mine = state == 'waiting' and ARGV[1] == ''
if state == 'running' then mine = owner == ARGV[1] end
if not mine then return { 0, now, state } end
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
if once then redis.call('PEXPIRE', once, ARGV[4]) end
return { 1, now, ARGV[2] }
