-- Shared by the job scripts: it precedes their text when they are loaded.
-- Sizes of jobs are in a hash: by job, and in sum as "total" and, of open jobs, as "open". Ended jobs are in a sorted set
-- by rank: the instant of the end (µs), plus STUB once the result is dropped. The lowest rank is dropped first.
local STUB, MOST_DROPPED = 4000000000000000, 64
local OVERHEAD = 3072 -- bytes that Redis needs for a job beside its names and values, measured

local function size_of(record)
  local size = OVERHEAD
  for _, name in ipairs(redis.call('HKEYS', record)) do size = size + #name + redis.call('HSTRLEN', record, name) end
  return size
end

-- Set the size of a job; 0: it has none. Return the total.
local function set_size(sizes, job, size, was_open, is_open)
  local before = tonumber(redis.call('HGET', sizes, job) or 0)
  local open = (is_open and size or 0) - (was_open and before or 0)
  if open ~= 0 and redis.call('HINCRBY', sizes, 'open', int(open)) <= 0 then redis.call('HDEL', sizes, 'open') end
  if size > 0 then redis.call('HSET', sizes, job, int(size)) else redis.call('HDEL', sizes, job) end
  return redis.call('HINCRBY', sizes, 'total', int(size - before))
end

-- Drop the result of an ended job or, if it has none, the job. Return its size now.
local function drop(records, sizes, ended, job)
  local record, size = records .. job, 0
  local rank = tonumber(redis.call('ZSCORE', ended, job))
  if rank < STUB and redis.call('HDEL', record, 'result', 'result_fields', 'result_body') > 0 then
    redis.call('HSET', record, 'dropped', 1)
    redis.call('ZADD', ended, int(rank + STUB), job)
    size = size_of(record)
  else
    local key = redis.call('HGET', record, 'idempotency')
    if key then redis.call('DEL', key) end
    redis.call('DEL', record)
    redis.call('ZREM', ended, job)
  end
  set_size(sizes, job, size)
  return size
end

-- Forget ended jobs whose records have expired.
local function forget_expired(sizes, ended, before)
  for _, from in ipairs({ 0, STUB }) do
    local range = redis.call('ZRANGEBYSCORE', ended, int(from), int(from + before), 'LIMIT', 0, MOST_DROPPED)
    for _, job in ipairs(range) do
      redis.call('ZREM', ended, job)
      set_size(sizes, job, 0)
    end
  end
end

-- Drop ended jobs until the sizes are at most `most`; `dropped` gets each job and its size now.
local function drop_beyond(most, records, sizes, ended, dropped)
  while tonumber(redis.call('HGET', sizes, 'total') or 0) > most and #dropped < 2 * MOST_DROPPED do
    local job = redis.call('ZRANGE', ended, 0, 0)[1]
    if not job then return end
    local size = drop(records, sizes, ended, job)
    dropped[#dropped + 1] = job
    dropped[#dropped + 1] = size
  end
end

-- Return the ended jobs with the lowest ranks whose end would bring the sizes down to `most`.
local function candidates(most, sizes, ended)
  local found, total = {}, tonumber(redis.call('HGET', sizes, 'total') or 0)
  if tonumber(redis.call('HGET', sizes, 'open') or 0) > most then return found end
  for _, job in ipairs(redis.call('ZRANGE', ended, 0, MOST_DROPPED - 1)) do
    if total <= most then break end
    total = total - tonumber(redis.call('HGET', sizes, job) or 0)
    found[#found + 1] = job
  end
  return found
end

