-- beat: this sidecar is alive; how many are, and how many of them owe nothing.
-- Guarantee: atomic; what nobody renews is gone after its lifetime; only Redis time is used.
-- KEYS[1]  the sidecars that are alive, a sorted set: id, when it was last heard of (µs)
-- KEYS[2]  those of them that owe charges, a sorted set: the same
-- ARGV[1]  id of this sidecar
-- ARGV[2]  state: "charged", "uncharged" or "leaving"
-- ARGV[3]  lifetime_us: how long one that is not heard of counts as alive
-- ARGV[4]  since_us: of the ready ones only those count that were heard of after this, Redis time
-- Returns {how many are alive, now_us, ready}; ready: how many of them owe nothing.
local now = now_us()
local gone, ttl = int(now - tonumber(ARGV[3])), ceil(tonumber(ARGV[3]) / 1000)
local known = { true, ARGV[2] == 'uncharged' }
for k, name in ipairs(KEYS) do
  -- What takes memory comes first: without any left, that is what Redis refuses.
  if known[k] and ARGV[2] ~= 'leaving' then
    redis.call('ZADD', name, int(now), ARGV[1])
    redis.call('PEXPIRE', name, ttl)
  else
    redis.call('ZREM', name, ARGV[1])
  end
  redis.call('ZREMRANGEBYSCORE', name, '-inf', gone)
end
local since = '(' .. ARGV[4]
local owing = redis.call('ZCOUNT', KEYS[2], since, '+inf')
return { redis.call('ZCARD', KEYS[1]), now, redis.call('ZCOUNT', KEYS[1], since, '+inf') - owing }
