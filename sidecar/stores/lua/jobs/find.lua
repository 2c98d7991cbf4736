-- find: read a job and its position.
-- Guarantee: atomic; changes nothing; only Redis time is used.
-- KEYS[1]  the account's job queue, a stream
-- KEYS[2]  the job's record, a hash
-- Returns {1 found | 0 not known, now_us, position, record}; position: 1 for the first in the queue, 0
--   for an ended job; record: names and values, without the request's body.
local queue, record, now = KEYS[1], KEYS[2], now_us()
local names = {}
for _, name in ipairs(redis.call('HKEYS', record)) do
  if name ~= 'body' then names[#names + 1] = name end
end
if #names == 0 then return { 0, now, 0, {} } end
local values, flat, position = redis.call('HMGET', record, unpack(names)), {}, 0
for at, name in ipairs(names) do
  flat[#flat + 1] = name
  flat[#flat + 1] = values[at]
  if name == 'entry' then position = #redis.call('XRANGE', queue, '-', values[at]) end
end
local state = redis.call('HGET', record, 'state')
if state ~= 'waiting' and state ~= 'running' then position = 0 end
return { 1, now, position, flat }
