-- refund: give back what one reservation took, when nobody waited for its answer.
-- Guarantee: atomic; nothing falls below zero; a quota's period that began after the charge is left alone.
-- KEYS[1]  the account's state, a hash
-- ARGV[1]  charged_us: when the reservation was made, Redis time in microseconds
-- ARGV[2…] groups of 8, one per claim, as for reserve
-- Returns {1 refunded, now_us, used, end_us, …}; used as of now, after the refund.
--   {-1, now_us}: bounds do not hold now.
local now = now_us()
local claims = survey(KEYS[1], now)
if not claims then return { -1, now } end
local charged = tonumber(ARGV[1])
local reply = { 1, now }
local writes = {}
for _, claim in ipairs(claims) do
  local used = claim[3]
  if claim[6] == 0 or claim[4] <= charged then
    used = math.max(used - claim[5], 0)
    writes[#writes + 1] = claim[1]
    writes[#writes + 1] = used
    writes[#writes + 1] = claim[2]
    writes[#writes + 1] = claim[4]
  end
  reply[#reply + 1] = used
  reply[#reply + 1] = claim[6]
end
-- Without the key there is nothing to give back, and nothing is written that had no TTL.
if #writes > 0 and redis.call('EXISTS', KEYS[1]) == 1 then redis.call('HSET', KEYS[1], unpack(writes)) end
return reply
