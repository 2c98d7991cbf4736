-- take: list accounts whose outbox may have records, if the lease is free or the owner's.
-- Guarantee: atomic; one owner has the lease at a time; only Redis time is used.
-- KEYS[1]  the lease, a string
-- KEYS[2]  accounts with an outbox, a sorted set: last announcement (µs)
-- ARGV[1]  owner: the sidecar that asks
-- ARGV[2]  lease_ms: length of the lease from now on, milliseconds
-- ARGV[3]  start_us: accounts that were announced at this instant or later
-- ARGV[4]  most: maximum number of accounts
-- Returns {1 taken | 0 another sidecar has the lease, now_us, account, announced_us, …}; the earliest announcement first.
local now, owner = now_us(), redis.call('GET', KEYS[1])
if owner and owner ~= ARGV[1] then return { 0, now } end
redis.call('SET', KEYS[1], ARGV[1], 'PX', ARGV[2])
local out = { 1, now }
local found = redis.call('ZRANGEBYSCORE', KEYS[2], ARGV[3], '+inf', 'WITHSCORES', 'LIMIT', 0, ARGV[4])
for k = 1, #found, 2 do
  out[k + 2], out[k + 3] = found[k], tonumber(found[k + 1])
end
return out
