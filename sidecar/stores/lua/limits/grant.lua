-- grant: add extra units to a quota, once, and record that for the event.
-- Guarantee: atomic; once per id, however often it runs; only Redis time is used.
-- KEYS[1]  the account's state, a hash
-- KEYS[2]  its outbox, a list of records: instant (µs), end (µs), body
-- ARGV[1]  ttl_ms: TTL of the state after this write, milliseconds
-- ARGV[2]  id of the grant
-- ARGV[3]  field: of the limit (with the key, for limits per key) in the hash
-- ARGV[4]  units of the grant
-- ARGV[5]  priority: grants of lower numbers are used first
-- ARGV[6]  most: maximum number of grants of an account
-- ARGV[7]  body of the record
-- ARGV[8]  outbox_ttl_ms: TTL of the outbox, milliseconds
-- ARGV[9]  meter: number of the meter, see sidecar/core/counting/counts.py; 0: any
-- ARGV[10] lasts: "at", "for" or "period"
-- ARGV[11…] a, b, c  at: the end in µs; for: microseconds from now; period: start, end, next end in µs
-- Returns {1 granted | 0 was granted before | -2 too many | -3 the id is that of another pack, now_us, expires_us}.
--   {-1, now_us}: now is outside the bounds.
local key, now = KEYS[1], now_us()
local grants, kept = rare().read_grants(redis.call('HGET', key, 'grants')), {}
for _, g in ipairs(grants) do
  if g.id == ARGV[2] then
    local same = g.field == ARGV[3] and g.units == tonumber(ARGV[4]) and (g.meter == 0 or g.meter == tonumber(ARGV[9]))
    same = same and (ARGV[10] ~= 'at' or g.expires == tonumber(ARGV[11]))
    return { same and 0 or -3, now, g.expires }
  end
  if g.expires + KEPT_US > now then kept[#kept + 1] = g end
end
local expires = tonumber(ARGV[11])
if ARGV[10] == 'for' then expires = now + expires end
if ARGV[10] == 'period' then
  local b, c = tonumber(ARGV[12]), tonumber(ARGV[13])
  if now < expires or now >= c then return { -1, now } end
  expires = now >= b and c or b
end
if #kept >= tonumber(ARGV[6]) then return { -2, now, 0 } end
kept[#kept + 1] = {
  id = ARGV[2], field = ARGV[3], units = tonumber(ARGV[4]), used = 0, expires = expires, priority = tonumber(ARGV[5]),
  meter = tonumber(ARGV[9]),
}
table.sort(kept, function(x, y)
  if x.priority ~= y.priority then return x.priority < y.priority end
  if x.expires ~= y.expires then return x.expires < y.expires end
  return x.id < y.id
end)
redis.call('HSET', key, 'grants', rare().write_grants(kept))
rare().keep(key, max(tonumber(ARGV[1]), ceil((expires + KEPT_US - now) / 1000)))
redis.call('RPUSH', KEYS[2], int(now) .. ' ' .. int(expires) .. ' ' .. ARGV[7])
redis.call('PEXPIRE', KEYS[2], ARGV[8])
return { 1, now, expires }
