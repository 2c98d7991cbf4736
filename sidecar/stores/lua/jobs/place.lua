-- place: note a job that is about to be queued, if there is room for one more.
-- Guarantee: atomic; without room nothing changes; only Redis time is used.
-- KEYS[1]  the open jobs of all accounts, a sorted set: id/account, when it was noted (µs)
-- KEYS[2]  the accounts' turns, a sorted set: account, when its jobs are looked at (µs)
-- ARGV[1]  job: id/account
-- ARGV[2]  account: whose it is
-- ARGV[3]  most: how many may be open
-- ARGV[4]  grace_us: when somebody looks at the account, if nobody asks for it sooner
-- ARGV[5]  ttl_ms: how long the sets are kept after this write, milliseconds
-- Returns {1 noted | 0 no room, now_us, open}
local now = now_us()
local open = redis.call('ZCARD', KEYS[1])
if open >= tonumber(ARGV[3]) then return { 0, now, open } end
redis.call('ZADD', KEYS[1], int(now), ARGV[1])
redis.call('ZADD', KEYS[2], 'NX', int(now + tonumber(ARGV[4])), ARGV[2])
for _, name in ipairs(KEYS) do redis.call('PEXPIRE', name, ARGV[5]) end
return { 1, now, open + 1 }
