-- peek: what reserve would answer now.
-- Guarantee: changes nothing; only Redis time is used.
-- KEYS[1]  the account's state, a hash
-- ARGV[1]  ttl_ms: not used here; the arguments are those of reserve
-- ARGV[2…] groups of 8, one per claim, as for reserve
-- Returns {1 would grant | 0 would refuse, now_us, used, end_us, …}; used as of now, without the cost.
--   {-1, now_us}: bounds do not hold now.
local now = now_us()
local claims, granted = survey(KEYS[1], now)
if not claims then return { -1, now } end
local reply = { granted and 1 or 0, now }
for _, claim in ipairs(claims) do
  reply[#reply + 1] = claim[3]
  reply[#reply + 1] = claim[6]
end
return reply
