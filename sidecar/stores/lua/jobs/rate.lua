-- rate: count a change that an account makes to its jobs, if its rate allows it.
-- Guarantee: atomic; a refused change does not count; only Redis time is used.
-- KEYS[1]  instant until which the account's changes fill its rate (µs)
-- ARGV[1]  per_minute: changes per minute, and at once
-- Returns {1 allowed | 0 refused, now_us, retry_us}; retry_us: span until a change is allowed.
local MINUTE, now = 60000000, now_us()
local full = math.max(now, tonumber(redis.call('GET', KEYS[1]) or 0)) + floor(MINUTE / tonumber(ARGV[1]))
if full > now + MINUTE then return { 0, now, full - now - MINUTE } end
redis.call('SET', KEYS[1], int(full), 'PX', 2 * MINUTE / 1000)
return { 1, now, 0 }
