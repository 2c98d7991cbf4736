-- refund: undo a reservation without an id that was granted after its request had given up waiting.
-- Guarantee: atomic; nothing falls below zero; a quota's period that started after the charge stays unchanged; only Redis time is used.
-- KEYS[1]  the account's state, a hash
-- ARGV[1]  ttl_ms: TTL of the state after this write, milliseconds
-- ARGV[2]  claims: number of claims
-- ARGV[3…] groups of 5, one per claim, as for reserve
-- and after them:
--   charged_us time of the reservation, Redis time in microseconds
--   reported     one for each claim: the overage that the reply to the reservation had
-- Returns {1 refunded, now_us, used, end_us, …}; as reserve, used after the refund.
--   {-1, now_us}: now is outside the bounds.
local now = now_us()
local claims, _, grants = survey(KEYS[1], now)
if not claims then return { -1, now } end
local at = FIRST + #claims * GROUP
local charged = tonumber(ARGV[at])
for k, claim in ipairs(claims) do
  if claim.kind ~= 'quota' then
    claim.used = max(claim.used - claim.cost, 0)
  else
    if claim.suspended then claim.starts = rare().starts_until(claim, charged) end
    claim.change = claim.since > charged and { -claim.cost, -claim.cost } or nil
  end
  if claim.kind == 'quota' and claim.since <= charged then
    if claim.settled then rare().uncount(claim, claim.cost, tonumber(ARGV[at + k])) end
    local returned = rare().give_back(claim, claim.cost, claim.units + claim.carried)
    if claim.settled then claim.settled = claim.settled + returned end
  end
end
-- Without the state there is nothing to undo, and a new key would have no TTL.
if redis.call('EXISTS', KEYS[1]) == 1 then store(KEYS[1], claims, grants, now) end
return reply(1, now, claims)
