-- claim: make the account's next job one's own.
-- Guarantee: atomic; a job has one owner, until its lease is over; in the order of acceptance, and first those that were given back or whose owner is gone; only Redis time is used.
-- KEYS[1]  the account's queue, a stream with the consumer group "runners"
-- KEYS[2]  what the names of its jobs' records begin with
-- ARGV[1]  owner: names this claim
-- ARGV[2]  lease_ms: until when the owner is believed to be alive, from now on, milliseconds
-- Returns {1 claimed | 2 claimed from an owner that is gone | 0 nothing to claim, now_us, open, job, record}; open: jobs
--   in the queue, this one included; record: its names and values.
local queue, now = KEYS[1], now_us()
local GROUP_NAME, CONSUMER, LOOKS = 'runners', 'runner', 16
if redis.call('EXISTS', queue) == 0 then return { 0, now, 0, '', {} } end

local function next_entry()
  local idle = redis.call('XPENDING', queue, GROUP_NAME, 'IDLE', ARGV[2], '-', '+', 1)
  if idle[1] then return redis.call('XCLAIM', queue, GROUP_NAME, CONSUMER, 0, idle[1][1])[1], idle[1][1] end
  local read = redis.call('XREADGROUP', 'GROUP', GROUP_NAME, CONSUMER, 'COUNT', 1, 'STREAMS', queue, '>')
  if read then return read[1][2][1], read[1][2][1][1] end
end

for _ = 1, LOOKS do
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
  redis.call('XACK', queue, GROUP_NAME, id) -- its record is gone
  redis.call('XDEL', queue, id)
end
return { 0, now, redis.call('XLEN', queue), '', {} }
