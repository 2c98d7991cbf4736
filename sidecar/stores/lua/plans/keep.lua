-- keep: keep a plan file, or note that it is still live.
-- Guarantee: atomic; the newest plan file always stays; the others stay within their time and size; only Redis time is used.
-- KEYS[1]  plan files by version, a hash: compressed texts
-- KEYS[2]  when each version was last live, a sorted set (µs)
-- ARGV[1]  version of the plan file
-- ARGV[2]  text of it, compressed; "" if it should be there
-- ARGV[3]  ttl_ms: TTL after this write, also of a version that is not live any more, milliseconds
-- ARGV[4]  most_bytes: maximum size of all texts; the versions that were live the longest ago go first
-- Returns {1 kept | 0 it is not there, now_us}.
local texts, live, now = KEYS[1], KEYS[2], now_us()
if ARGV[2] ~= '' then
  redis.call('HSET', texts, ARGV[1], ARGV[2])
elseif redis.call('HSTRLEN', texts, ARGV[1]) == 0 then
  return { 0, now }
end
redis.call('ZADD', live, int(now), ARGV[1])
local all, total = redis.call('ZRANGE', live, 0, -1, 'WITHSCORES'), 0
for k = #all - 1, 1, -2 do
  local version, at = all[k], tonumber(all[k + 1])
  total = total + redis.call('HSTRLEN', texts, version)
  if version ~= ARGV[1] and (total > tonumber(ARGV[4]) or now - at > tonumber(ARGV[3]) * 1000) then
    redis.call('HDEL', texts, version)
    redis.call('ZREM', live, version)
  end
end
redis.call('PEXPIRE', texts, ARGV[3])
redis.call('PEXPIRE', live, ARGV[3])
return { 1, now }
