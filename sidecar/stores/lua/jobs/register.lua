-- register: register a job that is about to be queued, if there is room.
-- Guarantee: atomic; without room nothing changes; only Redis time is used.
-- KEYS[1]  open jobs of all accounts, a sorted set: id/account, instant of registration (µs)
-- KEYS[2]  accounts with jobs, a sorted set: account, instant at which it is due (µs)
-- ARGV[1]  job: id/account
-- ARGV[2]  account: its ID
-- ARGV[3]  most: maximum number of open jobs
-- ARGV[4]  grace_us: span after which the account is due, unless it is due sooner
-- ARGV[5]  ttl_ms: time to live of the sets after this write, milliseconds
-- Returns {1 registered | 0 no room, now_us, open}
local now = now_us()
local open = redis.call('ZCARD', KEYS[1])
if open >= tonumber(ARGV[3]) then return { 0, now, open } end
redis.call('ZADD', KEYS[1], int(now), ARGV[1])
redis.call('ZADD', KEYS[2], 'NX', int(now + tonumber(ARGV[4])), ARGV[2])
for _, name in ipairs(KEYS) do redis.call('PEXPIRE', name, ARGV[5]) end
return { 1, now, open + 1 }
