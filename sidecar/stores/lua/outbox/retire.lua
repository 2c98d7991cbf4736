-- retire: forget an account with an empty outbox, unless it was announced a short time ago.
-- Guarantee: atomic; a change that was announced a short time ago finds its account listed; only Redis time is used.
-- KEYS[1]  accounts with an outbox, a sorted set: last announcement (µs)
-- ARGV[1]  account that was found without records
-- ARGV[2]  grace_us: an announcement that is younger stays
-- Returns {1 forgotten | 0 kept, now_us}.
local now, announced = now_us(), redis.call('ZSCORE', KEYS[1], ARGV[1])
if not announced or now - tonumber(announced) < tonumber(ARGV[2]) then return { 0, now } end
redis.call('ZREM', KEYS[1], ARGV[1])
return { 1, now }
