-- beat: record that this sidecar is alive, and count the sidecars.
-- Guarantee: atomic; a sidecar without heartbeats is removed after its lifetime; only Redis time is used.
-- KEYS[1]  the running sidecars, a sorted set: id, last heartbeat (µs)
-- KEYS[2]  those with uncharged requests, a sorted set: the same
-- ARGV[1]  id of this sidecar
-- ARGV[2]  state: "charged", "uncharged" or "leaving"
-- ARGV[3]  lifetime_us: how long a sidecar counts as alive after a heartbeat, microseconds
-- ARGV[4]  since_us: ready are only sidecars with a heartbeat after this, Redis time
-- Returns {number of running sidecars, now_us, ready}; ready: number of those without uncharged requests.
local now = now_us()
local oldest, ttl = int(now - tonumber(ARGV[3])), ceil(tonumber(ARGV[3]) / 1000)
local member = { true, ARGV[2] == 'uncharged' }
for k, name in ipairs(KEYS) do
  -- ZADD comes first: without free memory, Redis refuses it, and nothing is written.
  if member[k] and ARGV[2] ~= 'leaving' then
    redis.call('ZADD', name, int(now), ARGV[1])
    redis.call('PEXPIRE', name, ttl)
  else
    redis.call('ZREM', name, ARGV[1])
  end
  redis.call('ZREMRANGEBYSCORE', name, '-inf', oldest)
end
local since = '(' .. ARGV[4]
local uncharged = redis.call('ZCOUNT', KEYS[2], since, '+inf')
return { redis.call('ZCARD', KEYS[1]), now, redis.call('ZCOUNT', KEYS[1], since, '+inf') - uncharged }
