-- claim: claim the account's next job for an owner.
-- Guarantee: atomic; a job has one owner until its lease ends; order of acceptance, after jobs that were requeued or whose lease has ended; only Redis time is used.
-- KEYS[1]  the account's job queue, a stream with the consumer group "runners"
-- KEYS[2]  prefix of the names of its jobs' records
-- ARGV[1]  owner: name of this claim
-- ARGV[2]  lease_ms: span of the job lease, milliseconds
-- Returns {1 claimed | 2 claimed after a lost lease | 0 nothing to claim, now_us, open, job, record}; open: number of jobs
--   in the queue, this one included; record: its names and values.
local queue, now = KEYS[1], now_us()
local GROUP_NAME, CONSUMER, MAX_ENTRIES = 'runners', 'runner', 16
if redis.call('EXISTS', queue) == 0 then return { 0, now, 0, '', {} } end

local function next_entry()
  local idle = redis.call('XPENDING', queue, GROUP_NAME, 'IDLE', ARGV[2], '-', '+', 1)
  if idle[1] then return redis.call('XCLAIM', queue, GROUP_NAME, CONSUMER, 0, idle[1][1])[1], idle[1][1] end
  local read = redis.call('XREADGROUP', 'GROUP', GROUP_NAME, CONSUMER, 'COUNT', 1, 'STREAMS', queue, '>')
  if read then return read[1][2][1], read[1][2][1][1] end
end

for _ = 1, MAX_ENTRIES do
  local entry, id = next_entry()
  if not id then break end
  local job = entry and entry[2] and entry[2][2]
  local record = KEYS[2] .. (job or '')
  local state = job and redis.call('HGET', record, 'state')
  if state == 'waiting' or state == 'running' then
    redis.call('HSET', record, 'state', 'running', 'owner', ARGV[1], 'started', int(now))
    redis.call('HINCRBY', record, 'tries', 1)
    local open, flat = redis.call('XLEN', queue), redis.call('HGETALL', record)
    return { state == 'running' and 2 or 1, now, open, job, flat }
  end
  redis.call('XACK', queue, GROUP_NAME, id) -- its record has expired
  redis.call('XDEL', queue, id)
end
return { 0, now, redis.call('XLEN', queue), '', {} }
