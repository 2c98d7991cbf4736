-- One token bucket on Redis time, as it is usually written for nginx.
-- KEYS[1] bucket; ARGV[1] units per second; ARGV[2] burst. Returns 1 (allowed) or 0.
local now = redis.call('TIME')
local us = now[1] * 1000000 + now[2]
local state = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local rate, burst = tonumber(ARGV[1]), tonumber(ARGV[2])
local tokens = tonumber(state[1]) or burst
tokens = math.min(burst, tokens + math.max(0, us - (tonumber(state[2]) or us)) * rate / 1000000)
local allowed = tokens >= 1 and 1 or 0
redis.call('HSET', KEYS[1], 'tokens', tokens - allowed, 'at', us)
redis.call('EXPIRE', KEYS[1], 60)
return allowed
