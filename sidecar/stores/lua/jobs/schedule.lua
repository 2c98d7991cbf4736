-- schedule: set when a member of a set is due, or remove it.
-- Guarantee: atomic; a change that another sidecar has made stays; only Redis time is used.
-- KEYS[1]  a sorted set: member, instant at which it is due (µs)
-- ARGV[1]  member: of the set
-- ARGV[2]  when: condition of the change: an instant (µs): it is due then; "sooner": to an earlier instant or as a new
--   member; "present": it is a member; "any": always
-- ARGV[3]  in_us: span from now until it is due; negative: remove it
-- ARGV[4]  ttl_ms: time to live of the set after this write, milliseconds
-- Returns {1 changed | 0 unchanged, now_us}
local key, member, when, now = KEYS[1], ARGV[1], ARGV[2], now_us()
local score = tonumber(redis.call('ZSCORE', key, member) or nil)
local at = now + tonumber(ARGV[3])
local change
if when == 'sooner' then
  change = not score or at < score
elseif when == 'present' then
  change = score ~= nil
elseif when == 'any' then
  change = true
else
  change = score == tonumber(when)
end
if not change then return { 0, now } end
if tonumber(ARGV[3]) < 0 then
  redis.call('ZREM', key, member)
else
  redis.call('ZADD', key, int(at), member)
  redis.call('PEXPIRE', key, ARGV[4])
end
return { 1, now }
