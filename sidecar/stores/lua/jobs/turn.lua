-- turn: say when something is due next.
-- Guarantee: atomic; what others have changed meanwhile stays; only Redis time is used.
-- KEYS[1]  a sorted set: who, when it is due (µs)
-- ARGV[1]  who: of the set
-- ARGV[2]  seen: changed only if it is due then (µs); "sooner": only to an earlier instant, or if it is not there;
-- "there": only if it is there; "any": whatever is there
-- ARGV[3]  in_us: from now; negative: it is taken out
-- ARGV[4]  ttl_ms: how long the set is kept after this write, milliseconds
-- Returns {1 changed | 0 left alone, now_us}
local key, who, seen, now = KEYS[1], ARGV[1], ARGV[2], now_us()
local score = tonumber(redis.call('ZSCORE', key, who) or nil)
local at = now + tonumber(ARGV[3])
local change
if seen == 'sooner' then
  change = not score or at < score
elseif seen == 'there' then
  change = score ~= nil
elseif seen == 'any' then
  change = true
else
  change = score == tonumber(seen)
end
if not change then return { 0, now } end
if tonumber(ARGV[3]) < 0 then
  redis.call('ZREM', key, who)
else
  redis.call('ZADD', key, int(at), who)
  redis.call('PEXPIRE', key, ARGV[4])
end
return { 1, now }
