-- refund: give back what one reservation took that is not held, when nobody waited for its answer.
-- Guarantee: atomic; nothing falls below zero; a quota's period that began after the charge is left alone; only Redis time is used.
-- KEYS[1]  the account's state, a hash
-- ARGV[1]  ttl_ms: how long the state is kept after this write, milliseconds
-- ARGV[2]  claims: how many there are
-- ARGV[3…] groups of 5, one per claim, as for reserve
-- and after them:
--   charged_us when the reservation was made, Redis time in microseconds
-- Returns {1 refunded, now_us, used, end_us, …}; as reserve, used after the refund.
--   {-1, now_us}: bounds do not hold now.
local now = now_us()
local claims, _, grants = survey(KEYS[1], now)
if not claims then return { -1, now } end
local charged = tonumber(ARGV[FIRST + #claims * GROUP])
for _, claim in ipairs(claims) do
  if claim.kind ~= 'quota' then
    claim.used = max(claim.used - claim.cost, 0)
  elseif claim.since <= charged then
    rare().give_back(claim, claim.cost)
  end
end
-- Without the key there is nothing to give back, and nothing is written that had no TTL.
if redis.call('EXISTS', KEYS[1]) == 1 then store(KEYS[1], claims, grants, now) end
return reply(1, now, claims)
