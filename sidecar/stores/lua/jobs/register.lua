-- register: register a job that is about to be queued, if there is room.
-- Guarantee: atomic; without room nothing changes; only Redis time is used.
-- KEYS[1]  open jobs of all accounts, a sorted set: id/account, instant of registration (µs)
-- KEYS[2]  accounts with jobs, a sorted set: account, instant at which it is due (µs)
-- KEYS[3]  sizes of the jobs of all accounts, a hash: id/account (bytes)
-- KEYS[4]  ended jobs of all accounts, a sorted set: id/account, by rank
-- ARGV[1]  job: id/account
-- ARGV[2]  account: its ID
-- ARGV[3]  most: maximum number of open jobs
-- ARGV[4]  most_bytes: maximum size of all jobs together
-- ARGV[5]  size: of the job, bytes
-- ARGV[6]  grace_us: span after which the account is due, unless it is due sooner
-- ARGV[7]  ttl_ms: time to live of the keys after this write, milliseconds
-- Returns {1 registered | 0 no room | -1 no bytes, now_us, open, …}; then, without bytes, id/account of ended jobs that make
--   room if they are dropped; none if open jobs need it all.
local now, sizes, ended = now_us(), KEYS[3], KEYS[4]
local most, size = tonumber(ARGV[4]), tonumber(ARGV[5])
local open = redis.call('ZCARD', KEYS[1])
if open >= tonumber(ARGV[3]) then return { 0, now, open } end
if tonumber(redis.call('HGET', sizes, 'total') or 0) + size > most then
  return { -1, now, open, unpack(candidates(most - size, sizes, ended)) }
end
set_size(sizes, ARGV[1], size, false, true)
redis.call('ZADD', KEYS[1], int(now), ARGV[1])
redis.call('ZADD', KEYS[2], 'NX', int(now + tonumber(ARGV[6])), ARGV[2])
for _, name in ipairs(KEYS) do redis.call('PEXPIRE', name, ARGV[7]) end
return { 1, now, open + 1 }
