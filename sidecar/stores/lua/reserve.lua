-- reserve: grant all claims of one request, or none.
-- Guarantee: atomic; a refusal writes nothing; only Redis time is used; a missing TTL is repaired.
-- KEYS[1]  the account's state, a hash
-- ARGV[1]  ttl_ms: how long the state is kept after this write, milliseconds
-- ARGV[2…] groups of 8, one per claim:
--   kind    "rate" or "quota"
--   field   names the limit (and the key, for limits per key) inside the hash
--   cost    micro-units for rates, units for quotas
--   forced  "1": count it even beyond the cap
--   cap     burst in micro-units, or the quota's cap in units
--   a, b, c rates: a micro-units come back every b µs, c is 0; quotas: start, end, next end in µs
-- Returns {1 granted | 0 refused, now_us, used, end_us, used, end_us, …}; used as of now (after the
--   grant), in the unit of cost; end_us is 0 for rates. {-1, now_us}: bounds do not hold now.
local now = now_us()
local claims, granted = survey(KEYS[1], now)
if not claims then return { -1, now } end
local reply = { granted and 1 or 0, now }
local writes = {}
for _, claim in ipairs(claims) do
  local used = claim[3]
  if granted then
    used = math.min(used + claim[5], 9007199254740991)
    writes[#writes + 1] = claim[1]
    writes[#writes + 1] = used
    writes[#writes + 1] = claim[2]
    writes[#writes + 1] = claim[4]
  end
  reply[#reply + 1] = used
  reply[#reply + 1] = claim[6]
end
if granted then
  redis.call('HSET', KEYS[1], unpack(writes))
  local ttl = tonumber(ARGV[1])
  if redis.call('PTTL', KEYS[1]) < ttl - 60000 then redis.call('PEXPIRE', KEYS[1], ttl) end
end
return reply
